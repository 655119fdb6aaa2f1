"""Layouts: the learned sequences of element headers of earlier files, which accelerate the walk.

Slices of one series repeat the same element headers. A layout stores them as runs between the
elements whose length varies, and compares a run with one `struct` call. The result equals that of
`walk`, in a fifth of its time. A layout never changes a result: a file that differs in any header
from all layouts is walked.

The headers, and the values of private creators and of the transfer syntax, must be equal. Lengths
may vary in the last element of a run only. When the length of another element varies, its run is
split.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, NamedTuple

from dicomdl.errors import HeaderError
from dicomdl.headers._elements import LONGEST_SHORT, Walked, Wanted
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
    """A run of element headers at fixed distances, ended by an element whose length is read."""

    heads: Callable[..., tuple[Any, ...]]
    expected: tuple[Any, ...]
    values: Callable[..., tuple[bytes, ...]] | None
    size: int
    # Slot of the last element, -1 if it is unwanted, None for the pixel data and for undefined
    # lengths.
    slot: int | None
    # Numbers of the layout's steps in the run.
    steps: range
    # Function that reads the length at the end of the run.
    length: Callable[..., tuple[int]]
    length_bytes: int
    # The run of the last file up to that length, and its values: most runs repeat from slice to
    # slice.
    last_seen: bytes = b""
    last_values: tuple[bytes, ...] = ()
    # Number of files whose run differed from that of the file before, the first file included.
    changes: int = 0


@dataclass(slots=True)
class _Layout:
    """The element headers of a kind of file: its steps, and those whose length varies."""

    # The beginning of the file that the layout was learned from, as the reference of its headers.
    buffer: bytes
    start: int
    syntax: Syntax
    transfer_syntax: bytes
    steps: list[Step]
    # Number of the data set's first step.
    first: int
    # Values that must be equal, by the number of their step.
    constants: dict[int, bytes]
    varying: set[int]
    # Numbers of the steps whose length may differ in the next file.
    may_vary: list[int]
    segments: list[_Segment] = field(default_factory=list)
    pick: Callable[[Any], tuple[bytes, ...]] = tuple
    # Slots whose VR has a 16-bit length: the walk refuses longer values.
    short: frozenset[int] = frozenset()


class Matched(NamedTuple):
    """A file that matches a layout: the result of its walk, its raw transfer syntax and coding."""

    walked: Walked
    transfer_syntax: bytes
    syntax: Syntax


class Layouts:
    """The layouts of up to 8 kinds of files, most recently matched first.

    They only accelerate: `match` returns None if the structure of a file differs from all layouts
    in any way.
    """

    CAPACITY: Final = 8

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._recent: list[_Layout] = []
        self._misses = 0

    def match(self, buffer: bytes, start: int) -> Matched | None:
        """Return the walk of the file that begins with `buffer`; None if no layout fits.

        `start` is the position of the file's first element.
        """
        for rank, layout in enumerate(self._recent):
            walked = _match(layout, buffer) if layout.start == start else None
            if walked is not None:
                if rank:
                    self._recent.insert(0, self._recent.pop(rank))
                self._misses = 0
                return Matched(walked, layout.transfer_syntax, layout.syntax)
        return None

    def worth_learning(self) -> bool:
        """Return whether to record the next walk: always at first, rarely after 64 misses."""
        self._misses += 1
        return self._misses < 64 or self._misses % 32 == 0

    def learn(
        self, buffer: bytes, start: int, syntax: Syntax, meta: list[Step], data_set: list[Step]
    ) -> None:
        """Store the steps of a file, meta information and data set; `buffer` has all its header."""
        layout = _layout(buffer, start, syntax, meta, data_set)
        if layout is None:
            return
        # Elements whose length varies in one series vary in the next one, too. Splitting a run
        # later costs more.
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
    """Return the layout of one file; None for odd structures, which are walked each time."""
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
        # An element without VR in an explicit file: its length may look like a VR in the next file.
        return None
    syntaxes = [step for step in meta if step.head.tag == TRANSFER_SYNTAX]
    if len(syntaxes) != 1:
        return None
    constants = {
        number: buffer[step.head.value : step.head.value + step.head.length]
        for number, step in enumerate(steps)
        if step.creator or step is syntaxes[0]
    }
    # The first element of the data set determines the coding, so its length must be equal.
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


# Formats of a header with any length, by its size and whether it has a VR. The length comes last.
_HEAD_FORMS: Final = {(8, True): "IHH", (8, False): "II", (12, True): "QI"}
_HEADS: Final = {key: struct.Struct(f"<{form}").unpack_from for key, form in _HEAD_FORMS.items()}
_LENGTHS: Final[dict[int, Callable[..., tuple[int]]]] = {
    2: struct.Struct("<H").unpack_from,
    4: struct.Struct("<I").unpack_from,
}


class _Run:
    """The builder of one segment: struct formats of the headers to compare and values to take."""

    def __init__(self, start: int) -> None:
        self.start = self.heads_end = self.values_end = start
        self.heads = ["<"]
        self.values = ["<"]

    def compare(self, step: Step, constant: bytes | None) -> None:
        """Add a header that must be equal, length included, and optionally an equal value."""
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
        """End the run with a header whose length is read; `buffer` is the reference file."""
        head = step.head
        form = _HEAD_FORMS[head.value - step.position, bool(head.vr)]
        self.heads.append(f"{step.position - self.heads_end}x{form}")
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
    """Divide the layout's steps into segments, each ended by an element whose length varies."""
    layout.segments = list(_segments(layout, range(len(layout.steps))))
    # A match collects values in the order of the steps, after an empty one at rank 0.
    slots = [step.slot for step in layout.steps if step.slot >= 0]
    ranks = {slot: rank for rank, slot in enumerate(slots, 1)}
    layout.pick = itemgetter(*(ranks.get(slot, 0) for slot in range(wanted.size)))
    layout.short = wanted.short


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
    """The elements of a file differ from those of a layout."""


def _match(layout: _Layout, buffer: bytes) -> Walked | None:
    """Return the walk of a file by a layout; None if the file differs, or goes beyond `buffer`."""
    position = layout.start
    values: list[bytes] = [b""]
    extent = _Extent(0, 0)
    # Segments in which elements before the last one vary in length, too.
    torn: list[tuple[_Segment, set[int]]] = []
    try:
        for segment in layout.segments:
            value = position + segment.size
            before_length = value - segment.length_bytes
            # Headers and values mostly equal those of the file before.
            if buffer[position:before_length] == segment.last_seen:
                length = segment.length(buffer, before_length)[0]
            else:
                heads = segment.heads(buffer, position)
                if heads[:-1] != segment.expected:
                    varying: set[int] = set()
                    position, extent = _match_steps(
                        layout, segment, buffer, position, values, varying
                    )
                    torn.append((segment, varying))
                    continue
                length = heads[-1]
                segment.changes += 1
                # After two changes the run is split at the changing elements.
                if segment.changes == 3 and len(segment.steps) > 3:
                    torn.append(
                        (segment, _changed(layout, segment, buffer[position:before_length]))
                    )
                segment.last_seen = buffer[position:before_length]
                segment.last_values = (
                    segment.values(buffer, position) if segment.values is not None else ()
                )
            values += segment.last_values
            if segment.slot is None:
                extent = _Extent(value, length)
                position = _close(layout, segment.steps[-1], extent, buffer, values)
                continue
            if length > LONGEST_SHORT and segment.slot in layout.short:
                return None
            # The next header is not found beyond the buffer, where undefined lengths end, too.
            position = value + length
            if segment.slot >= 0:
                values.append(buffer[value:position])
    except (struct.error, HeaderError, _OtherStructure):
        # A struct.error also means that the header is longer than the buffer. The plain walk
        # finds the reason.
        return None
    # Splitting the torn segments lets the next similar file match in runs again.
    for segment, varying in torn:
        layout.varying |= varying
        index = layout.segments.index(segment)
        layout.segments[index : index + 1] = _segments(
            layout, range(segment.steps.start, segment.steps.stop)
        )
    last = layout.steps[-1].head
    return Walked(layout.pick(values), ElementHead(last.tag, last.vr, extent.value, extent.length))


def _changed(layout: _Layout, segment: _Segment, run: bytes) -> set[int]:
    """Return the steps of a run whose values differ from those of the file before."""
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


class _Extent(NamedTuple):
    """The position of an element's value in a file, and its length."""

    value: int
    length: int


def _close(
    layout: _Layout, number: int, extent: _Extent, buffer: bytes, values: list[bytes]
) -> int:
    """Collect the value of step `number` if it is wanted; return the position after it.

    The last step is the pixel data, whose start is returned.
    """
    step = layout.steps[number]
    if number == len(layout.steps) - 1:
        return extent.value
    if (extent.length == UNDEFINED) != (step.head.length == UNDEFINED):
        raise _OtherStructure
    if extent.length == UNDEFINED:
        if step.slot < 0:
            # The elements inside are further steps of the layout.
            return extent.value
        window = Window(lambda offset, count: buffer[offset : offset + count], len(buffer), buffer)
        inside = inner_syntax(step.head.vr, EXPLICIT if step.head.vr else IMPLICIT)
        end = skip_sequence(window, extent.value, inside)
        values.append(buffer[extent.value : end - 8])
        return end
    end = extent.value + extent.length
    if extent.length > LONGEST_SHORT and step.slot in layout.short:
        raise _OtherStructure
    if step.slot >= 0:
        values.append(buffer[extent.value : end])
    return end


def _match_steps(
    layout: _Layout,
    segment: _Segment,
    buffer: bytes,
    position: int,
    values: list[bytes],
    varying: set[int],
) -> tuple[int, _Extent]:
    """Match a segment element by element if its run does not fit.

    Adds the numbers of the elements whose length differs to `varying`.
    """
    extent = _Extent(position, 0)
    for number in segment.steps:
        step = layout.steps[number]
        head = step.head
        extent = _read_like(step, layout.buffer, buffer, position)
        constant = layout.constants.get(number)
        if constant is not None and buffer[extent.value : extent.value + extent.length] != constant:
            raise _OtherStructure
        if extent.length != head.length and number not in layout.varying:
            if number == layout.first:
                raise _OtherStructure
            varying.add(number)
        position = _close(layout, number, extent, buffer, values)
    return position, extent


def _read_like(step: Step, learned: bytes, buffer: bytes, position: int) -> _Extent:
    """Read the extent of the element at `position`.

    Raises _OtherStructure unless its tag and VR equal those of `step` in the `learned` file.
    """
    size = step.head.value - step.position
    read = _HEADS[size, bool(step.head.vr)]
    head = read(buffer, position)
    if head[:-1] != read(learned, step.position)[:-1]:
        raise _OtherStructure
    return _Extent(position + size, head[-1])
