"""Items of sequences that hold attributes of the top level of a classic image.

A converter from classic images to a Legacy Converted Enhanced object puts the attributes that have
no functional group of their own into the only item of the Unassigned Shared or the Unassigned
Per-Frame Converted Attributes Sequence (PS3.3 C.7.6.16.2.25, C.7.6.16.2.26). The Conversion Source
Attributes Sequence beside them only names the source. Philips puts the attributes of the classic
image into a private item, per frame in an enhanced object. Both kinds of items are walked like a
data set, private blocks included. Their facts fill columns that the rest of the header leaves
empty, and never replace a value.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dicomdl.errors import HeaderError
from dicomdl.headers._elements import Wanted, walk, walk_meta
from dicomdl.headers._heads import IMPLICIT, Syntax
from dicomdl.headers._nested import items, iterate
from dicomdl.headers._rows import Context, Row, override
from dicomdl.headers._text import transcoded
from dicomdl.headers._window import Window
from dicomdl.headers.columns import require_real

CONVERTED: Final = frozenset({0x00209170, 0x00209171})
# (tag, private creator).
PHILIPS_ITEMS: Final = (0x2005000F, "Philips MR Imaging DD 005")
_PHILIPS_CREATOR: Final = PHILIPS_ITEMS[1].encode()
# A separate walk reads it from classic images: its 75 elements would cost three times the rest.
_PHILIPS_WANTED: Final = Wanted([PHILIPS_ITEMS])
_DIRECTION: Final = "philips_diffusion_direction"
# Philips writes 7.23e75 where a value is undefined.
_UNDEFINED: Final = 1e30
# Reasons of a private item that is no data set. The walk of the file reports all others.
_BROKEN: Final = frozenset({"truncated", "malformed", "too_deep"})


def plain_row(row: Row, sequences: Sequence[bytes], charset: bytes, context: Context) -> Row:
    """Return the values of a data set in little endian and UTF-8, with those from sequences."""
    schema = context.schema
    if not context.syntax.little:
        row = schema.swapped_row(row)
    if any(sequences):
        for (tag, wanted), value in zip(schema.inside.items(), sequences, strict=True):
            if value and tag in schema.counts:
                row = override(row, agreed_items(value, wanted, schema.counts[tag], context))
            elif value:
                row = override(row, first_item(value, wanted, context))
    return transcoded(row, charset, schema) if charset else row


def first_item(raw: bytes, wanted: Mapping[int, int], context: Context) -> dict[int, bytes]:
    """Return the raw values by column of the first item; `wanted` maps tags to columns."""
    for item in items(raw, context.syntax, context.window):
        values = {
            wanted[tag]: value
            for tag, _, value in iterate(item, context.syntax, context.window)
            if tag in wanted
        }
        return values if context.syntax.little else context.schema.swapped(values)
    return {}


def agreed_items(
    raw: bytes, wanted: Mapping[int, int], count: int, context: Context
) -> dict[int, bytes]:
    """Return the raw values by column on which all items agree, and in column `count` their number.

    Items count by their content: repeated and empty ones do not. Values that differ are empty.
    """
    schema, syntax = context.schema, context.syntax
    converters = schema.converters
    different: dict[frozenset[tuple[int, Any]], dict[int, bytes]] = {}
    for item in items(raw, syntax, context.window):
        content = {tag: value for tag, _, value in iterate(item, syntax, context.window)}
        values = {wanted[tag]: value for tag, value in content.items() if tag in wanted}
        values = values if syntax.little else schema.swapped(values)
        # Numbers have several spellings.
        typed = {
            tag: converters[wanted[tag]](values[wanted[tag]])
            if tag in wanted
            else raw.strip(b"\0 ")
            for tag, raw in content.items()
        }
        known = frozenset(
            (tag, value) for tag, value in typed.items() if value not in (b"", "", None)
        )
        if known:
            different[known] = values
    found = list(different.values())
    agreed = {
        number: found[0].get(number, b"")
        if len({converters[number](each.get(number, b"")) for each in found}) == 1
        else b""
        for number in wanted.values()
    }
    return {**agreed, count: str(len(found)).encode()}


def filled(row: Row, facts: Mapping[int, bytes]) -> Row:
    """Return a row whose empty columns have the values of `facts`."""
    return override(row, {number: value for number, value in facts.items() if not row[number]})


def converted_facts(raw: bytes, vr: bytes, context: Context) -> dict[int, bytes]:
    """Return the facts of an Unassigned Converted Attributes Sequence, by column.

    The identity of the object and the coding of its pixels are never those of a source image.
    """
    schema = context.schema
    context = context._replace(syntax=_syntax_inside(raw, vr, context.syntax))
    values = _first_walked(raw, schema.wanted, context)
    if not values:
        return {}
    row, _, sequences = schema.parts(values)
    row = plain_row(row, sequences, context.charset, context)
    facts = {
        number: value
        for number, value in enumerate(row)
        if value
        and schema.columns[number].need not in ("identity", "pixels")
        and not schema.columns[number].per_frame
    }
    for number in schema.required_reals:
        if number in facts:
            require_real(facts[number], schema.columns[number])
    if _PHILIPS_CREATOR not in raw:
        return facts
    (philips,) = _first_walked(raw, _PHILIPS_WANTED, context)
    return philips_facts(philips, context) | facts


def may_have_philips_item(row: Row, context: Context) -> bool:
    """Whether only Philips' item may tell the direction of a classic image.

    Complete files have the same numbers at the top level.
    """
    at, window = context.schema.at, context.window
    return (
        row[at.manufacturer][:7].lower() == b"philips"
        and not row[at.philips_gradient_direction_number]
        and (window.base > 0 or _PHILIPS_CREATOR in window.buffer)
    )


def found_philips_facts(context: Context) -> dict[int, bytes]:
    """Return the facts of Philips' item at the top level of a classic image, by column."""
    start = 0 if context.deflated else walk_meta(context.window, context.start, None, -1)[1]
    (raw,) = walk(context.window, start, context.syntax, _PHILIPS_WANTED).values
    return philips_facts(raw, context)


def is_philips_item(tag: int, creators: Mapping[int, bytes]) -> bool:
    """Whether a private tag is that of Philips' item, by the creators of the data set."""
    creator = creators.get(tag >> 16 << 16 | (tag & 0xFFFF) >> 8)
    return tag & 0xFF == PHILIPS_ITEMS[0] & 0xFF and creator == _PHILIPS_CREATOR


def philips_facts(raw: bytes, context: Context, vr: bytes = b"") -> dict[int, bytes]:
    """Return the facts of Philips' item, by column; none of an item that is no data set."""
    schema = context.schema
    context = context._replace(syntax=_syntax_inside(raw, vr, context.syntax))
    try:
        values = _first_walked(raw, schema.philips_wanted, context)
    except HeaderError as error:
        if error.reason in _BROKEN:
            return {}
        raise
    facts = {number: value for number, value in zip(schema.philips, values, strict=False) if value}
    if not context.syntax.little:
        facts = schema.swapped(facts)
    columns = schema.columns
    facts = {number: v for number, v in facts.items() if _is_defined(v, columns[number].vr)}
    # The direction of an image without one is 0.
    direction = [number for number in facts if columns[number].name.startswith(_DIRECTION)]
    if not any(b"".join(facts[number] for number in direction)):
        facts = {number: value for number, value in facts.items() if number not in direction}
    return facts


def _is_defined(raw: bytes, vr: str) -> bool:
    if vr != "FD":
        return True
    values = struct.unpack(f"<{len(raw) // 8}d", raw[: len(raw) // 8 * 8])
    return all(abs(value) < _UNDEFINED for value in values)


def _first_walked(raw: bytes, wanted: Wanted, context: Context) -> Row:
    """Return the values of the first item of a sequence; () without one."""
    for item in items(raw, context.syntax, context.window):
        window = _window_on(item)
        values = walk(window, 0, context.syntax, wanted).values
        context.window.count(window.elements_met)
        return values
    return ()


def _window_on(raw: bytes) -> Window:
    return Window(lambda offset, length: raw[offset : offset + length], len(raw), raw)


def _syntax_inside(raw: bytes, vr: bytes, syntax: Syntax) -> Syntax:
    """Return the coding of the items of a sequence.

    Software that does not know a private sequence writes it as UN, whose content is implicit little
    endian (PS3.5 6.2.2, note 2). The first element of the first item tells where the VR is lost.
    """
    if vr == b"UN":
        return IMPLICIT
    first = raw[12:14]
    is_explicit = len(first) < 2 or (first.isalpha() and first.isupper())
    return syntax if vr or not syntax.little or is_explicit else IMPLICIT
