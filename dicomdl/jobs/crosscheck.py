"""The check of pixels: frames decoded by dicomdl and by a second decoder, with every difference.

The second decoder parses the file itself, in a separate process (`second_decoder`), because
decoders abort, hang and return wrong pixels: GDCM (inside SimpleITK) aborts on damaged frames, and
pylibjpeg-libjpeg returns wrong pixels for truncated ones without an error. The death of the process
is a result. A difference names the two decoders that differ; it does not tell which is right.
Independence depends on the transfer syntax: every available JPEG 2000 decoder is a build of
OpenJPEG, and two builds of one library can be wrong together. The report names the relation.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from dicomdl.errors import UsageError
from dicomdl.index.text import counted, escaped, html_table
from dicomdl.jobs._comparison import Compared, Difference, Outcome, compare_frame
from dicomdl.jobs._decoder_pairs import Relation, first_name, relation
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.second_decoder import TIMEOUT_S, SecondReader
from dicomdl.printing import printable

if TYPE_CHECKING:
    from dicomdl.index.index import Index


# Frames per kind.
SAMPLE: Final = 4
SHOWN_DIFFERENCES: Final = 40
# Per outcome; further differences are only counted.
KEPT_DIFFERENCES: Final = 10_000
OUTCOMES: Final[tuple[Outcome, ...]] = (
    "equal",
    "within_rounding",
    "different",
    "only_one",
    "refused_by_both",
    "no_second_decoder",
)
_TITLES: Final = ("frames", "equal", "rounding", "different", "only one", "refused", "no second")
_FINE: Final = frozenset({"equal", "within_rounding", "no_second_decoder"})


@dataclass(frozen=True, slots=True)
class SyntaxCheck:
    """Counts of the frames of one transfer syntax, by outcome.

    Attributes
    ----------
    transfer_syntax_uid, name
        Transfer syntax, as UID and as keyword.
    first
        Name of the decoder of dicomdl.
    seconds
        Relation per second decoder that was used: "independent", "related" code, or a build of the
        "same library".
    frames
        Number of frames that were checked; the other counts add up to it.
    equal, within_rounding, different, only_one, refused_by_both, no_second_decoder
        Number of frames per outcome.
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
    """Result of decoding frames twice: a row per transfer syntax, and every frame that differs.

    Attributes
    ----------
    path, generation
        The index that was checked.
    frames
        Number of frames of the index.
    kinds
        Number of kinds that were sampled; 0 if every frame was checked.
    rows
        Counts per transfer syntax.
    differences
        Frames with values that are not equal, and frames that a decoder refused.
    unlisted
        Number of further differences per outcome, counted in `rows` but not listed.
    """

    path: str
    generation: str
    frames: int
    kinds: int
    rows: tuple[SyntaxCheck, ...]
    differences: tuple[Difference, ...]
    unlisted: Mapping[str, int]

    @property
    def checked(self) -> int:
        """Number of frames that were checked."""
        return sum(row.frames for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether there are frames, all values equal within rounding, and no decoder refused one.

        Frames without a second decoder do not count against it.
        """
        return bool(self.rows) and not any(
            row.different or row.only_one or row.refused_by_both for row in self.rows
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
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
        """Format the table and the differences for a terminal.

        Parameters
        ----------
        everything
            List all differences, also those within rounding. By default the list has the first 40
            that are larger than rounding.
        """
        lines = [self._headline(), *_table(self.rows)]
        listed = [d for d in self.differences if everything or d.outcome not in _FINE]
        for difference in listed if everything else listed[:SHOWN_DIFFERENCES]:
            outcome = difference.outcome.replace("_", " ")
            lines += [
                f"    {outcome:<16} {difference.path}, frame {difference.frame_number}",
                f"    {'':<16} {difference.what}",
            ]
        left = len(listed) - SHOWN_DIFFERENCES
        if not everything and left > 0:
            lines.append(f"    ... and {left:,} more: --all, or `check.differences`")
        lines += [f"    {each}" for each in self._unlisted()]
        return "\n".join(
            printable(line) for line in [*lines, *_notes(self.rows), f"  in {self.path}"]
        )

    def _headline(self) -> str:
        if not self.rows:
            return "Pixels: there is no frame to decode"
        bad = sum(row.different + row.only_one + row.refused_by_both for row in self.rows)
        sampled = f", a sample of {counted(self.kinds, 'kinds')}" if self.kinds else ""
        needs = "needs" if bad == 1 else "need"
        verdict = f"{bad:,} {needs} a person" if bad else "no difference beyond rounding"
        return (
            f"Pixels: {self.checked:,} of {self.frames:,} frames decoded twice{sampled}; {verdict}"
        )

    def _unlisted(self) -> list[str]:
        rest = [f"{n:,} {outcome.replace('_', ' ')}" for outcome, n in self.unlisted.items()]
        return [f"counted, but not listed: {', '.join(rest)}"] if rest else []

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return _html(self)


def _html(check: PixelCheck) -> str:
    """Format the result for a notebook: a table of counts, and one of differences."""
    cells = [
        [
            row.name,
            *(f"{n:,}" for n in (row.frames, *(getattr(row, outcome) for outcome in OUTCOMES))),
            f"{row.first} against {_seconds(row)}",
        ]
        for row in check.rows
    ]
    titles = ["transfer syntax", *_TITLES, "decoders"]
    table = html_table(titles, cells, right=range(1, len(titles) - 1))
    listed = [each for each in check.differences if each.outcome not in _FINE]
    shown = [
        [each.outcome.replace("_", " "), f"{each.frame_number}", each.path, each.what]
        for each in listed[:SHOWN_DIFFERENCES]
    ]
    differences = html_table(["outcome", "frame", "path", "difference"], shown) if shown else ""
    left = len(listed) - len(shown)
    notes = [*([f"... and {left:,} more"] if left else []), *check._unlisted(), *_notes(check.rows)]
    foot = "".join(f"<p>{escaped(note)}</p>" for note in notes)
    return f"<div><p>{escaped(check._headline())}</p>{table}{differences}{foot}</div>"


def _seconds(row: SyntaxCheck) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in row.seconds.items()) or "none"


def _table(rows: Iterable[SyntaxCheck]) -> list[str]:
    lines = [f"  {'transfer syntax':<30}" + "".join(f"{title:>10}" for title in _TITLES)]
    for row in rows:
        numbers = (row.frames, *(getattr(row, outcome) for outcome in OUTCOMES))
        lines.append(f"  {row.name[:29]:<30}" + "".join(f"{number:>10,}" for number in numbers))
        lines.append(f"    {row.first} against {_seconds(row)}")
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
        [f"  {counted(without, 'frames')} had no second decoder: decoded once only"]
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

    The first decoder is the one that dicomdl uses for reading. The second one parses the file
    itself, in a separate process. Stored values are compared, before rescale. dicomdl may fall back
    on another decoder than its first; the reported relation is that of the first.

    Parameters
    ----------
    index
        The index with the frames.
    sample
        Number of frames per kind (transfer syntax, bits, samples, photometric interpretation, SOP
        class, manufacturer, ...), spread over stacks; None for every frame.
    seed
        Seed of the choice of frames.
    timeout_s
        Limit in seconds for the second decoder, per frame. A decoder that exceeds it is stopped,
        and this is the result. The start of its process does not count.
    progress
        Show a progress bar on a terminal.

    Returns
    -------
    PixelCheck
        The counts per transfer syntax, and the differences.

    Raises
    ------
    UsageError
        `sample` or `timeout_s` is not positive.
    StorageError
        No second process can be started.
    """
    if sample is not None and sample < 1:
        raise UsageError(
            f"sample is {sample}: expected at least 1 frame per kind, or None for all frames",
            sample=sample,
        )
    if not timeout_s > 0:
        raise UsageError(
            f"timeout_s is {timeout_s}: expected a positive number", timeout_s=timeout_s
        )
    numbers, kinds = (range(len(index)), 0) if sample is None else sampled(index, sample, seed)
    tally = _Tally()
    with SecondReader(timeout_s) as reader:
        for number in progress_bar(
            numbers,
            unit="frame",
            desc="decoding twice",
            shown=progress,
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
    """Counts of outcomes per transfer syntax, and the differences.

    The list of differences is bounded, so that a million of them do not fill the memory.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}
        self.seconds: dict[str, dict[str, Relation]] = {}
        self.differences: list[Difference] = []
        self.kept: Counter[str] = Counter()
        self.unlisted: Counter[str] = Counter()

    def add(self, compared: Compared) -> None:
        """Count one frame."""
        difference = compared.difference
        uid, outcome = difference.transfer_syntax_uid, difference.outcome
        self.outcomes.setdefault(uid, Counter())[outcome] += 1
        used = self.seconds.setdefault(uid, {})
        if compared.second is not None:
            used[compared.second.name] = relation(compared.second, uid)
        if outcome in ("equal", "no_second_decoder"):
            return
        if self.kept[outcome] < KEPT_DIFFERENCES:
            self.kept[outcome] += 1
            self.differences.append(difference)
        else:
            self.unlisted[outcome] += 1

    def rows(self) -> tuple[SyntaxCheck, ...]:
        """Return one row per transfer syntax, ordered by UID."""
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


# --- the choice of frames -------------------------------------------------------------------------

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
_POSITION: Final = ("series_instance_uid", "position_in_stack")


def sampled(index: "Index", sample: int, seed: int = 0) -> tuple[list[int], int]:
    """Return (numbers of `sample` frames per kind, ascending; the number of kinds).

    Each stack of a kind gives one frame before any gives a second.
    """
    kinds: dict[tuple[Any, ...], dict[int, list[int]]] = {}
    stack, before = 0, ("", -1)
    for number in range(len(index)):
        facts = index.facts(number, (*_KIND, *_POSITION))
        series, position = here = (facts["series_instance_uid"], facts["position_in_stack"])
        # Frames are sorted by stack and slice; a copy is outside all stacks.
        if series != before[0] or position <= before[1]:
            stack += 1
        before = here
        # The kind of a mosaic does not depend on its size.
        kind = tuple(facts[name] if name != "coded_rows" else facts[name] > 0 for name in _KIND)
        kinds.setdefault(kind, {}).setdefault(stack, []).append(number)
    chosen: list[int] = []
    for kind, stacks in kinds.items():
        chosen += _spread(list(stacks.values()), sample, random.Random(f"{seed}|{kind!r}"))
    return sorted(chosen), len(kinds)


def _spread(stacks: list[list[int]], sample: int, chance: random.Random) -> list[int]:
    """Choose `sample` numbers from as many stacks as possible, one per stack and round."""
    some = chance.sample(stacks, min(len(stacks), sample))
    shuffled = [chance.sample(members, min(len(members), sample)) for members in some]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*shuffled))
    return list(itertools.islice((number for number in rounds if number is not None), sample))
