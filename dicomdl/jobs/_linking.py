"""Links of annotations with the stacks that they describe, concluded after every scan."""

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.geometry.linking import READABLE_STATUSES, Link, Reference, Target, Targets
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
    links = _links(annotations, tables["frames"], stacks) if len(annotations) else []
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


def _links(annotations: Table, frames: Table, stacks: Table) -> list[Link]:
    offsets, instances = annotations.ragged("referenced_instances")
    series = annotations.column("referenced_series").to_pylist()
    wanted = {uid for uids in series for uid in uids or ()}
    targets = Targets(_targets(frames, stacks, wanted))
    links = []
    for row in range(len(annotations)):
        if annotations.text("detail", row):
            links.append(Link("unreadable", (), 0, 0))
            continue
        reference = Reference(
            annotations.text("patient_id", row),
            annotations.text("frame_of_reference_uid", row),
            series[row] or (),
            np.asarray(instances[offsets[row] : offsets[row + 1]], np.int64),
        )
        links.append(targets.link(reference))
    return links


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
