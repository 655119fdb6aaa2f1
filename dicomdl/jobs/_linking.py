"""Links of annotations with the stacks that they describe, concluded after every scan."""

from typing import NamedTuple

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.geometry.concatenations import CONCATENATION, NUMBER, TOTAL, are_parts, missed_parts
from dicomdl.geometry.linking import PART, READABLE_STATUSES, Link, Reference, Target, Targets
from dicomdl.index.annotations import hashes_of
from dicomdl.index.building import table_of
from dicomdl.index.schema import ANNOTATIONS_SCHEMA, READ_ANNOTATIONS_SCHEMA
from dicomdl.index.table import Table

# Stacks that are annotations themselves describe no annotation.
_DESCRIBED = ("image", "parametric_map")


def without_links(annotations: Table) -> Table:
    """Return the table as it was read, without what a scan concluded."""
    for name in ANNOTATIONS_SCHEMA.names:
        if name not in READ_ANNOTATIONS_SCHEMA.names:
            annotations = annotations.without(name)
    return annotations


def with_links(tables: dict[str, Table]) -> dict[str, Table]:
    """Return the tables `annotations` and `stacks` with their links."""
    annotations, stacks = tables["annotations"], tables["stacks"]
    links = []
    if len(annotations):
        copies = _copies(annotations, tables["frames"], tables["files"])
        links = _links(annotations, tables["frames"], stacks, copies)
    kinds: list[set[str]] = [set() for _ in range(len(stacks))]
    for row, link in enumerate(links):
        for number in link.stacks if link.status in READABLE_STATUSES else ():
            kinds[number].add(annotations.text("kind", row))
    columns = {name: annotations.column(name).to_pylist() for name in READ_ANNOTATIONS_SCHEMA.names}
    columns |= {name: [getattr(link, name) for link in links] for name in Link._fields}
    texts = [" ".join(sorted(each)) for each in kinds]
    return {
        "annotations": table_of(ANNOTATIONS_SCHEMA, columns),
        "stacks": stacks.with_column("annotations", texts),
    }


def _links(annotations: Table, frames: Table, stacks: Table, copies: set[int]) -> list[Link]:
    """Return the link of each row; an object of several files is linked by its first one.

    Rows of equal `copies` of a file have no link of their own.
    """
    offsets, instances = annotations.ragged("referenced_instances")
    series = annotations.column("referenced_series").to_pylist()
    wanted = {uid for uids in series for uid in uids or ()}
    targets = Targets(_targets(frames, stacks, wanted))
    files = annotations.numbers("file").tolist()
    wholes = _wholes(annotations, frames, copies)
    others = copies | {row for whole in wholes.values() for row in whole.rows[1:]}
    links = []
    for row, file in enumerate(files):
        whole = wholes.get(row, _Whole((row,)))
        held = tuple(files[each] for each in whole.rows)
        if row in others:
            links.append(Link(PART, (), 0, 0, (file,)))
            continue
        if annotations.text("detail", row):
            links.append(Link("unreadable", (), 0, 0, held))
            continue
        named = [instances[offsets[each] : offsets[each + 1]] for each in whole.rows]
        reference = Reference(
            annotations.text("patient_id", row),
            annotations.text("frame_of_reference_uid", row),
            list(dict.fromkeys(uid for each in whole.rows for uid in series[each] or ())),
            np.unique(np.concatenate(named).astype(np.int64)),
        )
        link = targets.link(reference)._replace(files=held)
        links.append(link._replace(status="incomplete") if whole.absent else link)
    return links


class _Whole(NamedTuple):
    """The rows of the files of one object, in their order, and how many files are absent."""

    rows: tuple[int, ...]
    absent: int = 0


def _copies(annotations: Table, frames: Table, files: Table) -> set[int]:
    """Return the rows of files that are equal copies of another one, which is kept.

    Such files have one SOP Instance UID, one size and the same facts. The frames of one of them are
    in stacks, as those of images are, and it is kept.
    """
    numbers = annotations.numbers("file").astype(np.int64)
    sizes = files.numbers("file_bytes")[numbers].tolist()
    uids = annotations.column("sop_instance_uid").to_pylist()
    rows_of: dict[tuple[str, int], list[int]] = {}
    for row, key in enumerate(zip(uids, sizes, strict=True)):
        if key[0]:
            rows_of.setdefault(key, []).append(row)
    several = [rows for rows in rows_of.values() if len(rows) > 1]
    if not several:
        return set()
    names = [name for name in READ_ANNOTATIONS_SCHEMA.names if name != "file"]
    columns = [annotations.column(name) for name in names]
    in_stacks = set(frames.numbers("file")[frames.numbers("duplicate_of") < 0].tolist())
    copies: set[int] = set()
    for rows in several:
        first: dict[str, int] = {}
        for row in sorted(rows, key=lambda row: (numbers[row] not in in_stacks, row)):
            facts = repr([column[row].as_py() for column in columns])
            if first.setdefault(facts, row) != row:
                copies.add(row)
    return copies


def _wholes(annotations: Table, frames: Table, copies: set[int]) -> dict[int, _Whole]:
    """Return {first row: the rows} of the objects in several files, without copies of them."""
    parts = np.flatnonzero(are_parts(frames))
    if not len(parts):
        return {}
    files, first = np.unique(frames.numbers("file")[parts], return_index=True)
    uids = frames.values(CONCATENATION, parts[first])
    numbers, totals = (frames.numbers(name)[parts[first]] for name in (NUMBER, TOTAL))
    place_of = {file: place for place, file in enumerate(files.tolist())}
    # Of each object, (row, place) by the instances of its parts; a copy of a file adds nothing.
    objects: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    for row, file in enumerate(annotations.numbers("file").tolist()):
        if (place := place_of.get(file)) is not None and row not in copies:
            key = annotations.text("series_instance_uid", row), str(uids[place])
            instance = annotations.text("sop_instance_uid", row)
            objects.setdefault(key, {}).setdefault(instance, (row, place))
    wholes = {}
    for instances in objects.values():
        order = sorted(instances, key=lambda uid: (numbers[instances[uid][1]], uid))
        rows, places = map(list, zip(*(instances[uid] for uid in order), strict=True))
        missed = missed_parts(numbers[places], totals[places])
        wholes[rows[0]] = _Whole(tuple(rows), missed.absent)
    return wholes


def _targets(frames: Table, stacks: Table, wanted: set[str]) -> list[Target]:
    """Return the stacks that annotations may describe; instances of the wanted Series only."""
    starts, slices = stacks.numbers("frame_start"), stacks.numbers("slices")
    first = starts.astype(np.int64)
    contents = stacks.column("content").to_pylist()
    facts = {
        name: frames.values(name, first)
        for name in ("patient_id", "frame_of_reference_uid", "series_instance_uid")
    }
    nothing: Ints = np.zeros(0, np.int64)
    targets = []
    for number, content in enumerate(contents):
        if content not in _DESCRIBED:
            continue
        of_stack = {name: str(values[number] or "") for name, values in facts.items()}
        instances = nothing
        if of_stack["series_instance_uid"] in wanted:
            rows = np.arange(first[number], first[number] + slices[number])
            instances = hashes_of(frames.values("sop_instance_uid", rows))
        targets.append(Target(number, **of_stack, instances=instances))
    return targets
