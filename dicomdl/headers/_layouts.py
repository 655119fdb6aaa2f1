"""headers.layouts"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, NamedTuple

from dicomdl.errors import HeaderError
from dicomdl.headers._elements import Walked, Wanted
from dicomdl.headers._heads import (
    EXPLICIT,
    IMPLICIT,
    MAX_STEPS,
    PIXEL_TAGS,
    TRANSFER_SYNTAX,
    UNDEFINED,
    VR_LESS,
    ElementHead,
    Step,
    Syntax,
    inner_syntax,
)
from dicomdl.headers._nested import skip_sequence
from dicomdl.headers._window import Window


@dataclass(slots=True)
class _Segment:
    """A run of element headers at fixed distances, ended by one element whose length is read."""

    heads: Callable[..., tuple[Any, ...]]
    expected: tuple[Any, ...]
    values: Callable[..., tuple[bytes, ...]] | None
    size: int
    # of the ending element, -1 when nobody wants it; None when it is the pixel data or of
    # undefined length
    slot: int | None
    steps: range  # the numbers of the layout's steps that it covers
    length: Callable[..., tuple[int]]  # reads the length that the run ends with
    length_bytes: int
    # the run of the last file, up to that length, and its values: most runs repeat from slice
    # to slice
    last_seen: bytes = b""
    last_values: tuple[bytes, ...] = ()
    changes: int = 0  # how often the run was another than in the file before; the first file counts


@dataclass(slots=True)
class _Layout:
    """The element headers of a kind of file.

    Which steps there are, and which of them vary in length.
    """

    buffer: bytes  # the file that it was learned from: what its headers are is read there
    start: int
    syntax: Syntax
    transfer_syntax: bytes
    steps: list[Step]
    first: int  # the number of the data set's first step
    constants: dict[int, bytes]  # values that must stay as they are, by the number of their step
    varying: set[int]
    may_vary: list[int]  # the numbers of the steps whose length may be another in the next file
    segments: list[_Segment] = field(default_factory=list)
    pick: Callable[[Any], tuple[bytes, ...]] = tuple


class Matched(NamedTuple):
    """What a layout tells of a file.

    The result of its walk, the raw transfer syntax and how the data set is coded.
    """

    walked: Walked
    transfer_syntax: bytes
    syntax: Syntax


class Layouts:
    """Learned layouts of files that begin at `start`.

    The same result as `walk`, faster where files resemble each other.

    A pure accelerator: `match` returns None whenever anything in a file's structure differs from
    what was learned.
    """

    CAPACITY: Final = 8

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._recent: list[_Layout] = []
        self._misses = 0

    def match(self, buffer: bytes, start: int) -> Matched | None:
        """The walk of the file that begins with `buffer`, whose first element is at `start`, or None when no layout fits."""
        for rank, layout in enumerate(self._recent):
            found = _match(layout, buffer) if layout.start == start else None
            if found is not None:
                if rank:
                    self._recent.insert(0, self._recent.pop(rank))
                self._misses = 0
                return Matched(found, layout.transfer_syntax, layout.syntax)
        return None

    def worth_learning(self) -> bool:
        """Whether recording the next walk pays: rarely, when no two files resemble each other."""
        self._misses += 1
        return self._misses < 64 or self._misses % 32 == 0

    def learn(
        self, buffer: bytes, start: int, syntax: Syntax, meta: list[Step], data_set: list[Step]
    ) -> None:
        """Remember the steps of a file, meta information and data set, whose whole header is in `buffer`."""
        layout = _layout(buffer, start, syntax, meta, data_set)
        if layout is None:
            return
        # What varies in length in one series does so in the next: splitting a run later costs more.
        tags = {known.steps[number].head.tag for known in self._recent for number in known.varying}
        layout.varying |= {
            number for number in layout.may_vary if layout.steps[number].head.tag in tags
        }
        _compile(layout, self._wanted)
        self._recent.insert(0, layout)
        del self._recent[self.CAPACITY :]


def _layout(
    buffer: bytes, start: int, syntax: Syntax, meta: list[Step], data_set: list[Step]
) -> _Layout | None:
    """The layout of one file, None for files whose structure is odd enough to be walked each time."""
    steps = meta + data_set
    if (
        not data_set
        or not syntax.little
        or len(data_set) > MAX_STEPS
        or steps[-1].head.value > len(buffer)
    ):
        return None
    if any(
        not step.head.vr and step.head.tag not in VR_LESS
        for step in (steps if syntax.explicit else meta)
    ):
        # an element without VR among others with: the bytes of its length may look like a
        # VR in the next file
        return None
    syntaxes = [step for step in meta if step.head.tag == TRANSFER_SYNTAX]
    if len(syntaxes) != 1:
        return None
    constants = {
        number: buffer[step.head.value : step.head.value + step.head.length]
        for number, step in enumerate(steps)
        if step.creator or step is syntaxes[0]
    }
    # the first element of the data set tells how it is coded, so its length stays
    first = len(meta)
    may_vary = [
        n
        for n, step in enumerate(steps)
        if n != first and n not in constants and step.head.length != UNDEFINED
    ]
    transfer_syntax = constants[meta.index(syntaxes[0])]
    return _Layout(
        buffer, start, syntax, transfer_syntax, steps, first, constants, {len(steps) - 1}, may_vary
    )


# How a header is read when its length may be any: by its size and whether it has a VR; the length
# comes last.
_HEAD_FORMS: Final = {(8, True): "IHH", (8, False): "II", (12, True): "QI"}
_HEADS: Final = {key: struct.Struct(f"<{form}").unpack_from for key, form in _HEAD_FORMS.items()}
_LENGTHS: Final[dict[int, Callable[..., tuple[int]]]] = {
    2: struct.Struct("<H").unpack_from,
    4: struct.Struct("<I").unpack_from,
}


class _Run:
    """Builds one segment.

    The struct formats of the headers to compare and of the values to take.
    """

    def __init__(self, start: int) -> None:
        self.start = self.heads_end = self.values_end = start
        self.heads = ["<"]
        self.values = ["<"]

    def compare(self, step: Step, constant: bytes | None) -> None:
        """Add a header whose every byte, length included, must be as it was, and a value that must be."""
        value = step.head.value
        self.heads.append(
            f"{step.position - self.heads_end}x{'QI' if value - step.position == 12 else 'Q'}"
        )
        self.heads_end = value
        if constant is not None:
            self.heads.append(f"{len(constant)}s")
            self.heads_end += len(constant)

    def take(self, head: ElementHead) -> None:
        """Add a value to take."""
        self.values.append(f"{head.value - self.values_end}x{head.length}s")
        self.values_end = head.value + head.length

    def close(self, step: Step, steps: range, buffer: bytes) -> _Segment:
        """End the run with a header whose length is read.

        What its headers must be stands in `buffer`.
        """
        head = step.head
        self.heads.append(
            f"{step.position - self.heads_end}x{_HEAD_FORMS[head.value - step.position, bool(head.vr)]}"
        )
        heads = struct.Struct("".join(self.heads)).unpack_from
        length_bytes = 2 if head.vr and head.value - step.position == 8 else 4
        return _Segment(
            heads=heads,
            expected=heads(buffer, self.start)[:-1],
            values=struct.Struct("".join(self.values)).unpack_from
            if len(self.values) > 1
            else None,
            size=head.value - self.start,
            slot=None if head.length == UNDEFINED or head.tag in PIXEL_TAGS else step.slot,
            steps=steps,
            length=_LENGTHS[length_bytes],
            length_bytes=length_bytes,
        )


def _compile(layout: _Layout, wanted: Wanted) -> None:
    """Turn the layout's steps into segments, each ended by an element whose length varies."""
    layout.segments = list(_segments(layout, range(len(layout.steps))))
    # matching collects values in the order of the steps
    kept = [step.slot for step in layout.steps if step.slot >= 0]
    place = {slot: rank for rank, slot in enumerate(kept, 1)}
    layout.pick = itemgetter(*(place.get(slot, 0) for slot in range(wanted.size)))


def _segments(layout: _Layout, numbers: range) -> Iterator[_Segment]:
    first = numbers.start
    run = _Run(layout.steps[first].position)
    for number in numbers:
        step = layout.steps[number]
        if number in layout.varying or (step.head.length == UNDEFINED and step.slot >= 0):
            yield run.close(step, range(first, number + 1), layout.buffer)
            if number + 1 < numbers.stop:
                first = number + 1
                run = _Run(layout.steps[first].position)
            continue
        run.compare(step, layout.constants.get(number))
        if step.slot >= 0:
            run.take(step.head)


class _OtherStructure(Exception):
    """A file does not have a layout's elements."""


def _match(layout: _Layout, buffer: bytes) -> Walked | None:
    position = layout.start
    kept: list[bytes] = [b""]
    found = Found(0, 0)
    limit = len(buffer)
    # segments in which other elements than the last one vary in length, too
    torn: list[tuple[_Segment, set[int]]] = []
    try:
        for segment in layout.segments:
            value = position + segment.size
            before_length = value - segment.length_bytes
            # headers and values as in the file before
            if buffer[position:before_length] == segment.last_seen:
                length = segment.length(buffer, before_length)[0]
            else:
                heads = segment.heads(buffer, position)
                if heads[:-1] != segment.expected:
                    varying: set[int] = set()
                    position, found = _match_steps(layout, segment, buffer, position, kept, varying)
                    torn.append((segment, varying))
                    continue
                length = heads[-1]
                segment.changes += 1
                # twice is no accident: what changes gets a run of its own
                if segment.changes == 3 and len(segment.steps) > 3:
                    torn.append(
                        (segment, _changed(layout, segment, buffer[position:before_length]))
                    )
                segment.last_seen = buffer[position:before_length]
                segment.last_values = (
                    segment.values(buffer, position) if segment.values is not None else ()
                )
            kept += segment.last_values
            if segment.slot is None:
                found = Found(value, length)
                position = _close(layout, segment.steps[-1], found, buffer, kept)
                continue
            # an undefined length, which would be another structure, ends beyond the
            # buffer, too
            position = value + length
            if position > limit:
                return None
            if segment.slot >= 0:
                kept.append(buffer[value:position])
    except (
        struct.error,
        HeaderError,
        _OtherStructure,
    ):
        # or the header goes on beyond the buffer: the plain walk will tell
        return None
    for segment, varying in torn:  # the next file like this one is compared in runs again
        layout.varying |= varying
        place = layout.segments.index(segment)
        layout.segments[place : place + 1] = _segments(
            layout, range(segment.steps.start, segment.steps.stop)
        )
    last = layout.steps[-1].head
    return Walked(layout.pick(kept), ElementHead(last.tag, last.vr, found.value, found.length))


def _changed(layout: _Layout, segment: _Segment, run: bytes) -> set[int]:
    """The steps of a run whose values are others than in the file before."""
    start = layout.steps[segment.steps.start].position
    spans = {
        n: (layout.steps[n].head.value - start, layout.steps[n].head.length)
        for n in segment.steps[:-1]
        if n in layout.may_vary
    }
    return {
        n
        for n, (at, length) in spans.items()
        if run[at : at + length] != segment.last_seen[at : at + length]
    }


class Found(NamedTuple):
    """Where an element's value starts in a file, and its length."""

    value: int
    length: int


def _close(layout: _Layout, number: int, found: Found, buffer: bytes, kept: list[bytes]) -> int:
    """Keep the value of step `number` if it is wanted; the position after it.

    The last step is the pixel data: not passed.
    """
    step = layout.steps[number]
    if number == len(layout.steps) - 1:
        return found.value
    if (found.length == UNDEFINED) != (step.head.length == UNDEFINED):
        raise _OtherStructure
    if found.length == UNDEFINED:
        if step.slot < 0:
            return found.value  # what is inside has steps of its own
        window = Window(lambda offset, count: buffer[offset : offset + count], len(buffer), buffer)
        inside = inner_syntax(step.head.vr, EXPLICIT if step.head.vr else IMPLICIT)
        end = skip_sequence(window, found.value, inside)
        kept.append(buffer[found.value : end - 8])
        return end
    end = found.value + found.length
    if end > len(buffer):
        raise _OtherStructure
    if step.slot >= 0:
        kept.append(buffer[found.value : end])
    return end


def _match_steps(
    layout: _Layout,
    segment: _Segment,
    buffer: bytes,
    position: int,
    kept: list[bytes],
    varying: set[int],
) -> tuple[int, Found]:
    """Match a segment element by element where its run does not fit, and note which elements vary in length."""
    found = Found(position, 0)
    for number in segment.steps:
        step = layout.steps[number]
        head = step.head
        found = _read_like(step, layout.buffer, buffer, position)
        constant = layout.constants.get(number)
        if constant is not None and buffer[found.value : found.value + found.length] != constant:
            raise _OtherStructure
        if found.length != head.length and number not in layout.varying:
            if number == layout.first:
                raise _OtherStructure
            varying.add(number)
        position = _close(layout, number, found, buffer, kept)
    return position, found


def _read_like(step: Step, learned: bytes, buffer: bytes, position: int) -> Found:
    """The value and length of the element at `position`, if its tag and VR are those of `step` of the `learned` file."""
    size = step.head.value - step.position
    read = _HEADS[size, bool(step.head.vr)]
    found = read(buffer, position)
    if found[:-1] != read(learned, step.position)[:-1]:
        raise _OtherStructure
    return Found(position + size, found[-1])
