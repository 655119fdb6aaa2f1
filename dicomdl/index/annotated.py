"""What an annotation holds in the index: its own frames, and the stacks that these form."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dicomdl.headers.frame_source import FrameSource
from dicomdl.index.annotations import Annotation
from dicomdl.index.rows import generation_of
from dicomdl.index.views import Stack, Stacks


def frames_of(
    stack: Stack, annotation: Annotation, columns: Sequence[str]
) -> tuple[Callable[[int], FrameSource], dict[str, list[Any]]]:
    """Return the byte range of each frame of an annotation of a stack, and some columns of them.

    Frames are in the order of the file.
    """
    folder, name, _, moves = stack.key
    generation = generation_of(folder, name, moves)
    rows = np.flatnonzero(generation.frames.numbers("file") == annotation.file)
    rows = rows[np.argsort(generation.frames.numbers("frame_number")[rows], kind="stable")]
    values = {column: generation.frames.values(column, rows) for column in columns}
    return lambda number: generation.source(int(rows[number])), values


def stacks_of(stack: Stack, annotation: Annotation) -> Stacks:
    """Return the stacks that the frames of an annotation of a stack form, such as a dose."""
    folder, name, _, moves = stack.key
    generation = generation_of(folder, name, moves)
    rows = np.flatnonzero(generation.frames.numbers("file") == annotation.file)
    starts = generation.stack_starts
    numbers = np.unique(np.searchsorted(starts, rows, side="right") - 1)
    return Stacks(generation, numbers[numbers < len(starts) - 1])
