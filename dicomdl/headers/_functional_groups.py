"""The rows of a multi-frame file.

Shared and per-frame functional groups (PS3.3 C.7.6.16), and vectors of one value a frame.
"""

from collections.abc import Mapping, Sequence

from dicomdl.errors import HeaderError
from dicomdl.headers._nested import items, iterate
from dicomdl.headers._rows import Context, Row, Schema, override
from dicomdl.headers.columns import swap_bytes, vector_values


def frame_rows(
    row: Row, frames: int, shared: bytes, per_frame: bytes, context: Context
) -> Sequence[Row]:
    """One row a frame.

    The file's values under the shared and per-frame functional groups and the frame's vectors.
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
    """What holds for every frame where nothing says whose groups are whose, such as in files of which a tool kept some frames.

    What the groups differ in is unknown then: such frames have no position. Their values must not depend on it. With fewer
    groups than frames, what the groups say need not hold for the frames that have none.
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
            "nothing says whose they are",
            reason="functional_groups",
            expected=frames,
            found=len(groups),
        )
    return {number: value or b"" for number, value in agreed.items()}


def _group_values(item: bytes, context: Context, outer: tuple[int, ...] = ()) -> dict[int, bytes]:
    """Raw values by column of one item of a functional groups sequence.

    Macros nest once (MR diffusion).
    """
    schema, _, syntax, account, *_ = context
    found: dict[int, bytes] = {}
    for tag, vr, value in iterate(item, syntax, account):
        number = schema.groups.get((outer[-1], tag)) if outer else None
        if number is not None:
            found[number] = value if syntax.little else swap_bytes(value, schema.columns[number])
        elif (
            len(outer) < 2
            and tag in schema.macros
            and (vr in (b"SQ", b"") and (value[:4] == b"\xfe\xff\x00\xe0" or not syntax.little))
        ):
            for inner in items(value, syntax, account):
                found |= _group_values(inner, context, (*outer, tag))
                break
    return found


def first_item(raw: bytes, wanted: Mapping[int, int], context: Context) -> dict[int, bytes]:
    """Raw values by column of the first item of a sequence; `wanted` gives the column of a tag."""
    for item in items(raw, context.syntax, context.window):
        found = {
            wanted[tag]: value
            for tag, _, value in iterate(item, context.syntax, context.window)
            if tag in wanted
        }
        return found if context.syntax.little else context.schema.swapped(found)
    return {}
