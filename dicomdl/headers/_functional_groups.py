"""The rows of a multi-frame file, from functional groups and from vectors.

Shared and per-frame functional groups are those of PS3.3 C.7.6.16. A vector has one value per
frame.
"""

from collections.abc import Mapping, Sequence

from dicomdl.errors import HeaderError
from dicomdl.headers._nested import items, iterate
from dicomdl.headers._rows import Context, Row, Schema, override
from dicomdl.headers.columns import swap_bytes, vector_values


def frame_rows(
    row: Row, frames: int, shared: bytes, per_frame: bytes, context: Context
) -> Sequence[Row]:
    """Return one row per frame.

    The values of the file are overridden by the shared functional groups, then by those of the
    frame, then by the vectors.
    """
    schema, _, syntax, account, *_ = context
    if shared:
        for item in items(shared, syntax, account):
            row = override(row, _group_values(item, context))
    has_vectors = any(schema.vectors_of(row))
    if not per_frame and not has_vectors:
        return [row] * frames
    changes: list[dict[int, bytes]] = [{} for _ in range(frames)]
    if per_frame:
        changes = [_group_values(item, context) for item in items(per_frame, syntax, account)]
        if len(changes) != frames:
            changes = [_agreed(changes, frames, schema)] * frames
    for number in schema.per_frame if has_vectors else ():
        values = vector_values(row[number], schema.columns[number], frames)
        changes = [{**change, number: value} for change, value in zip(changes, values, strict=True)]
    return [override(row, change) for change in changes]


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


def _group_values(item: bytes, context: Context, outer: tuple[int, ...] = ()) -> dict[int, bytes]:
    """Return the raw values by column of one item of a functional groups sequence.

    Macros nest once (MR diffusion).
    """
    schema, _, syntax, account, *_ = context
    values: dict[int, bytes] = {}
    for tag, vr, value in iterate(item, syntax, account):
        number = schema.groups.get((outer[-1], tag)) if outer else None
        if number is not None:
            values[number] = value if syntax.little else swap_bytes(value, schema.columns[number])
        elif (
            len(outer) < 2
            and tag in schema.macros
            and (vr in (b"SQ", b"") and (value[:4] == b"\xfe\xff\x00\xe0" or not syntax.little))
        ):
            for inner in items(value, syntax, account):
                values |= _group_values(inner, context, (*outer, tag))
                break
    return values


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
