"""The walk over the elements of a data set, which returns the raw values of wanted elements.

This module implements PS3.5 section 7 (data element structure, sequences, items) and ignores the
meaning of the values. It reads only the first bytes of a file, through a `Window`.

Each walk has two gears. The plain gear reads one element at a time, handles every odd case and
reports defects. The fast gear (`_skim_*`) takes about 0.25 us per element. It runs through the
buffered bytes and stops before anything but an ordinary little-endian element. A third way is
`_layouts`: slices of one series repeat the same element headers, so it stores them as runs between
the elements whose length varies, and compares each run with one `struct` call. The result equals
that of the walk, in a fifth of its time.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from dicomdl.errors import HeaderError
from dicomdl.headers._heads import (
    EXPLICIT,
    HEAD,
    HEAD_BYTES,
    LONG_CODES,
    MAX_STEPS,
    MEDIA_STORAGE_SOP_CLASS,
    PIXEL_TAGS,
    PLAIN_COST,
    RAW_STOPS,
    SHORT_CODES,
    TRANSFER_SYNTAX,
    UNDEFINED,
    VR_LESS,
    ElementHead,
    Step,
    Syntax,
    inner_syntax,
    raw_tag,
    read_head,
)
from dicomdl.headers._nested import skip_sequence
from dicomdl.headers._window import Window, truncated

# The cost of an element of the file meta information, of which a file has about ten.
_META_COST: Final = 3000
# Replaces the slot of elements that the fast gear leaves to the plain one.
_STOP: Final = -2
# The longest value of a VR whose length has 16 bits (PS3.5 7.1.2), which is even.
LONGEST_SHORT: Final = 0xFFFE


class Wanted:
    """The elements whose values a walk returns: slot i of the result belongs to ``entries[i]``.

    An entry is (tag, private creator). The creator is "" for standard elements. A private tag has
    00 as its block byte (PS3.5 7.8.1). Tag 0 leaves its slot empty. The slots of `short` have a VR
    whose length has 16 bits.
    """

    def __init__(
        self, entries: Sequence[tuple[int, str]], short: frozenset[int] = frozenset()
    ) -> None:
        self.size = len(entries)
        self.short = short
        self.slots = {
            raw_tag(tag): slot for slot, (tag, creator) in enumerate(entries) if tag and not creator
        }
        self.slots |= dict.fromkeys(RAW_STOPS, _STOP)
        self.blocks: dict[tuple[int, bytes], list[tuple[int, int]]] = {}
        for slot, (tag, creator) in enumerate(entries):
            if creator:
                self.blocks.setdefault((tag >> 16, creator.encode()), []).append((tag & 0xFF, slot))


class _Values:
    """The values that one walk has collected, by slot, and the slots of wanted tags.

    Tags are raw little-endian numbers.
    """

    __slots__ = ("_blocks", "short", "slots", "values")

    def __init__(self, wanted: Wanted) -> None:
        self.short = wanted.short
        self.values = [b""] * wanted.size
        self.slots = wanted.slots
        self._blocks = wanted.blocks

    def reserve(self, raw: int, creator: bytes) -> None:
        """Add the wanted tags of the block that the element `raw` reserves (PS3.5 7.8.1)."""
        group, block = raw & 0xFFFF, raw >> 16
        wanted = self._blocks.get((group, creator.strip(b" \0")))
        if wanted:
            tags = {(block << 8 | low) << 16 | group: slot for low, slot in wanted}
            # A new dict per file, because the next file may reserve other blocks.
            self.slots = self.slots | tags


def _is_creator(raw: int) -> bool:
    return bool(raw & 1) and 0x0010_0000 <= raw <= 0x00FF_FFFF


class Walked(NamedTuple):
    """The result of a walk: raw values by slot (b"" if absent), and the pixel data element or None.

    The values keep the byte order of the file. `stray` tells that an item or a delimiter was
    outside of every sequence: a part of the structure is lost, or a writer closes a sequence twice.
    """

    values: tuple[bytes, ...]
    pixel_data: ElementHead | None
    stray: bool = False


def walk(
    window: Window, position: int, syntax: Syntax, wanted: Wanted, trail: list[Step] | None = None
) -> Walked:
    """Walk the top level of a data set from `position` to its pixel data or its end.

    `trail` collects the steps of the walk, until it is longer than `MAX_STEPS`.

    Raises
    ------
    HeaderError
        The structure is broken: reason `truncated`, `malformed`, `too_deep`, `too_many_elements` or
        `header_too_large`. A file that ends inside an element is refused, because an unknown number
        of further elements is missing.
    """
    collected = _Values(wanted)
    skim = _skim_explicit if syntax.explicit else _skim_implicit
    stray = False
    while True:
        if syntax.little:
            trail = trail if trail is not None and len(trail) <= MAX_STEPS else None
            start = window.at(position, HEAD_BYTES)
            seen: list[Seen] | None = None if trail is None else []
            end, count = skim(window.buffer, start, collected, seen)
            window.count(count)
            if trail is not None:
                shift = position - start
                trail += [_as_step(item, shift, explicit=syntax.explicit) for item in seen or ()]
            position += end - start
        if position >= window.size:
            return Walked(tuple(collected.values), None)
        window.count(PLAIN_COST)
        head = read_head(window, position, syntax)
        stray = stray or head.tag in VR_LESS
        if head.tag in PIXEL_TAGS:
            if trail is not None:
                trail.append(Step(position, head, -1))
            return Walked(tuple(collected.values), head, stray)
        after = _step(window, position, head, syntax, collected, trail)
        if after is None:
            return Walked(tuple(collected.values), None)
        position = after


def _step(
    window: Window,
    position: int,
    head: ElementHead,
    syntax: Syntax,
    collected: _Values,
    trail: list[Step] | None,
) -> int | None:
    """Pass one element of the top level, and collect its value if it is wanted.

    Returns the position after the element, or None at padding after the data set.
    """
    tag, vr, value, length = head
    raw = raw_tag(tag)
    slot = collected.slots.get(raw, -1)
    # A creator is text (PS3.5 7.8.1), so an element of undefined length reserves no block.
    creator = slot < 0 and length != UNDEFINED and _is_creator(raw)
    if trail is not None:
        trail.append(Step(position, head, max(slot, -1), creator))
    if length == UNDEFINED:
        end = skip_sequence(window, value, inner_syntax(vr, syntax), trail if slot < 0 else None)
        if slot >= 0:
            collected.values[slot] = window.take(value, end - value - 8)
        return end
    end = value + length
    if end > window.size:
        if tag == 0 or tag >> 16 == 0xFFFC:
            return None
        raise truncated(value, length, window.size)
    if slot >= 0:
        if length > LONGEST_SHORT and slot in collected.short:
            raise too_long(tag, length)
        collected.values[slot] = window.take(value, length)
    elif creator:
        collected.reserve(raw, window.take(value, length))
    return end


def too_long(tag: int, length: int) -> HeaderError:
    """Return the error for a value that is longer than its VR allows."""
    return HeaderError(
        f"the value of ({tag >> 16:04X},{tag & 0xFFFF:04X}) has {length} bytes, its VR allows "
        f"{LONGEST_SHORT}",
        reason="malformed",
        limit_bytes=LONGEST_SHORT,
        found_bytes=length,
    )


# An element that a skim has passed: raw tag, VR as a number, its offset and that of its value in
# the buffer, its length, its slot.
Seen: TypeAlias = tuple[int, int, int, int, int, int]


def _as_step(seen: Seen, shift: int, *, explicit: bool) -> Step:
    raw, code, at, value, length, slot = seen
    vr = code.to_bytes(2, "little") if explicit and code else b""
    head = ElementHead(raw_tag(raw), vr, value + shift, length)
    return Step(at + shift, head, max(slot, -1), slot < 0 and _is_creator(raw))


def _skim_explicit(
    buffer: bytes, at: int, collected: _Values, seen: list[Seen] | None = None
) -> tuple[int, int]:
    """Pass ordinary elements of `buffer` from `at` on, and stop where `_step` is needed.

    Returns the offset of the stop, and the number of elements passed.
    """
    count = 0
    limit = len(buffer)
    last = limit - HEAD_BYTES
    values, slot_of = collected.values, collected.slots.get
    while at <= last:
        tag, code, length, long = HEAD(buffer, at)
        if code in SHORT_CODES:
            value = at + 8
        elif code in LONG_CODES:
            value, length = at + 12, long
        elif tag or code or length:
            break
        else:
            # Zeros after the data set.
            value = at + 8
        end = value + length
        slot = slot_of(tag, -1)
        if end > limit or slot == _STOP:
            break
        if slot >= 0:
            if length > LONGEST_SHORT:
                break
            values[slot] = buffer[value:end]
        elif tag & 1 and 0x0010_0000 <= tag <= 0x00FF_FFFF:
            # The condition is that of _is_creator, without a call.
            collected.reserve(tag, buffer[value:end])
            slot_of = collected.slots.get
        if seen is not None:
            seen.append((tag, code, at, value, length, slot))
        at = end
        count += 1
    return at, count


def skim_explicit(buffer: bytes, at: int, wanted: Wanted) -> tuple[bytes, ...]:
    """Return the raw values by slot that lie before the first element that is not ordinary."""
    collected = _Values(wanted)
    _skim_explicit(buffer, at, collected)
    return tuple(collected.values)


def _skim_implicit(
    buffer: bytes, at: int, collected: _Values, seen: list[Seen] | None = None
) -> tuple[int, int]:
    """Pass ordinary elements as `_skim_explicit` does, for elements without VR."""
    count = 0
    limit = len(buffer)
    last = limit - HEAD_BYTES
    values, slot_of = collected.values, collected.slots.get
    while at <= last:
        tag, low, high, _ = HEAD(buffer, at)
        value = at + 8
        end = value + (low | high << 16)
        slot = slot_of(tag, -1)
        if end > limit or slot == _STOP:
            break
        if slot >= 0:
            if end - value > LONGEST_SHORT:
                break
            values[slot] = buffer[value:end]
        elif tag & 1 and 0x0010_0000 <= tag <= 0x00FF_FFFF:
            collected.reserve(tag, buffer[value:end])
            slot_of = collected.slots.get
        if seen is not None:
            seen.append((tag, 0, at, value, end - value, slot))
        at = end
        count += 1
    return at, count


def walk_meta(
    window: Window, position: int, trail: list[Step] | None, slot: int
) -> tuple[bytes, int]:
    """Return the raw transfer syntax (b"" if absent), and the position of the data set.

    The file meta information is explicit little endian in every file (PS3.10 7.1). Its group length
    is often wrong, so it is ignored. `trail` collects the steps; `slot` is that of the transfer
    syntax.
    """
    transfer_syntax = b""
    while position < window.size:
        start = window.at(position, 2)
        if window.buffer[start : start + 2] != b"\x02\x00":
            break
        window.count(_META_COST)
        head = read_head(window, position, EXPLICIT)
        is_syntax = head.tag == TRANSFER_SYNTAX
        if trail is not None:
            trail.append(Step(position, head, slot if is_syntax else -1))
        position = head.value + head.length
        # An undefined length is no length even in a file that has so many bytes.
        if position > window.size or head.length == UNDEFINED:
            raise truncated(head.value, head.length, window.size)
        if is_syntax:
            transfer_syntax = window.take(head.value, head.length)
    return transfer_syntax, position


def media_storage_class(window: Window, position: int) -> bytes:
    """Return the raw SOP class in the file meta information (PS3.10 7.1); b"" if absent."""
    trail: list[Step] = []
    walk_meta(window, position, trail, -1)
    for _, head, *_ in trail:
        if head.tag == MEDIA_STORAGE_SOP_CLASS:
            return window.take(head.value, head.length)
    return b""
