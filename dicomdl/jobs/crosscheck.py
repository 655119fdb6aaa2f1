"""Frames decoded twice, by dicomdl and by a reader that parses the file itself.

Every difference is listed.

The second reader runs in a process of its own (`second_decoder`), because decoders abort, hang and
return wrong pixels: GDCM (inside SimpleITK) aborts on damaged frames, pylibjpeg-libjpeg returns
wrong pixels for truncated ones without an error. The death of the process is a result. A difference
states which two decoders differ, not which is right. How independent the two are depends on the
transfer syntax: every JPEG 2000 decoder available is a build of OpenJPEG, and two builds of one
library can be wrong together. The report states that.
"""

import itertools
import random
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

from dicomdl.errors import UsageError
from dicomdl.index.text import printable
from dicomdl.jobs.second_decoder import TIMEOUT_S, SecondReader

if TYPE_CHECKING:
    from dicomdl.index.index import Index
from dicomdl.jobs._comparison import Compared, Difference, Outcome, compare_frame
from dicomdl.jobs._decoder_pairs import Relation, first_name, relation

SAMPLE: Final = 4  # frames of each kind
SHOWN_DIFFERENCES: Final = 40
KEPT_DIFFERENCES: Final = 10_000  # of each outcome; more are only counted
OUTCOMES: Final[tuple[Outcome, ...]] = (
    "equal",
    "within_rounding",
    "different",
    "only_one",
    "refused_by_both",
    "no_second_decoder",
)
_FINE: Final = frozenset({"equal", "within_rounding", "no_second_decoder"})


@dataclass(frozen=True, slots=True)
class SyntaxCheck:
    """The frames of one transfer syntax: how many were decoded twice, and what came of it.

    `seconds` names each second decoder that was used and whether it is "independent", "related"
    code or a build of the "same library".
    """

    transfer_syntax_uid: str
    name: str
    first: str
    seconds: Mapping[str, Relation]
    frames: int
    equal: int
    within_rounding: int
    different: int
    only_one: int
    refused_by_both: int
    no_second_decoder: int


@dataclass(frozen=True, slots=True, repr=False)
class PixelCheck:
    """The result of decoding twice: a row per transfer syntax, and every frame that is not equal.

    `ok` when no decoders differ beyond rounding and no frame was refused by either. Frames without
    a second decoder are counted, not held against it.
    """

    path: str
    generation: str
    frames: int  # of the index
    kinds: int  # 0 when every frame was checked
    rows: tuple[SyntaxCheck, ...]
    differences: tuple[Difference, ...]
    # differences that are counted above, but too many to be kept, by outcome
    unlisted: Mapping[str, int]

    @property
    def checked(self) -> int:
        """How many frames were looked at."""
        return sum(row.frames for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether no frame needs a person."""
        return not any(row.different or row.only_one or row.refused_by_both for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "index": self.path,
            "generation": self.generation,
            "ok": self.ok,
            "frames": self.frames,
            "checked": self.checked,
            "kinds": self.kinds,
            "transfer_syntaxes": [asdict(row) for row in self.rows],
            "differences": [asdict(difference) for difference in self.differences],
            "unlisted": dict(self.unlisted),
        }

    def text(self, everything: bool = False) -> str:
        """For a terminal: the table, and the differences that need a person.

        With `everything` those of rounding, too.
        """
        told = [self._headline(), *_table(self.rows)]
        listed = [d for d in self.differences if everything or d.outcome not in _FINE]
        for difference in listed if everything else listed[:SHOWN_DIFFERENCES]:
            told += [
                f"    {difference.outcome.replace('_', ' '):<16} {difference.path}, frame {difference.frame_number}",
                f"    {'':<16} {difference.what}",
            ]
        left = len(listed) - SHOWN_DIFFERENCES
        if not everything and left > 0:
            told.append(f"    ... and {left:,} more: --all, or `check.differences`")
        if rest := ", ".join(
            f"{n:,} {outcome.replace('_', ' ')}" for outcome, n in self.unlisted.items()
        ):
            told.append(f"    counted, but not listed: {rest}")
        return "\n".join(
            printable(line) for line in [*told, *_notes(self.rows), f"  in {self.path}"]
        )

    def _headline(self) -> str:
        bad = sum(row.different + row.only_one + row.refused_by_both for row in self.rows)
        sampled = f", a sample of {self.kinds:,} kinds" if self.kinds else ""
        verdict = f"{bad:,} need a person" if bad else "no difference beyond rounding"
        return (
            f"Pixels: {self.checked:,} of {self.frames:,} frames decoded twice{sampled}; {verdict}"
        )

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text())}</pre>"


def _table(rows: Iterable[SyntaxCheck]) -> list[str]:
    titles = ("frames", "equal", "rounding", "different", "only one", "refused", "no second")
    lines = [f"  {'transfer syntax':<30}" + "".join(f"{title:>10}" for title in titles)]
    for row in rows:
        numbers = (row.frames, *(getattr(row, outcome) for outcome in OUTCOMES))
        lines.append(f"  {row.name[:29]:<30}" + "".join(f"{number:>10,}" for number in numbers))
        seconds = ", ".join(f"{name} ({kind})" for name, kind in row.seconds.items()) or "none"
        lines.append(f"    {row.first} against {seconds}")
    return lines if len(lines) > 1 else []


def _notes(rows: Sequence[SyntaxCheck]) -> list[str]:
    kinds = {kind for row in rows for kind in row.seconds.values()}
    without = sum(row.no_second_decoder for row in rows)
    notes = (
        ["  same library: two builds of it agree even where both are wrong"]
        if "same library" in kinds
        else []
    )
    return notes + (
        [f"  {without:,} frame(s) were decoded once only: there is no second decoder for them"]
        if without
        else []
    )


# --- the check ------------------------------------------------------------------------------------


def check_pixels(
    index: "Index",
    *,
    sample: int | None = SAMPLE,
    seed: int = 0,
    timeout_s: float = TIMEOUT_S,
    progress: bool = True,
) -> PixelCheck:
    """Decode frames with two decoders and list every difference.

    The first is dicomdl's own way by the index, the second a reader that parses the file itself, in
    a process of its own. Stored values are compared, before any rescale. dicomdl may fall back on a
    decoder behind its first one; the relation speaks of the first one.

    Parameters
    ----------
    index
        Whose frames.
    sample
        How many frames of each kind (transfer syntax, bits, samples, photometric interpretation,
        SOP class, manufacturer, ...), spread over its stacks; None for every frame.
    seed
        Another seed takes other frames of each kind. The same one takes the same.
    timeout_s
        Seconds that the second reader may take for one frame before it is stopped, which is then
        the result. The start of its process does not count.
    progress
        Show a progress bar where there is a terminal.

    Raises
    ------
    UsageError
        `sample` or `timeout_s` is not positive.
    StorageError
        No second process can be started.
    """
    if sample is not None and sample < 1:
        raise UsageError(
            f"sample is {sample}; it is a number of frames a kind, at least 1, or None for all",
            sample=sample,
        )
    if not timeout_s > 0:
        raise UsageError(f"timeout_s is {timeout_s}; it is positive", timeout_s=timeout_s)
    numbers, kinds = (range(len(index)), 0) if sample is None else sampled(index, sample, seed)
    tally = _Tally()
    with warnings.catch_warnings():
        # In a notebook without ipywidgets tqdm warns, and shows a text bar.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    with SecondReader(timeout_s) as reader:
        for number in tqdm(
            numbers,
            unit="frame",
            desc="decoding twice",
            disable=None if progress else True,
            leave=False,
        ):
            tally.add(compare_frame(index.source(number), reader))
    return PixelCheck(
        path=index.path,
        generation=index.generation,
        frames=len(index),
        kinds=kinds,
        rows=tally.rows(),
        differences=tuple(tally.differences),
        unlisted=dict(tally.unlisted),
    )


class _Tally:
    """Counts outcomes by transfer syntax.

    Keeps so many differences that a million of rounding do not fill the memory.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}
        self.seconds: dict[str, dict[str, Relation]] = {}
        self.differences: list[Difference] = []
        self.kept: Counter[str] = Counter()
        self.unlisted: Counter[str] = Counter()

    def add(self, compared: "Compared") -> None:
        found = compared.difference
        uid = found.transfer_syntax_uid
        self.outcomes.setdefault(uid, Counter())[found.outcome] += 1
        used = self.seconds.setdefault(uid, {})
        if compared.second is not None:
            used[compared.second.name] = relation(compared.second, uid)
        if found.outcome in ("equal", "no_second_decoder"):
            return
        if self.kept[found.outcome] < KEPT_DIFFERENCES:
            self.kept[found.outcome] += 1
            self.differences.append(found)
        else:
            self.unlisted[found.outcome] += 1

    def rows(self) -> tuple[SyntaxCheck, ...]:
        return tuple(
            SyntaxCheck(
                transfer_syntax_uid=uid,
                name=_syntax_name(uid),
                first=first_name(uid),
                seconds=self.seconds[uid],
                frames=counts.total(),
                **{outcome: counts[outcome] for outcome in OUTCOMES},
            )
            for uid, counts in sorted(self.outcomes.items())
        )


def _syntax_name(uid: str) -> str:
    from pydicom.uid import UID

    return UID(uid).keyword or uid or "(none)"


# --- which frames ---------------------------------------------------------------------------------

_KIND: Final = (
    *(
        "transfer_syntax_uid",
        "bits_allocated",
        "bits_stored",
        "high_bit",
        "pixel_representation",
        "samples_per_pixel",
    ),
    *(
        "photometric_interpretation",
        "planar_configuration",
        "float_pixels",
        "deflated",
        "coded_rows",
        "sop_class_uid",
        "manufacturer",
    ),
)
_PLACE: Final = ("series_instance_uid", "position_in_stack")


def sampled(index: "Index", sample: int, seed: int = 0) -> tuple[list[int], int]:
    """(numbers of `sample` frames of each kind, ascending; how many kinds there are).

    A stack after the other, whole rounds first.
    """
    kinds: dict[tuple[Any, ...], dict[int, list[int]]] = {}
    stack, before = 0, ("", -1)
    for number in range(len(index)):
        facts = index.facts(number, (*_KIND, *_PLACE))
        series, position = place = (facts["series_instance_uid"], facts["position_in_stack"])
        # Frames are sorted by stack and slice; each copy is outside of every stack.
        if series != before[0] or position <= before[1]:
            stack += 1
        before = place
        # Of a mosaic it matters that it is one, not how large.
        kind = tuple(facts[name] if name != "coded_rows" else facts[name] > 0 for name in _KIND)
        kinds.setdefault(kind, {}).setdefault(stack, []).append(number)
    chosen: list[int] = []
    for kind, stacks in kinds.items():
        chosen += _spread(list(stacks.values()), sample, random.Random(f"{seed}|{kind!r}"))
    return sorted(chosen), len(kinds)


def _spread(stacks: list[list[int]], sample: int, chance: random.Random) -> list[int]:
    """`sample` numbers out of as many stacks as there are, one of each before a second of any."""
    some = chance.sample(stacks, min(len(stacks), sample))
    shuffled = [chance.sample(members, min(len(members), sample)) for members in some]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*shuffled))
    return list(itertools.islice((number for number in rounds if number is not None), sample))
