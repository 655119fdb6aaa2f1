"""The option `segments=` or `rois=`: which segments or regions become which labels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dicomdl.errors import AnnotationError, UsageError
from dicomdl.headers.annotation import Segment

# A number, a pattern of the label, or a coded type as "SCT:10200004".
Wanted = int | str
Wish = Sequence[Wanted] | Mapping[str, Wanted | Sequence[Wanted]] | None
_CODE: Final = re.compile(r"([A-Z0-9_]+):([A-Za-z0-9.\-]+)")


@dataclass(frozen=True, slots=True)
class Choice:
    """A label, and the numbers of the segments whose union it is."""

    label: int
    name: str
    numbers: tuple[int, ...]


def chosen(segments: Sequence[Segment], wish: Wish, option: str) -> tuple[Choice, ...]:
    """Return the labels that a wish stands for.

    Parameters
    ----------
    segments
        The segments or regions of interest of an object.
    wish
        None: every segment, numbered and named as in the object, but the background of a label map.
        A list: segments by number, by a regular expression that matches the complete label
        (capitals do not count), or by the code
        of the type ("SCT:10200004"); their labels count from 1. A mapping of names to one or
        several of these, of which one at least has to be there: each name is one label, from 1, for
        the union of its segments.
    option
        The name of the option, for messages.

    Raises
    ------
    AnnotationError
        No segment is as wished, or one of all has the number 0. The attribute `names` lists the
        segments.
    UsageError
        The wish is none, or a pattern is no regular expression.
    """
    if wish is None:
        zero = [each.label for each in segments if not (each.number or each.is_background)]
        if zero:
            raise AnnotationError(
                f"{option}: {zero[0]!r} has the number 0, which is the background of a label map: "
                f"{option}=['.*'] numbers all from 1",
                names=_listed(segments),
            )
        return all_of(segments)
    if isinstance(wish, str | int):
        raise UsageError(f"{option}={wish!r}: expected a list, or a mapping of names")
    choices: list[Choice] = []
    if isinstance(wish, Mapping):
        for name, items in wish.items():
            each = [items] if isinstance(items, str | int) else list(items)
            numbers = _numbers(segments, each, option)
            choices.append(Choice(len(choices) + 1, name, tuple(dict.fromkeys(numbers))))
        return tuple(choices)
    by_number = {segment.number: segment.label for segment in segments}
    numbers = [number for item in wish for number in _numbers(segments, [item], option)]
    return tuple(
        Choice(label, by_number[number], (number,))
        for label, number in enumerate(dict.fromkeys(numbers), 1)
    )


def all_of(segments: Sequence[Segment]) -> tuple[Choice, ...]:
    """Return every segment as a label, with its own number and name, but those that have none."""
    own = [each for each in segments if each.number and not each.is_background]
    return tuple(Choice(each.number, each.label, (each.number,)) for each in own)


def _listed(segments: Sequence[Segment]) -> list[str]:
    """Return number and name of some segments, for errors."""
    return [f"{segment.number} {segment.label}" for segment in segments]


def _numbers(segments: Sequence[Segment], items: Sequence[Wanted], option: str) -> list[int]:
    """Return the numbers of the segments that some items of a wish name, at least one in all."""
    found = [each.number for item in items for each in segments if is_named(each, item)]
    if items and not found:
        names = _listed(segments)
        wanted = " or ".join(map(repr, items))
        listed = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
        raise AnnotationError(
            f"{option}: nothing is named {wanted} among {len(names)}: {listed}", names=names
        )
    return found


def is_named(segment: Segment, item: Wanted) -> bool:
    """Whether an item of a wish names a segment: a background by its own name only.

    Raises
    ------
    UsageError
        The item is no regular expression.
    """
    if isinstance(item, int):
        return segment.number == item
    code = _CODE.fullmatch(item)
    if code and segment.type and (segment.type.scheme, segment.type.value) == code.groups():
        return True
    if segment.is_background:
        return item.lower() == segment.label.lower()
    try:
        return re.fullmatch(item, segment.label, re.IGNORECASE) is not None
    except re.error as error:
        raise UsageError(f"{item!r} is no regular expression: {error}") from None
