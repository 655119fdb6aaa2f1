"""What an annotation holds in the index: its own frames, and the stacks that these form."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from dicomdl.arrays import Floats, Ints
from dicomdl.headers.frame_source import FrameSource
from dicomdl.index.annotations import Annotation, annotation_in
from dicomdl.index.rows import generation_of
from dicomdl.index.views import Stack, Stacks


def frames_of(
    stack: Stack, annotation: Annotation, columns: Mapping[str, int]
) -> tuple[Callable[[int], FrameSource], dict[str, Floats]]:
    """Return the byte range of each frame of an annotation of a stack, and some columns of them.

    Frames are in the order of the files. A column of lists has their size, a column of numbers 0.
    Its values are (frames,) or (frames, size) float64, NaN where absent.
    """
    folder, name, _, access = stack.key
    generation = generation_of(folder, name, access)
    file, number = (generation.frames.numbers(name) for name in ("file", "frame_number"))
    rows = np.flatnonzero(np.isin(file, annotation.files))
    place_of = {each: place for place, each in enumerate(annotation.files)}
    places = [place_of[each] for each in file[rows].tolist()]
    rows = rows[np.lexsort([number[rows], np.array(places)])]
    first = int(rows.min(initial=len(generation.frames)))
    part = generation.frames.part(slice(first, int(rows.max(initial=first)) + 1))
    values = {
        name: (part.vectors(name, size) if size else part.numbers(name))[rows - first]
        for name, size in columns.items()
    }
    return lambda number: generation.source(int(rows[number])), values


def annotations_on(stacks: Stacks) -> Iterator[Annotation]:
    """Yield the annotations that describe some stacks, in the order of the index."""
    generation = stacks._generation
    for row in generation.annotation_rows(stacks.numbers).tolist():
        yield annotation_in(generation, row)


def references_of(stack: Stack, annotation: Annotation) -> tuple[list[str], Ints]:
    """Return the UIDs of the Series, and sorted hashes of the instances, that one refers to."""
    folder, name, _, access = stack.key
    table = generation_of(folder, name, access).annotations
    rows = np.flatnonzero(np.isin(table.numbers("file"), annotation.files)).tolist()
    series, instances = (
        [each for row in rows for each in table.value(name, row) or ()]
        for name in ("referenced_series", "referenced_instances")
    )
    return series, np.unique(np.array(instances, np.int64))


def stacks_of(stack: Stack, annotation: Annotation) -> Stacks:
    """Return the stacks that the frames of an annotation of a stack form, such as a dose."""
    folder, name, _, access = stack.key
    generation = generation_of(folder, name, access)
    rows = np.flatnonzero(np.isin(generation.frames.numbers("file"), annotation.files))
    starts = generation.stack_starts
    numbers = np.unique(np.searchsorted(starts, rows, side="right") - 1)
    return Stacks(generation, numbers[numbers < len(starts) - 1])
