"""The whole way of a file: scan, check, reprs, values, volumes, data sets, labels, pickles.

Each step may end in an error of dicomdl. Any other exception is an escape, and is collected with
the step and the line that raised it. So is a text with characters that command a terminal, in what
a step returns, in its error or in a warning.
"""

import io
import pickle  # our own bytes, made a line before
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dicomdl
from dicomdl.cli._output import print_text
from dicomdl.errors import DicomdlError, is_facts_line
from dicomdl.index.listing import as_csv, as_text, listing

POLICIES = ("raise", "accept", "resample")
# Small: a mutant may claim much, and the step must end in an error at once.
MOST_BYTES = 1 << 26


class Way:
    """The outcomes of the steps of one or more scans, and the escapes.

    Attributes
    ----------
    outcomes
        Number of steps per step and outcome: "fine", or the class of the error.
    escapes
        Descriptions of exceptions that are no errors of dicomdl, and of unprintable texts.
    scan_s
        CPU seconds of the first scan of the last walk.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.escapes: list[str] = []
        self.scan_s = 0.0

    def take(self, step: str, do: Callable[[], Any]) -> Any:
        """Do one step and return its value; None if it raised."""
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                value = do()
        except DicomdlError as error:
            self.outcomes[step, type(error).__name__] += 1
            self.judge(f"{step}: error", "\n".join([str(error), *notes_of(error)]))
            return None
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.escapes.append(
                f"{step}: {type(error).__name__}: {error} ({Path(last.filename).name}, "
                f"line {last.lineno})"
            )
            return None
        self.outcomes[step, "fine"] += 1
        for text in [value] * isinstance(value, str) + [str(each.message) for each in told]:
            self.judge(step, text)
        return value

    def judge(self, step: str, text: str) -> None:
        """Collect a text that commands a terminal or a browser, or is no UTF-8."""
        bad = sorted({c for c in text.replace("\n", "") if not c.isprintable()})
        bad += [
            tag for tag in ("<script", "<img") if tag in text and text.startswith(("<p", "<div"))
        ]
        if bad:
            self.escapes.append(f"{step}: prints {bad} in {text[:200]!r}")

    def walk(self, folder: Path, out: Path) -> dicomdl.Index | None:
        """Take all steps for the files below a folder."""
        start = time.process_time()
        index = self.take("scan", lambda: dicomdl.scan(folder, out, progress=False, workers=1))
        self.scan_s = time.process_time() - start
        if index is None:
            return None
        self.follow(index)
        self.take("second scan", lambda: dicomdl.scan(folder, out, progress=False, workers=1))
        return index  # type: ignore[no-any-return]

    def follow(self, index: dicomdl.Index) -> None:
        """Take all steps of an index."""
        self._describe(index)
        for stack in index.stacks:
            self._read(stack)
        for group in self.take("groups", lambda: list(index.groups)) or ():
            self.take("group", lambda group=group: repr(group))
            self.take("read group", lambda group=group: volume(group, "accept"))
        for number in _few(len(index)):
            self.take("frame", lambda number=number: dicomdl.read_frame(index.frame(number)))
            self.take("frame repr", lambda number=number: repr(index.frame(number)))
        self._train(index)

    def _describe(self, index: dicomdl.Index) -> None:
        for name, text in {
            "repr": lambda: repr(index),
            "html": index._repr_html_,
            "check": lambda: repr(index.check()),
            "check html": lambda: index.check()._repr_html_(),
            "problems": lambda: repr(index.problems) + "".join(map(repr, index.problems)),
            "problems html": index.problems._repr_html_,
            "annotations": lambda: "".join(map(repr, index.annotations)),
            "studies": lambda: "".join(map(repr, [*index.studies, *index.series])),
            "stacks": lambda: repr(index.stacks) + "".join(map(repr, index.stacks)),
            "pickle": lambda: repr(pickle.loads(pickle.dumps(index))),
            "split": lambda: repr(index.split((0.5, 0.5))),
            "split html": lambda: index.split((0.5, 0.5), stratify="modality")._repr_html_(),
            "audit": lambda: repr(index.audit(*index.split((0.5, 0.5)))),
            "csv": lambda: print_text(as_csv(listing(index, patient_ids=True)), io.StringIO()),
            "list": lambda: as_text(listing(index, dates=True, patient_ids=True)),
            "select": lambda: index.select(modality="CT", min_slices=1),
            "patients": lambda: index.counts,
            **{
                f"to_pandas({table!r})": lambda table=table: index.to_pandas(table)
                for table in ("frames", "files", "stacks", "problems")
            },
        }.items():
            self.take(name, text)

    def _read(self, stack: dicomdl.Stack) -> None:
        self.take("geometry", lambda: (stack.affine, stack.spacing, stack.positions, stack.detail))
        self.take("pickle stack", lambda: repr(pickle.loads(pickle.dumps(stack))))
        for policy in POLICIES:
            self.take(f"volume {policy}", lambda policy=policy: repr(volume(stack, policy)))
        self.take(
            "volume file window", lambda: dicomdl.read_volume(stack, max_bytes=MOST_BYTES).window()
        )
        for each in self.take("annotations", lambda: stack.annotations) or ():
            self.take(f"labels {each.kind}", lambda each=each: dicomdl.read_labels(stack, each))

    def _train(self, index: dicomdl.Index) -> None:
        for name, dataset in {
            "frames": lambda: dicomdl.FrameDataset(
                index, content=None, on_error="skip", max_bytes=MOST_BYTES
            ),
            "volumes": lambda: dicomdl.VolumeDataset(
                index, content=None, irregular="accept", on_error="skip", max_bytes=MOST_BYTES
            ),
            "patches": lambda: dicomdl.PatchDataset(
                index, size=(1, 4, 4), content=None, on_error="skip", max_bytes=MOST_BYTES
            ),
        }.items():
            made = self.take(f"make {name}", dataset)
            if made is None:
                continue
            self.take(f"pickle {name}", lambda made=made: len(pickle.dumps(made)))
            for number in _few(len(made)):
                self.take(f"item of {name}", lambda made=made, number=number: made[number])


def volume(stack: Any, policy: str) -> Any:
    return dicomdl.read_volume(stack, irregular=policy, max_bytes=MOST_BYTES)


def notes_of(error: BaseException) -> list[str]:
    return [note for note in getattr(error, "__notes__", ()) if not is_facts_line(note)]


def _few(count: int) -> Iterator[int]:
    yield from range(0, count, max(1, count // 50))
