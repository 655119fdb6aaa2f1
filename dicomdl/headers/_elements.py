"""The walk over a data set's elements: bytes in, the raw values of wanted elements out.

Knows PS3.5 section 7 (data element structure, sequences, items) and nothing of what the values
mean. Only the first bytes of a file are looked at, through a `window`.

Each walk has two gears. The plain one reads one element at a time, knows every odd case and says
what is wrong; the fast one (`_skim_*`) goes through the bytes at hand and stops before anything
that is not an ordinary little-endian element, at about 0.25 us an element. Slices of one series
repeat the same element headers, so `layouts` remembers them as runs between the elements whose
length varies and compares each run with one `struct` call; the result is the same as the walk's, at
a fifth of its time.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from dicomdl.headers._heads import (
    EXPLICIT,
    HEAD,
    HEAD_BYTES,
    LONG_CODES,
    MAX_STEPS,
    PIXEL_TAGS,
    PLAIN_COST,
    RAW_STOPS,
    SHORT_CODES,
    TRANSFER_SYNTAX,
    UNDEFINED,
    ElementHead,
    Step,
    Syntax,
    inner_syntax,
    raw_tag,
    read_head,
)
from dicomdl.headers._nested import skip_sequence
from dicomdl.headers._window import MAX_ELEMENTS, Window, truncated

MAX_META_ELEMENTS: Final = 1000
_STOP: Final = -2  # instead of a slot: the fast gear leaves this element to the plain one


class Wanted:
    """Which elements a walk keeps: slot i of its result is for ``entries[i]``.

    An entry is (tag, private creator); the creator is "" for standard elements, and a vendor's tag
    has 00 as its block byte (PS3.5 7.8.1). Tag 0 leaves its slot empty.
    """

    def __init__(self, entries: Sequence[tuple[int, str]]) -> None:
        self.size = len(entries)
        self.slots = {
            raw_tag(tag): slot for slot, (tag, creator) in enumerate(entries) if tag and not creator
        }
        self.slots |= dict.fromkeys(RAW_STOPS, _STOP)
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

    def reserve(self, raw: int, creator: bytes) -> None:
        """Wait for the wanted tags of the block that the element `raw` reserves for `creator` (PS3.5 7.8.1)."""
        group, block = raw & 0xFFFF, raw >> 16
        mine = self._blocks.get((group, creator.strip(b" \0")))
        if mine:
            # a copy: the next file reserves other blocks
            self.slots = self.slots | {(block << 8 | low) << 16 | group: slot for low, slot in mine}


def _is_creator(raw: int) -> bool:
    return bool(raw & 1) and 0x0010_0000 <= raw <= 0x00FF_FFFF


class Walked(NamedTuple):
    """The result of a walk.

    Raw values by slot (b"" when absent), and the pixel data element (None when there is none).
    """

    values: tuple[bytes, ...]
    pixel_data: ElementHead | None


def walk(
    window: Window, position: int, syntax: Syntax, wanted: Wanted, trail: list[Step] | None = None
) -> Walked:
    """Walk the top level of a data set from `position` to its pixel data or its end.

    Raises HeaderError (reason `truncated`, `malformed`, `too_deep`, `too_many_elements`,
    `header_too_large`) where the structure breaks: a file that ends inside an element has lost
    some, and nobody could tell which. A `trail` gets the steps of the walk; once it is longer than
    `MAX_STEPS`, it gets no more.
    """
    kept = _Kept(wanted)
    skim = _skim_explicit if syntax.explicit else _skim_implicit
    while True:
        if syntax.little:
            trail = trail if trail is not None and len(trail) <= MAX_STEPS else None
            start = window.at(position, HEAD_BYTES)
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
        window.count(PLAIN_COST)
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
    """Past one element of the top level, keeping its value if it is wanted.

    None at padding after the data set.
    """
    tag, vr, value, length = head
    raw = raw_tag(tag)
    slot = kept.slots.get(raw, -1)
    creator = slot < 0 and _is_creator(raw)
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
        raise truncated(value, length, window.size)
    if slot >= 0:
        kept.values[slot] = window.take(value, length)
    elif creator:
        kept.reserve(raw, window.take(value, length))
    return end


# What a skim notes of an element: raw tag, VR as a number, where it and its value are in the
# buffer, its length, its slot.
Seen: TypeAlias = tuple[int, int, int, int, int, int]


def _as_step(seen: Seen, shift: int, *, explicit: bool) -> Step:
    raw, code, at, value, length, slot = seen
    vr = code.to_bytes(2, "little") if explicit and code else b""
    head = ElementHead(raw_tag(raw), vr, value + shift, length)
    return Step(at + shift, head, max(slot, -1), slot < 0 and _is_creator(raw))


def _skim_explicit(
    buffer: bytes, at: int, kept: _Kept, seen: list[Seen] | None = None
) -> tuple[int, int]:
    """Go through `buffer` from `at` as `_step` does, up to where that is needed.

    Where this is, and the elements met.
    """
    met = 0
    limit = len(buffer)
    last = limit - HEAD_BYTES
    values, slot_of = kept.values, kept.slots.get
    while at <= last:
        tag, code, length, long = HEAD(buffer, at)
        if code in SHORT_CODES:
            value = at + 8
        elif code in LONG_CODES:
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
    last = limit - HEAD_BYTES
    values, slot_of = kept.values, kept.slots.get
    while at <= last:
        tag, low, high, _ = HEAD(buffer, at)
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
    """The raw transfer syntax (b"" when not given) and where the data set starts.

    The group length is not trusted.

    The file meta information is explicit little endian in every file (PS3.10 7.1); `slot` is noted
    for the transfer syntax.
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
            raise truncated(head.value, head.length, window.size)
        if is_syntax:
            transfer_syntax = window.take(head.value, head.length)
    return transfer_syntax, position
