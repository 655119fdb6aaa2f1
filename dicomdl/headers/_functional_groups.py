"""The rows of a multi-frame file, from functional groups and from vectors.

Shared and per-frame functional groups are those of PS3.3 C.7.6.16. A vector has one value per
frame. Items that hold the attributes of a classic image fill what the groups leave empty.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dicomdl.errors import HeaderError
from dicomdl.headers._attribute_items import (
    CONVERTED,
    PHILIPS_ITEMS,
    converted_facts,
    filled,
    is_philips_item,
    philips_facts,
)
from dicomdl.headers._nested import items, iterate
from dicomdl.headers._rows import Context, Row, Schema, override
from dicomdl.headers.columns import swap_bytes, vector_values


class _Group(NamedTuple):
    """Raw values by column of one item of a functional groups sequence.

    `values` are those of the macros, `fills` those of items of classic attributes.
    """

    values: dict[int, bytes]
    fills: dict[int, bytes]


def frame_rows(
    row: Row, frames: int, shared: bytes, per_frame: bytes, context: Context
) -> Sequence[Row]:
    """Return one row per frame.

    The values of the file are overridden by the shared functional groups, then by those of the
    frame, then by the vectors. Columns that are still empty are filled.
    """
    schema, _, syntax, account, *_ = context
    fills: dict[int, bytes] = {}
    if shared:
        for item in items(shared, syntax, account):
            group = _group(item, context)
            row = override(row, group.values)
            fills |= group.fills
    has_vectors = any(schema.vectors_of(row))
    if not per_frame and not has_vectors:
        return [filled(row, fills) if fills else row] * frames
    groups = [_Group({}, {})] * frames
    if per_frame:
        groups = [_group(item, context) for item in items(per_frame, syntax, account)]
        if len(groups) != frames:
            values = _agreed([group.values for group in groups], frames, schema)
            groups = [_Group(values, _common([group.fills for group in groups]))] * frames
    changes = [group.values for group in groups]
    for number in schema.per_frame if has_vectors else ():
        vector = vector_values(row[number], schema.columns[number], frames)
        changes = [{**change, number: value} for change, value in zip(changes, vector, strict=True)]
    rows = [override(row, change) for change in changes]
    if not fills and not any(group.fills for group in groups):
        return rows
    return [
        filled(each, {**fills, **group.fills}) for each, group in zip(rows, groups, strict=True)
    ]


def _common(fills: Sequence[Mapping[int, bytes]]) -> dict[int, bytes]:
    """Return the values that are the same in all groups."""
    return dict(set.intersection(*(set(each.items()) for each in fills)))


def _agreed(groups: Sequence[Mapping[int, bytes]], frames: int, schema: Schema) -> dict[int, bytes]:
    """Return the values that all groups share, for files whose groups cannot be assigned to frames.

    A tool that removes frames may leave all groups. Attributes on which the groups disagree are
    left empty, so these frames have no position. Required attributes may not be among them. With
    fewer groups than frames, nothing is known about the frames without a group, and HeaderError is
    raised.
    """
    known = set().union(*groups) if len(groups) > frames else set()
    agreed = {
        number: values.pop() if len(values := {group.get(number) for group in groups}) == 1 else b""
        for number in known
    }
    if not known or any(
        schema.columns[number].required for number, value in agreed.items() if not value
    ):
        raise HeaderError(
            f"NumberOfFrames is {frames}, but there are functional groups for {len(groups)}: "
            "they cannot be assigned to frames",
            reason="functional_groups",
            expected=frames,
            found=len(groups),
        )
    return {number: value or b"" for number, value in agreed.items()}


def _group(item: bytes, context: Context) -> _Group:
    """Return the values of one item of a functional groups sequence."""
    macros = context.schema.macros
    group = _Group({}, {})
    creators: dict[int, bytes] = {}

    def wants(tag: int) -> bool:
        return tag in macros or tag in CONVERTED or tag >> 16 == PHILIPS_ITEMS[0] >> 16

    for tag, vr, value in iterate(item, context.syntax, context.window, wants):
        if tag in macros:
            group.values.update(_macro_values(tag, vr, value, context))
        elif tag in CONVERTED:
            group.fills.update(converted_facts(value, vr, context))
        elif tag >> 16 == PHILIPS_ITEMS[0] >> 16:
            if tag & 0xFF00 == 0:
                creators[tag] = value.strip(b" \0")
            elif is_philips_item(tag, creators):
                group.fills.update(philips_facts(value, context, vr))
    return group


def _macro_values(
    macro: int, vr: bytes, value: bytes, context: Context, *, is_outer: bool = True
) -> dict[int, bytes]:
    """Return the raw values by column of the first item of a macro.

    Macros nest once (MR diffusion).
    """
    schema, _, syntax, account, *_ = context
    values: dict[int, bytes] = {}
    if vr not in (b"SQ", b"") or (value[:4] != b"\xfe\xff\x00\xe0" and syntax.little):
        return values
    for inner in items(value, syntax, account):
        for tag, inner_vr, raw in iterate(inner, syntax, account):
            number = schema.groups.get((macro, tag))
            if number is not None:
                values[number] = raw if syntax.little else swap_bytes(raw, schema.columns[number])
            elif is_outer and tag in schema.macros:
                values |= _macro_values(tag, inner_vr, raw, context, is_outer=False)
        break
    return values
