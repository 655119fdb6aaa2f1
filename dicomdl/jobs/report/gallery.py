"""The gallery: pictures of stacks as they come, put into sheets as soon as a sheet is full."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.jobs.report.drawing import Drawn
from dicomdl.jobs.report.sheets import PER_SHEET, Ranks, Sheet, css_colour, strip_of

# The largest number of units whose distributions are shown.
_MOST_UNITS: Final = 3


@dataclass(frozen=True, slots=True)
class LabelTable:
    """The labels of all stacks: titles, and rows with their colour."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The finished pictures of a report.

    Attributes
    ----------
    drawn
        {number of a stack: what was found}, without pixels.
    sheets
        {id: base64}.
    strips
        {number of a stack: slices of its slider, from 1}.
    colours
        {name of a label: CSS colour}.
    errors, label_errors
        {number: why there is no picture}, {number: why there are no labels}.
    """

    drawn: Mapping[int, Drawn]
    sheets: Mapping[str, str]
    strips: Mapping[int, list[int]]
    colours: Mapping[str, str]
    errors: Mapping[int, str]
    label_errors: Mapping[int, str]

    def by_units(self, numbers: Collection[int]) -> dict[str, list[Drawn]]:
        """Return the stacks with values by their units, the most frequent first."""
        held: dict[str, list[Drawn]] = {}
        for number, each in self.drawn.items():
            if each.percentiles and number in numbers:
                held.setdefault(each.units, []).append(each)
        most = sorted(held.items(), key=lambda pair: -len(pair[1]))
        return dict(most[:_MOST_UNITS])

    def label_table(self) -> LabelTable:
        """Return a row per kind and label: stacks with it, empty, missing, and volumes."""
        with_kind: dict[str, int] = {}
        volumes: dict[tuple[str, str], list[float | None]] = {}
        for each in self.drawn.values():
            if each.labels:
                with_kind[each.kind] = with_kind.get(each.kind, 0) + 1
            for name, ml in dict(each.labels).items():
                volumes.setdefault((each.kind, name), []).append(ml)
        rows = []
        for (kind, name), held in sorted(volumes.items(), key=lambda pair: (-len(pair[1]), pair)):
            known = [ml for ml in held if ml is not None]
            full = [ml for ml in known if ml > 0]
            rows.append(
                (
                    self.colours.get(name, "transparent"),
                    (
                        name,
                        kind,
                        f"{len(held):,}",
                        f"{len(known) - len(full):,}",
                        f"{with_kind[kind] - len(held):,}",
                        *(f"{f(full):.3g}" if full else "" for f in (min, np.median, max)),
                    ),
                )
            )
        titles = ("label", "kind", "stacks", "empty", "missing", "least ml", "median ml", "most ml")
        return LabelTable(titles, tuple(rows))


class Gallery:
    """Sheets that are filled by stacks in any order; only those that are not full have pixels.

    Parameters
    ----------
    numbers
        The numbers of the stacks, in the order of the report.
    side
        Pixels of a plane.
    """

    def __init__(self, numbers: Sequence[int], side: int) -> None:
        self._side = side
        self._place = {number: at for at, number in enumerate(numbers)}
        self._open: dict[int, Sheet] = {}
        self._left = [
            min(PER_SHEET, len(numbers) - first) for first in range(0, len(numbers), PER_SHEET)
        ]
        self._drawn: dict[int, Drawn] = {}
        self._sheets: dict[str, str] = {}
        self._strips: dict[int, list[int]] = {}
        self._ranks = Ranks()
        self._colours: dict[str, str] = {}

    def put(self, number: int, drawn: Drawn) -> None:
        """Take the pictures of one stack."""
        names = [name for name, _ in drawn.labels]
        ranks = self._ranks.of(names)
        self._colours |= {name: css_colour(rank) for name, rank in zip(names, ranks, strict=True)}
        which, place = divmod(self._place[number], PER_SHEET)
        sheet = self._open.setdefault(which, Sheet(self._side))
        sheet.put(place, drawn, ranks)
        pixels, marks = strip_of(drawn, ranks)
        if pixels:
            self._strips[number] = [z + 1 for z in drawn.numbers]
            self._sheets |= {f"strip-{number}": pixels, f"strip-marks-{number}": marks}
        self._left[which] -= 1
        if not self._left[which]:
            self._sheets[f"sheet-{which}"], self._sheets[f"marks-{which}"] = sheet.encoded()
            del self._open[which]
        without: dict[str, Any] = dict.fromkeys(("planes", "marks", "strip", "strip_marks"))
        self._drawn[number] = dataclasses.replace(drawn, **without)

    def finished(self, scrubbed: Callable[[str], str]) -> Pictures:
        """Return the pictures; reasons pass `scrubbed`."""
        items = sorted(self._drawn.items())
        return Pictures(
            dict(items),
            {name: held for name, held in self._sheets.items() if held},
            self._strips,
            self._colours,
            {number: scrubbed(each.error) for number, each in items if each.error},
            {number: scrubbed(each.label_error) for number, each in items if each.label_error},
        )
