"""Sequences and their items (PS3.5 7.5): skipped, or iterated element by element."""

from collections.abc import Callable, Iterator
from typing import Final

from dicomdl.errors import HeaderError
from dicomdl.headers._heads import (
    HEAD,
    HEAD_BYTES,
    IMPLICIT,
    ITEM,
    ITEM_END,
    LONG_CODES,
    MAX_STEPS,
    PLAIN_COST,
    SEQUENCE_END,
    SHORT_CODES,
    UN_CODE,
    UNDEFINED,
    Step,
    Syntax,
    inner_syntax,
    raw_tag,
    read_head,
)
from dicomdl.headers._window import Window, truncated

MAX_DEPTH: Final = 32
_ITERATE_COST: Final = 4
# Bytes of a value that is copied only if it is wanted.
_LONG: Final = 2**16
_RAW_ITEM: Final = raw_tag(ITEM)
_RAW_ENDS: Final = frozenset({raw_tag(ITEM_END), raw_tag(SEQUENCE_END)})


def skip_sequence(
    window: Window, position: int, syntax: Syntax, trail: "list[Step] | None" = None
) -> int:
    """Skip a value of undefined length; return the position after its sequence delimitation item.

    The value starts at `position`. Items of defined length are skipped in one step, those of
    undefined length are walked. Encapsulated fragments have the same structure.
    """
    # (syntax inside, contains items) per open value of undefined length.
    open_values = [(syntax, True)]
    while open_values:
        if syntax.little and (trail is None or len(trail) > MAX_STEPS):
            trail = None
            start = window.at(position, HEAD_BYTES)
            end, count = _skim_nested(window.buffer, start, open_values)
            window.count(count)
            position += end - start
        window.count(PLAIN_COST)
        position = _step_nested(window, position, open_values, trail)
    return position


def _skim_nested(buffer: bytes, at: int, open_values: list[tuple[Syntax, bool]]) -> tuple[int, int]:
    """Pass ordinary elements of `buffer` from `at` on, and stop where `_step_nested` is needed.

    Returns the offset of the stop, and the number of elements passed.
    """
    count = 0
    limit = len(buffer)
    (explicit, _), holds_items = open_values[-1]
    while at + HEAD_BYTES <= limit:
        tag, code, short, long = HEAD(buffer, at)
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
            if code in SHORT_CODES:
                length = short
            elif code in LONG_CODES:
                end, length = at + 12, long
            else:
                break
        if not holds_items and length == UNDEFINED:
            if len(open_values) >= MAX_DEPTH:
                break
            open_values.append(
                (IMPLICIT if explicit and code == UN_CODE else open_values[-1][0], True)
            )
            (explicit, _), holds_items = open_values[-1]
            length = 0
        if end + length > limit:
            break
        at = end + length
        count += 1
    return at, count


def _step_nested(
    window: Window,
    position: int,
    open_values: list[tuple[Syntax, bool]],
    trail: "list[Step] | None",
) -> int:
    """Pass one element inside values of undefined length, whose stack is `open_values`.

    Returns the position after the element.
    """
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
        raise truncated(head.value, head.length, window.size)
    return position


def iterate(
    raw: bytes,
    syntax: Syntax,
    account: Window | None = None,
    wants: Callable[[int], bool] | None = None,
) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (tag, VR, value) per element of a data set or item in memory.

    The elements are charged to `account`. Of a long value whose tag is not wanted, the value is
    b"" instead of a copy.
    """
    window = Window.on(raw)
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
                raise truncated(head.value, head.length, len(raw))
            is_passed = head.length > _LONG and wants is not None and not wants(head.tag)
            yield head.tag, head.vr, b"" if is_passed else raw[head.value : position]


def items(raw: bytes, syntax: Syntax, account: Window | None = None) -> Iterator[bytes]:
    """Yield the items of a sequence as bytes without item header and delimiter (PS3.5 7.5).

    The items are charged to `account`.
    """
    window = Window.on(raw)
    position = 0
    account = account or window
    while position + 8 <= len(raw):
        account.count(_ITERATE_COST)
        head = read_head(window, position, syntax)
        if head.tag != ITEM:
            return
        if head.length == UNDEFINED:
            # An item of undefined length ends with a delimiter, like a sequence.
            end = _item_end(window, head.value, syntax)
            yield raw[head.value : end - 8]
        else:
            end = head.value + head.length
            if end > len(raw):
                raise truncated(head.value, head.length, len(raw))
            yield raw[head.value : end]
        position = end


def _item_end(window: Window, position: int, syntax: Syntax) -> int:
    """Return the position after the delimiter of an item of undefined length at `position`."""
    while position < window.size:
        head = read_head(window, position, syntax)
        if head.tag == ITEM_END:
            return head.value
        if head.length == UNDEFINED:
            position = skip_sequence(window, head.value, inner_syntax(head.vr, syntax))
        else:
            position = head.value + head.length
    raise truncated(position, 8, window.size)
