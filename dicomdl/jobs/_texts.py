"""Indexes without free texts, which people type and which may name a person."""

from collections.abc import Mapping
from typing import Any, Final

from dicomdl.headers.privacy import FREE_TEXTS
from dicomdl.index.table import Table

# Label of a structure set or a segmentation. Names of segments and regions stay: labels are chosen
# by them.
_LABEL: Final = "label"


def without_texts(chunk: list[Table]) -> list[Table]:
    """Return the tables of `engine.read_chunk` with free texts blank.

    They are blank before stacks are built, because the values that tell stacks apart are stored,
    too, and because the next scan builds them from the index.
    """
    files, frames, problems, annotations = chunk
    for name in FREE_TEXTS:
        frames = frames.with_column(name, [""] * len(frames))
    return [
        files,
        frames,
        problems,
        annotations.with_column(_LABEL, [""] * len(annotations)),
    ]


def are_stored(options: Mapping[str, Any]) -> bool:
    """Whether the index of a scan with these options holds free texts."""
    return bool(options.get("texts", True))
