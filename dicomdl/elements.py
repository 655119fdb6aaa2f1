"""The walk over a data set's elements: bytes in, the raw values of wanted elements out.

Knows PS3.5 section 7 (data element structure, sequences, items) and nothing of what the values mean. Only the first
bytes of a file are looked at, through a window that slides over values nobody wants.

A walk element by element costs about 0.2 us an element in plain Python. Slices of one series repeat the same
element headers, so `Layouts` remembers them as runs between the elements whose length varies and compares each run with
one `struct` call; the result is the same as the walk's, at a fifth of its time. Tags are written as DICOM prints
them, 0xGGGGEEEE.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, NamedTuple

from dicomdl.errors import HeaderError

ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
UNDEFINED: Final = 0xFFFFFFFF
PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXEL_DATA: Final = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA: Final = 0x7FE00009
TRANSFER_SYNTAX: Final = 0x00020010
_PIXEL_TAGS: Final = frozenset({PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA})

# PS3.5 7.1.2: these VRs have two reserved bytes and a 32-bit length, all others a 16-bit length.
_LONG_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})

# A hostile header costs at most this (a real one has had 6 levels, 1,246 elements and 291 KB).
MAX_DEPTH: Final = 32
MAX_ELEMENTS: Final = 2_000_000
MAX_HEADER_BYTES: Final = 64 * 2**20


class Syntax(NamedTuple):
    """How element headers are coded: with or without a VR, little or big endian."""

    explicit: bool
    little: bool


EXPLICIT: Final = Syntax(explicit=True, little=True)
IMPLICIT: Final = Syntax(explicit=False, little=True)
BIG_ENDIAN: Final = Syntax(explicit=True, little=False)

_TAG = {True: struct.Struct("<HH").unpack_from, False: struct.Struct(">HH").unpack_from}
_SHORT = {True: struct.Struct("<H").unpack_from, False: struct.Struct(">H").unpack_from}
_LONG = {True: struct.Struct("<I").unpack_from, False: struct.Struct(">I").unpack_from}


class Window:
    """The bytes of a file around the place that is looked at, read on demand.

    `read(offset, length)` gives the bytes there, fewer at the end of the file; `size` is the file's length.
    """

    __slots__ = ("base", "buffer", "bytes_read", "read", "size")

    def __init__(self, read: Callable[[int, int], bytes], size: int, first: bytes = b"") -> None:
        self.read = read
        self.size = size
        self.buffer = first
        self.base = 0
        self.bytes_read = len(first)

    def at(self, position: int, length: int) -> int:
        """Bring [position, position + length) into `buffer` as far as the file goes; return where it starts there."""
        start = position - self.base
        if start >= 0 and start + length <= len(self.buffer):
            return start
        wanted = max(length, 1 << 16)
        self.bytes_read += min(wanted, max(0, self.size - position))
        if self.bytes_read > MAX_HEADER_BYTES:
            raise HeaderError(
                f"the header is longer than {MAX_HEADER_BYTES} bytes", reason="header_too_large", limit_bytes=MAX_HEADER_BYTES
            )
        self.buffer = self.read(position, wanted)
        self.base = position
        return 0

    def take(self, position: int, length: int) -> bytes:
        """The bytes [position, position + length); HeaderError when the file ends before."""
        start = self.at(position, length)
        value = self.buffer[start : start + length]
        if len(value) != length:
            raise _truncated(position, length, self.size)
        return value


def _truncated(position: int, length: int, size: int) -> HeaderError:
    return HeaderError(
        f"an element at byte {position} needs {length} bytes, the file ends at {size}",
        reason="truncated",
        position=position,
        expected_bytes=length,
        found_bytes=max(0, size - position),
    )


class ElementHead(NamedTuple):
    """One element's header: tag, VR ("" bytes when implicit), where its value starts, its length."""

    tag: int
    vr: bytes
    value: int
    length: int


def read_head(window: Window, position: int, syntax: Syntax) -> ElementHead:
    """The element header at `position` (PS3.5 7.1); items and delimiters have no VR in any syntax."""
    start = window.at(position, 12)
    buffer = window.buffer
    little = syntax.little
    try:
        group, element = _TAG[little](buffer, start)
        tag = group << 16 | element
        if not syntax.explicit or group == 0xFFFE:
            return ElementHead(tag, b"", position + 8, _LONG[little](buffer, start + 4)[0])
        vr = buffer[start + 4 : start + 6]
        if vr in _LONG_VRS:
            return ElementHead(tag, vr, position + 12, _LONG[little](buffer, start + 8)[0])
        if vr.isalpha() and vr.isupper():
            return ElementHead(tag, vr, position + 8, _SHORT[little](buffer, start + 6)[0])
        # Writers that forget the VR of one element write it as implicit; pydicom reads it so, too.
        return ElementHead(tag, b"", position + 8, _LONG[little](buffer, start + 4)[0])
    except struct.error:
        raise _truncated(position, 12, window.size) from None


def inner_syntax(vr: bytes, syntax: Syntax) -> Syntax:
    """The syntax inside a sequence: UN of undefined length holds implicit little endian (PS3.5 6.2.2, note 2)."""
    return IMPLICIT if vr == b"UN" else syntax


def skip_sequence(window: Window, position: int, syntax: Syntax, trail: "list[Step] | None" = None) -> int:
    """The byte after the sequence delimitation item of a value of undefined length that starts at `position`.

    Items of defined length are jumped over; of undefined length, walked. Encapsulated fragments look the same.
    """
    open_values = [(syntax, True)]  # (syntax inside, holds items) of every value of undefined length that is open
    for _ in range(MAX_ELEMENTS):
        current, holds_items = open_values[-1]
        head = read_head(window, position, current)
        undefined = head.length == UNDEFINED
        if trail is not None:
            trail.append(Step(position, head, -1))
        position = head.value
        if head.tag in (ITEM_END, SEQUENCE_END):
            open_values.pop()
            if not open_values:
                return position
        elif head.tag == ITEM and holds_items:
            if undefined:
                open_values.append((current, False))
            else:
                position += head.length
        elif holds_items:
            raise HeaderError(
                f"an item was expected at byte {head.value - 8}, found tag {head.tag:08X}", reason="malformed", position=head.value - 8
            )
        elif undefined:
            open_values.append((inner_syntax(head.vr, current), True))
        else:
            position += head.length
        if len(open_values) > MAX_DEPTH:
            raise HeaderError(f"sequences are nested more than {MAX_DEPTH} deep", reason="too_deep", limit=MAX_DEPTH)
        if position > window.size:
            raise _truncated(head.value, head.length, window.size)
    raise HeaderError(f"more than {MAX_ELEMENTS} elements", reason="too_many_elements", limit=MAX_ELEMENTS)


class Wanted:
    """Which elements a walk keeps: slot i of its result is for ``entries[i]``.

    An entry is (tag, private creator); the creator is "" for standard elements, and a vendor's tag has 00 as its
    block byte (PS3.5 7.8.1). Tag 0 leaves its slot empty.
    """

    def __init__(self, entries: Sequence[tuple[int, str]]) -> None:
        self.size = len(entries)
        self.slots = {tag: slot for slot, (tag, creator) in enumerate(entries) if tag and not creator}
        self.blocks: dict[tuple[int, bytes], list[tuple[int, int]]] = {}
        for slot, (tag, creator) in enumerate(entries):
            if creator:
                self.blocks.setdefault((tag >> 16, creator.encode()), []).append((tag & 0xFF, slot))

    def reserve(self, tag: int, creator: bytes, private_slots: dict[int, int]) -> None:
        """Note in `private_slots` which tags of the block that `tag` reserves for `creator` are wanted."""
        group, block = tag >> 16, tag & 0xFF
        for low, slot in self.blocks.get((group, creator.strip(b" \0")), ()):
            private_slots[group << 16 | block << 8 | low] = slot


class Step(NamedTuple):
    """One element header that a walk met, the slot of its value (-1: not kept), and whether it names a private creator."""

    position: int
    head: ElementHead
    slot: int
    creator: bool = False


class Walked(NamedTuple):
    """The result of a walk: raw values by slot (b"" when absent), and the pixel data element (None when there is none)."""

    values: tuple[bytes, ...]
    pixel_data: ElementHead | None


def walk(window: Window, position: int, syntax: Syntax, wanted: Wanted, trail: list[Step] | None = None) -> Walked:
    """Walk the top level of a data set from `position` to its pixel data or its end.

    Raises HeaderError (reason `truncated`, `malformed`, `too_deep`, `too_many_elements`, `header_too_large`) where
    the structure breaks: a file that ends inside an element has lost some, and nobody could tell which.
    """
    values = [b""] * wanted.size
    slots = wanted.slots
    private_slots: dict[int, int] = {}
    size = window.size
    for _ in range(MAX_ELEMENTS):
        if position >= size:
            return Walked(tuple(values), None)
        head = read_head(window, position, syntax)
        tag, vr, value, length = head
        if tag in _PIXEL_TAGS:
            if trail is not None:
                trail.append(Step(position, head, -1))
            return Walked(tuple(values), head)
        private = tag & 0x10000
        slot = private_slots.get(tag, -1) if private else slots.get(tag, -1)
        if trail is not None:
            trail.append(Step(position, head, slot, bool(private) and 0x10 <= (tag & 0xFFFF) <= 0xFF))
        if length == UNDEFINED:
            nested = trail if slot < 0 else None
            end = skip_sequence(window, value, inner_syntax(vr, syntax), nested)
            if slot >= 0:
                values[slot] = window.take(value, end - value - 8)
            position = end
            continue
        position = value + length
        if position > size:
            if tag == 0 or tag >> 16 == 0xFFFC:  # padding after the data set
                return Walked(tuple(values), None)
            raise _truncated(value, length, size)
        if slot >= 0:
            values[slot] = window.take(value, length)
        elif private and 0x10 <= (tag & 0xFFFF) <= 0xFF:
            wanted.reserve(tag, window.take(value, length), private_slots)
    raise HeaderError(f"more than {MAX_ELEMENTS} elements", reason="too_many_elements", limit=MAX_ELEMENTS)


def iterate(raw: bytes, syntax: Syntax) -> Iterator[tuple[int, bytes, bytes]]:
    """(tag, VR, value) of the elements of one data set or item that is wholly in memory."""
    window = Window(lambda offset, length: raw[offset : offset + length], len(raw), raw)
    position = 0
    while position < len(raw):
        head = read_head(window, position, syntax)
        if head.tag == ITEM_END:
            return
        if head.length == UNDEFINED:
            position = skip_sequence(window, head.value, inner_syntax(head.vr, syntax))
            yield head.tag, head.vr, raw[head.value : position - 8]
        else:
            position = head.value + head.length
            if position > len(raw):
                raise _truncated(head.value, head.length, len(raw))
            yield head.tag, head.vr, raw[head.value : position]


def items(raw: bytes, syntax: Syntax) -> Iterator[bytes]:
    """The items of a sequence's value, each as its bytes without item header and delimiter (PS3.5 7.5)."""
    window = Window(lambda offset, length: raw[offset : offset + length], len(raw), raw)
    position = 0
    while position + 8 <= len(raw):
        head = read_head(window, position, syntax)
        if head.tag != ITEM:
            return
        if head.length == UNDEFINED:
            # An item of undefined length ends like a sequence does: its delimiter closes the one open value.
            end = _item_end(window, head.value, syntax)
            yield raw[head.value : end - 8]
        else:
            end = head.value + head.length
            if end > len(raw):
                raise _truncated(head.value, head.length, len(raw))
            yield raw[head.value : end]
        position = end


def _item_end(window: Window, position: int, syntax: Syntax) -> int:
    """The byte after the item delimitation item of an item of undefined length that starts at `position`."""
    while position < window.size:
        head = read_head(window, position, syntax)
        if head.tag == ITEM_END:
            return head.value
        if head.length == UNDEFINED:
            position = skip_sequence(window, head.value, inner_syntax(head.vr, syntax))
        else:
            position = head.value + head.length
    raise _truncated(position, 8, window.size)


@dataclass(slots=True)
class _Segment:
    """A run of element headers at fixed distances, ended by one element whose length is read."""

    heads: Callable[..., tuple[Any, ...]]
    expected: tuple[Any, ...]
    values: Callable[..., tuple[bytes, ...]] | None
    size: int
    keep: bool  # the ending element's value is wanted
    sequence: Syntax | None  # the ending element is a wanted sequence of undefined length with this syntax inside


@dataclass(slots=True)
class _Layout:
    """The element headers of a kind of file: which steps there are, and which of them vary in length."""

    start: int
    steps: list[Step]
    constants: dict[int, bytes]
    varying: set[int]
    segments: list[_Segment] = field(default_factory=list)
    pick: Callable[[Any], tuple[bytes, ...]] = tuple


class Layouts:
    """Learned layouts of files in one syntax each: the same result as `walk`, faster where files resemble each other.

    A pure accelerator: `match` returns None whenever anything in a file's structure differs from what was learned.
    """

    CAPACITY: Final = 8

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._recent: list[_Layout] = []
        self._misses = 0

    def match(self, buffer: bytes) -> tuple[Walked, bytes] | None:
        """The walk of the file that begins with `buffer`, and its transfer syntax, or None when no layout fits."""
        for rank, layout in enumerate(self._recent):
            found = _match(layout, buffer)
            if found is not None:
                if rank:
                    self._recent.insert(0, self._recent.pop(rank))
                self._misses = 0
                return found, layout.constants[0]
        return None

    def worth_learning(self) -> bool:
        """Whether recording the next walk pays: rarely, when no two files resemble each other."""
        self._misses += 1
        return self._misses < 64 or self._misses % 32 == 0

    def learn(self, buffer: bytes, start: int, meta: list[Step], steps: list[Step]) -> None:
        """Remember the steps of a file whose whole header, meta information included, is in `buffer`."""
        steps = meta + steps
        if not steps or steps[-1].head.value > len(buffer):
            return
        constants = {0: b""}
        for number, step in enumerate(steps):
            if step.head.tag == TRANSFER_SYNTAX or step.creator:
                value = buffer[step.head.value : step.head.value + step.head.length]
                constants[number + 1] = value
                if step.head.tag == TRANSFER_SYNTAX:
                    constants[0] = value
        for rank, layout in enumerate(self._recent):
            if _same_elements(layout, steps, start, constants):
                layout.varying |= {
                    i for i, (old, new) in enumerate(zip(layout.steps, steps, strict=True)) if old.head.length != new.head.length
                }
                layout.steps = steps
                _compile(layout, self._wanted)
                self._recent.insert(0, self._recent.pop(rank))
                return
        layout = _Layout(start, steps, constants, varying={len(steps) - 1})
        _compile(layout, self._wanted)
        self._recent.insert(0, layout)
        del self._recent[self.CAPACITY :]


def _same_elements(layout: _Layout, steps: list[Step], start: int, constants: dict[int, bytes]) -> bool:
    """Whether `steps` are the layout's elements, in length different at most where a length may differ."""
    return (
        layout.start == start
        and len(layout.steps) == len(steps)
        and layout.constants == constants
        and all(
            old.head.tag == new.head.tag
            and old.head.vr == new.head.vr
            and old.slot == new.slot
            and (old.head.length == new.head.length or (not old.creator and UNDEFINED not in (old.head.length, new.head.length)))
            and old.head.value - old.position == new.head.value - new.position
            for old, new in zip(layout.steps, steps, strict=True)
        )
    )


class _Run:
    """Builds one segment: the struct formats of the headers to compare and of the values to take."""

    def __init__(self, start: int) -> None:
        self.start = self.heads_end = self.values_end = start
        self.heads = self.values = "<"
        self.expected: list[Any] = []

    def compare(self, step: Step, constant: bytes | None) -> None:
        """Add a header whose every byte, length included, must be as it was, and a value that must be."""
        head = step.head
        self.heads += f"{step.position - self.heads_end}x" + ("QI" if head.value - step.position == 12 else "Q")
        self.expected += _expected_whole(head, step.position)
        self.heads_end = head.value
        if constant is not None:
            self.heads += f"{len(constant)}s"
            self.expected.append(constant)
            self.heads_end += len(constant)

    def take(self, head: ElementHead) -> None:
        """Add a value to take."""
        self.values += f"{head.value - self.values_end}x{head.length}s"
        self.values_end = head.value + head.length

    def close(self, step: Step) -> _Segment:
        """End the run with a header whose length is read."""
        head = step.head
        form = {(8, True): "IHH", (8, False): "II", (12, True): "QI"}[head.value - step.position, bool(head.vr)]
        self.heads += f"{step.position - self.heads_end}x" + form
        wanted_sequence = head.length == UNDEFINED and step.slot >= 0
        return _Segment(
            heads=struct.Struct(self.heads).unpack_from,
            expected=(*self.expected, *_expected_before_length(head, step.position)),
            values=struct.Struct(self.values).unpack_from if len(self.values) > 1 else None,
            size=head.value - self.start,
            keep=step.slot >= 0,
            sequence=inner_syntax(head.vr, EXPLICIT if head.vr else IMPLICIT) if wanted_sequence else None,
        )


def _compile(layout: _Layout, wanted: Wanted) -> None:
    """Turn the layout's steps into segments, each ended by an element whose length varies."""
    layout.segments = []
    kept: list[int] = []  # slots in the order in which matching collects their values
    run = _Run(layout.start)
    for number, step in enumerate(layout.steps):
        if step.slot >= 0:
            kept.append(step.slot)
        if number in layout.varying or (step.head.length == UNDEFINED and step.slot >= 0):
            layout.segments.append(run.close(step))
            if number + 1 < len(layout.steps):
                run = _Run(layout.steps[number + 1].position)
            continue
        run.compare(step, layout.constants.get(number + 1))
        if step.slot >= 0:
            run.take(step.head)
    place = {slot: rank for rank, slot in enumerate(kept, 1)}
    layout.pick = itemgetter(*(place.get(slot, 0) for slot in range(wanted.size)))


def _raw_tag(tag: int) -> int:
    return (tag & 0xFFFF) << 16 | tag >> 16  # how four bytes of tag read as one little-endian number


def _expected_before_length(head: ElementHead, position: int) -> list[int]:
    if head.value - position == 12:
        return [_raw_tag(head.tag) | int.from_bytes(head.vr, "little") << 32]
    return [_raw_tag(head.tag), int.from_bytes(head.vr, "little")] if head.vr else [_raw_tag(head.tag)]


def _expected_whole(head: ElementHead, position: int) -> list[int]:
    vr = int.from_bytes(head.vr, "little")
    if head.value - position == 12:
        return [_raw_tag(head.tag) | vr << 32, head.length]
    if head.vr:
        return [_raw_tag(head.tag) | vr << 32 | head.length << 48]
    return [_raw_tag(head.tag) | head.length << 32]


def _match(layout: _Layout, buffer: bytes) -> Walked | None:
    position = layout.start
    kept: list[bytes] = [b""]
    length = 0
    limit = len(buffer)
    try:
        for segment in layout.segments:
            heads = segment.heads(buffer, position)
            if heads[:-1] != segment.expected:
                return None
            if segment.values is not None:
                kept += segment.values(buffer, position)
            length = heads[-1]
            position += segment.size
            if segment.sequence is not None:
                if length != UNDEFINED:
                    return None
                window = Window(lambda offset, count: buffer[offset : offset + count], limit, buffer)
                end = skip_sequence(window, position, segment.sequence)
                kept.append(buffer[position : end - 8])
                position = end
            elif segment is not layout.segments[-1]:
                if length == UNDEFINED:
                    return None
                end = position + length
                if end > limit:
                    return None
                if segment.keep:
                    kept.append(buffer[position:end])
                position = end
    except (struct.error, HeaderError):  # the header goes on beyond the buffer: the plain walk will tell
        return None
    last = layout.steps[-1].head
    return Walked(layout.pick(kept), ElementHead(last.tag, last.vr, position, length))
