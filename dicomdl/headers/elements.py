"""The walk over a data set's elements: bytes in, the raw values of wanted elements out.

Knows PS3.5 section 7 (data element structure, sequences, items) and nothing of what the values mean. Only the first
bytes of a file are looked at, through a window that slides over values nobody wants.

Each walk has two gears. The plain one reads one element at a time, knows every odd case and says what is wrong;
the fast one (`_skim_*`) goes through the bytes at hand and stops before anything that is not an ordinary little-endian
element, at about 0.25 us an element. Slices of one series repeat the same element headers, so `Layouts` remembers
them as runs between the elements whose length varies and compares each run with one `struct` call; the result is the
same as the walk's, at a fifth of its time. Tags are written as DICOM prints them, 0xGGGGEEEE.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from dicomdl.errors import HeaderError

ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
UNDEFINED: Final = 0xFFFFFFFF
PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXEL_DATA: Final = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA: Final = 0x7FE00009
TRANSFER_SYNTAX: Final = 0x00020010
PIXEL_TAGS: Final = frozenset({PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA})
VR_LESS: Final = frozenset(
    {ITEM, ITEM_END, SEQUENCE_END}
)  # PS3.5 7.5: these three have no VR in any syntax
# PS3.5 7.1.2: these VRs have two reserved bytes and a 32-bit length, all others a 16-bit length.
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
# A hostile header costs at most this, about 2 s (a real one has had 6 levels, 1,246 elements and 291 KB; an enhanced
# multi-frame file of 10,000 frames has about 500,000 elements, item headers counted). Elements count by what they cost.
MAX_DEPTH: Final = 32
MAX_ELEMENTS: Final = 3_000_000
MAX_META_ELEMENTS: Final = 1000
_PLAIN_COST: Final = 6  # in elements of the fast gear: 0.3 us
_ITERATE_COST: Final = 4
MAX_HEADER_BYTES: Final = 64 * 2**20
MAX_STEPS: Final = 4096  # a layout of more element headers is not worth its memory


class Syntax(NamedTuple):
    """How element headers are coded: with or without a VR, little or big endian."""

    explicit: bool
    little: bool


EXPLICIT: Final = Syntax(explicit=True, little=True)
IMPLICIT: Final = Syntax(explicit=False, little=True)
BIG_ENDIAN: Final = Syntax(explicit=True, little=False)


def _raw_tag(tag: int) -> int:
    return (
        tag & 0xFFFF
    ) << 16 | tag >> 16  # how four bytes of tag read as one little-endian number


# What the fast gear compares: little-endian numbers as they lie in the file.
_HEAD: Final = struct.Struct(
    "<IHHI"
).unpack_from  # tag; VR and 16-bit length, or 32-bit length; 32-bit length of long VRs
_HEAD_BYTES: Final = 12
_SHORT_VRS: Final = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
_SHORT_CODES: Final = frozenset(int.from_bytes(vr, "little") for vr in _SHORT_VRS)
_LONG_CODES: Final = frozenset(int.from_bytes(vr, "little") for vr in _LONG_VRS)
_UN_CODE: Final = int.from_bytes(b"UN", "little")
_RAW_ITEM: Final = _raw_tag(ITEM)
_RAW_ENDS: Final = frozenset({_raw_tag(ITEM_END), _raw_tag(SEQUENCE_END)})
_RAW_STOPS: Final = frozenset(map(_raw_tag, PIXEL_TAGS | VR_LESS))
_STOP: Final = -2  # instead of a slot: the fast gear leaves this element to the plain one
_TAG = {True: struct.Struct("<HH").unpack_from, False: struct.Struct(">HH").unpack_from}
_SHORT = {True: struct.Struct("<H").unpack_from, False: struct.Struct(">H").unpack_from}
_LONG = {True: struct.Struct("<I").unpack_from, False: struct.Struct(">I").unpack_from}


class Window:
    """The bytes of a file around the place that is looked at, read on demand.

    `read(offset, length)` gives the bytes there, fewer at the end of the file; `size` is the file's length. It also
    keeps the account of what the file has cost: bytes read and elements met.
    """

    __slots__ = ("base", "buffer", "bytes_read", "elements_met", "read", "size")

    def __init__(self, read: Callable[[int, int], bytes], size: int, first: bytes = b"") -> None:
        self.read = read
        self.size = size
        self.buffer = first
        self.base = 0
        self.bytes_read = len(first)
        self.elements_met = 0

    def count(self, elements: int) -> None:
        """Note that so many more elements were met; HeaderError when they are too many."""
        self.elements_met += elements
        if self.elements_met > MAX_ELEMENTS:
            raise HeaderError(
                f"more than {MAX_ELEMENTS} elements", reason="too_many_elements", limit=MAX_ELEMENTS
            )

    def at(self, position: int, length: int) -> int:
        """Bring [position, position + length) into `buffer` as far as the file goes; return where it starts there."""
        start = position - self.base
        if start >= 0 and start + length <= len(self.buffer):
            return start
        wanted = max(length, 1 << 16)
        self.bytes_read += min(wanted, max(0, self.size - position))
        if self.bytes_read > MAX_HEADER_BYTES:
            raise HeaderError(
                f"the header is longer than {MAX_HEADER_BYTES} bytes",
                reason="header_too_large",
                limit_bytes=MAX_HEADER_BYTES,
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
        if not syntax.explicit or tag in VR_LESS:
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


def skip_sequence(
    window: Window, position: int, syntax: Syntax, trail: "list[Step] | None" = None
) -> int:
    """The byte after the sequence delimitation item of a value of undefined length that starts at `position`.

    Items of defined length are jumped over; of undefined length, walked. Encapsulated fragments look the same.
    """
    open_values = [
        (syntax, True)
    ]  # (syntax inside, holds items) of every value of undefined length that is open
    while open_values:
        if syntax.little and (trail is None or len(trail) > MAX_STEPS):
            trail = None
            start = window.at(position, _HEAD_BYTES)
            end, met = _skim_nested(window.buffer, start, open_values)
            window.count(met)
            position += end - start
        window.count(_PLAIN_COST)
        position = _step_nested(window, position, open_values, trail)
    return position


def _skim_nested(buffer: bytes, at: int, open_values: list[tuple[Syntax, bool]]) -> tuple[int, int]:
    """Go through `buffer` from `at` as `_step_nested` does, up to where that is needed; where this is, and the elements met."""
    met = 0
    limit = len(buffer)
    (explicit, _), holds_items = open_values[-1]
    while at + _HEAD_BYTES <= limit:
        tag, code, short, long = _HEAD(buffer, at)
        end, length = at + 8, code | short << 16
        if tag in _RAW_ENDS:
            if len(open_values) == 1:
                break
            open_values.pop()
            (explicit, _), holds_items = open_values[-1]
            length = 0
        elif holds_items:
            if tag != _RAW_ITEM or (length == UNDEFINED and len(open_values) >= MAX_DEPTH):
                break
            if length == UNDEFINED:
                open_values.append((open_values[-1][0], False))
                holds_items, length = False, 0
        elif explicit:
            if code in _SHORT_CODES:
                length = short
            elif code in _LONG_CODES:
                end, length = at + 12, long
            else:
                break
        if not holds_items and length == UNDEFINED:
            if len(open_values) >= MAX_DEPTH:
                break
            open_values.append(
                (IMPLICIT if explicit and code == _UN_CODE else open_values[-1][0], True)
            )
            (explicit, _), holds_items = open_values[-1]
            length = 0
        if end + length > limit:
            break
        at = end + length
        met += 1
    return at, met


def _step_nested(
    window: Window,
    position: int,
    open_values: list[tuple[Syntax, bool]],
    trail: "list[Step] | None",
) -> int:
    """Past one element inside values of undefined length, of which `open_values` is the stack."""
    current, holds_items = open_values[-1]
    head = read_head(window, position, current)
    undefined = head.length == UNDEFINED
    if trail is not None:
        trail.append(Step(position, head, -1))
    position = head.value
    if head.tag in (ITEM_END, SEQUENCE_END):
        open_values.pop()
    elif head.tag == ITEM and holds_items:
        if undefined:
            open_values.append((current, False))
        else:
            position += head.length
    elif holds_items:
        raise HeaderError(
            f"an item was expected at byte {head.value - 8}, found tag {head.tag:08X}",
            reason="malformed",
            position=head.value - 8,
        )
    elif undefined:
        open_values.append((inner_syntax(head.vr, current), True))
    else:
        position += head.length
    if len(open_values) > MAX_DEPTH:
        raise HeaderError(
            f"sequences are nested more than {MAX_DEPTH} deep", reason="too_deep", limit=MAX_DEPTH
        )
    if position > window.size:
        raise _truncated(head.value, head.length, window.size)
    return position


class Wanted:
    """Which elements a walk keeps: slot i of its result is for ``entries[i]``.

    An entry is (tag, private creator); the creator is "" for standard elements, and a vendor's tag has 00 as its
    block byte (PS3.5 7.8.1). Tag 0 leaves its slot empty.
    """

    def __init__(self, entries: Sequence[tuple[int, str]]) -> None:
        self.size = len(entries)
        self.slots = {
            _raw_tag(tag): slot
            for slot, (tag, creator) in enumerate(entries)
            if tag and not creator
        }
        self.slots |= dict.fromkeys(_RAW_STOPS, _STOP)
        self.blocks: dict[tuple[int, bytes], list[tuple[int, int]]] = {}
        for slot, (tag, creator) in enumerate(entries):
            if creator:
                self.blocks.setdefault((tag >> 16, creator.encode()), []).append((tag & 0xFF, slot))


class _Kept:
    """The values that one walk keeps, by slot, and which tags it still waits for (as raw little-endian numbers)."""

    __slots__ = ("_blocks", "slots", "values")

    def __init__(self, wanted: Wanted) -> None:
        self.values = [b""] * wanted.size
        self.slots = wanted.slots
        self._blocks = wanted.blocks

    def reserve(self, raw_tag: int, creator: bytes) -> None:
        """Wait for the wanted tags of the block that the element `raw_tag` reserves for `creator` (PS3.5 7.8.1)."""
        group, block = raw_tag & 0xFFFF, raw_tag >> 16
        mine = self._blocks.get((group, creator.strip(b" \0")))
        if mine:
            # a copy: the next file reserves other blocks
            self.slots = self.slots | {(block << 8 | low) << 16 | group: slot for low, slot in mine}


def _is_creator(raw_tag: int) -> bool:
    return bool(raw_tag & 1) and 0x0010_0000 <= raw_tag <= 0x00FF_FFFF


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


def walk(
    window: Window, position: int, syntax: Syntax, wanted: Wanted, trail: list[Step] | None = None
) -> Walked:
    """Walk the top level of a data set from `position` to its pixel data or its end.

    Raises HeaderError (reason `truncated`, `malformed`, `too_deep`, `too_many_elements`, `header_too_large`) where
    the structure breaks: a file that ends inside an element has lost some, and nobody could tell which.
    A `trail` gets the steps of the walk; once it is longer than `MAX_STEPS`, it gets no more.
    """
    kept = _Kept(wanted)
    skim = _skim_explicit if syntax.explicit else _skim_implicit
    while True:
        if syntax.little:
            trail = trail if trail is not None and len(trail) <= MAX_STEPS else None
            start = window.at(position, _HEAD_BYTES)
            seen: list[Seen] | None = None if trail is None else []
            end, met = skim(window.buffer, start, kept, seen)
            window.count(met)
            if trail is not None:
                trail += [
                    _as_step(one, position - start, explicit=syntax.explicit) for one in seen or ()
                ]
            position += end - start
        if position >= window.size:
            return Walked(tuple(kept.values), None)
        window.count(_PLAIN_COST)
        head = read_head(window, position, syntax)
        if head.tag in PIXEL_TAGS:
            if trail is not None:
                trail.append(Step(position, head, -1))
            return Walked(tuple(kept.values), head)
        after = _step(window, position, head, syntax, kept, trail)
        if after is None:
            return Walked(tuple(kept.values), None)
        position = after


def _step(
    window: Window,
    position: int,
    head: ElementHead,
    syntax: Syntax,
    kept: _Kept,
    trail: list[Step] | None,
) -> int | None:
    """Past one element of the top level, keeping its value if it is wanted; None at padding after the data set."""
    tag, vr, value, length = head
    raw_tag = _raw_tag(tag)
    slot = kept.slots.get(raw_tag, -1)
    creator = slot < 0 and _is_creator(raw_tag)
    if trail is not None:
        trail.append(Step(position, head, max(slot, -1), creator))
    if length == UNDEFINED:
        end = skip_sequence(window, value, inner_syntax(vr, syntax), trail if slot < 0 else None)
        if slot >= 0:
            kept.values[slot] = window.take(value, end - value - 8)
        return end
    end = value + length
    if end > window.size:
        if tag == 0 or tag >> 16 == 0xFFFC:
            return None
        raise _truncated(value, length, window.size)
    if slot >= 0:
        kept.values[slot] = window.take(value, length)
    elif creator:
        kept.reserve(raw_tag, window.take(value, length))
    return end


# What a skim notes of an element: raw tag, VR as a number, where it and its value are in the buffer, its length, its slot.
Seen: TypeAlias = tuple[int, int, int, int, int, int]


def _as_step(seen: Seen, shift: int, *, explicit: bool) -> Step:
    raw_tag, code, at, value, length, slot = seen
    vr = code.to_bytes(2, "little") if explicit and code else b""
    head = ElementHead(_raw_tag(raw_tag), vr, value + shift, length)
    return Step(at + shift, head, max(slot, -1), slot < 0 and _is_creator(raw_tag))


def _skim_explicit(
    buffer: bytes, at: int, kept: _Kept, seen: list[Seen] | None = None
) -> tuple[int, int]:
    """Go through `buffer` from `at` as `_step` does, up to where that is needed; where this is, and the elements met."""
    met = 0
    limit = len(buffer)
    last = limit - _HEAD_BYTES
    values, slot_of = kept.values, kept.slots.get
    while at <= last:
        tag, code, length, long = _HEAD(buffer, at)
        if code in _SHORT_CODES:
            value = at + 8
        elif code in _LONG_CODES:
            value, length = at + 12, long
        elif tag or code or length:
            break
        else:  # zeros after the data set
            value = at + 8
        end = value + length
        slot = slot_of(tag, -1)
        if end > limit or slot == _STOP:
            break
        if seen is not None:
            seen.append((tag, code, at, value, length, slot))
        if slot >= 0:
            values[slot] = buffer[value:end]
        elif tag & 1 and 0x0010_0000 <= tag <= 0x00FF_FFFF:  # _is_creator
            kept.reserve(tag, buffer[value:end])
            slot_of = kept.slots.get
        at = end
        met += 1
    return at, met


def _skim_implicit(
    buffer: bytes, at: int, kept: _Kept, seen: list[Seen] | None = None
) -> tuple[int, int]:
    """As `_skim_explicit`, for elements without VR."""
    met = 0
    limit = len(buffer)
    last = limit - _HEAD_BYTES
    values, slot_of = kept.values, kept.slots.get
    while at <= last:
        tag, low, high, _ = _HEAD(buffer, at)
        value = at + 8
        end = value + (low | high << 16)
        slot = slot_of(tag, -1)
        if end > limit or slot == _STOP:
            break
        if seen is not None:
            seen.append((tag, 0, at, value, end - value, slot))
        if slot >= 0:
            values[slot] = buffer[value:end]
        elif tag & 1 and 0x0010_0000 <= tag <= 0x00FF_FFFF:  # _is_creator
            kept.reserve(tag, buffer[value:end])
            slot_of = kept.slots.get
        at = end
        met += 1
    return at, met


def walk_meta(
    window: Window, position: int, trail: list[Step] | None, slot: int
) -> tuple[bytes, int]:
    """The raw transfer syntax (b"" when not given) and where the data set starts; the group length is not trusted.

    The file meta information is explicit little endian in every file (PS3.10 7.1); `slot` is noted for the transfer syntax.
    """
    transfer_syntax = b""
    while position < window.size:
        start = window.at(position, 2)
        if window.buffer[start : start + 2] != b"\x02\x00":
            break
        window.count(MAX_ELEMENTS // MAX_META_ELEMENTS)
        head = read_head(window, position, EXPLICIT)
        is_syntax = head.tag == TRANSFER_SYNTAX
        if trail is not None:
            trail.append(Step(position, head, slot if is_syntax else -1))
        position = head.value + head.length
        if position > window.size:
            raise _truncated(head.value, head.length, window.size)
        if is_syntax:
            transfer_syntax = window.take(head.value, head.length)
    return transfer_syntax, position


def iterate(
    raw: bytes, syntax: Syntax, account: Window | None = None
) -> Iterator[tuple[int, bytes, bytes]]:
    """(tag, VR, value) of the elements of one data set or item that is wholly in memory; `account` counts them."""
    window = Window(lambda offset, length: raw[offset : offset + length], len(raw), raw)
    position = 0
    account = account or window
    while position < len(raw):
        account.count(_ITERATE_COST)
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


def items(raw: bytes, syntax: Syntax, account: Window | None = None) -> Iterator[bytes]:
    """The items of a sequence's value, each as its bytes without item header and delimiter (PS3.5 7.5); `account` counts them."""
    window = Window(lambda offset, length: raw[offset : offset + length], len(raw), raw)
    position = 0
    account = account or window
    while position + 8 <= len(raw):
        account.count(_ITERATE_COST)
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
