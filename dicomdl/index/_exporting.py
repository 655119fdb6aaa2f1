"""Tables of an index as an export shows them: the selected rows, with paths and identifiers."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.index._identity import IDENTITY, rows_of_stacks
from dicomdl.index._numbers import FRAME_NUMBERS, STACK_NUMBERS
from dicomdl.index.joined import Joined
from dicomdl.index.moves import moved
from dicomdl.index.rows import Generation
from dicomdl.index.table import Table
from dicomdl.storage import publishing as storage

Rows = npt.NDArray[np.int64]

# Facts of the first frame that the table of stacks repeats, because labels are joined by them.
_HEADS: Final = (
    *("modality", "patient_id", "study_instance_uid", "series_instance_uid"),
    *("study_date", "series_number", "series_description", "rows", "columns"),
)
_SERIES: Final = ("study_instance_uid", "series_instance_uid")


def exported(
    generation: Generation, selected: tuple[Rows, Rows] | None, joined: Joined
) -> dict[str, Callable[[], Table]]:
    """Return functions that build the tables of an export, by name.

    Parameters
    ----------
    generation
        The generation whose tables are exported.
    selected
        Rows of the selected frames, ascending, and numbers of the complete stacks among them. None
        for everything.
    joined
        The joined columns; stacks have those whose keys are of stacks or above.
    """
    frames, stacks = generation.frames, generation.stacks
    rows, whole = selected or (np.arange(len(frames)), np.arange(len(stacks)))

    def exported_frames() -> Table:
        part = frames
        if selected is not None:
            originals = _renumbered(frames.numbers("duplicate_of")[rows], rows)
            part = frames.take(rows).with_column("duplicate_of", originals)
        part = _with_stacks(part.with_paths(_moved(generation)), rows, generation)
        return part.with_last_columns({name: joined.column(name, rows) for name in joined.names})

    def exported_stacks() -> Table:
        part = stacks
        if selected is not None:
            # Row of the first frame of each stack among the exported rows.
            starts = np.searchsorted(rows, generation.stack_starts[whole])
            part = stacks.take(whole).with_column("frame_start", starts)
        first = {name: _heads(generation, name, whole) for name in _HEADS}
        folders = folders_of(generation, whole)
        part = part.with_first_columns({STACK_NUMBERS[0]: whole, **first, "folder": folders})
        heads = generation.stack_starts[whole]
        names = [name for name in joined.names if joined.level(name) != "frame"]
        return part.with_last_columns({name: joined.column(name, heads) for name in names})

    return {
        "files": lambda: _with_series(_moved(generation), frames),
        "frames": exported_frames,
        "stacks": exported_stacks,
        "problems": lambda: generation.problems.with_paths(_moved(generation)),
        "annotations": lambda: generation.annotations.with_paths(_moved(generation)),
    }


def _heads(generation: Generation, name: str, whole: Rows) -> Any:
    """Return the value of each stack: that of its identity, or of its first frame."""
    frames, starts = generation.frames, generation.stack_starts
    rows = rows_of_stacks(frames, name, starts) if name in IDENTITY else starts[:-1]
    return frames.column(name).take(rows[whole])


def folders_of(generation: Generation, stacks: Rows) -> list[bytes]:
    """Return the folder of the first file of each stack, where the data are now."""
    numbers = generation.frames.numbers("file")[generation.stack_starts[stacks]]
    held = generation.files.column("path").take(numbers).to_pylist()
    return [os.path.dirname(moved(path, generation.access.moves)) for path in held]


def _moved(generation: Generation) -> Table:
    files = generation.files
    if not generation.access.moves:
        return files
    paths = [moved(path, generation.access.moves) for path in files.column("path").to_pylist()]
    return files.with_column("path", paths)


def _with_series(files: Table, frames: Table) -> Table:
    """Fill in the UIDs of files with images, which the table of frames holds."""
    first = np.full(len(files), -1, dtype=np.int64)
    of_file = frames.numbers("file")
    first[of_file[::-1]] = np.arange(len(frames))[::-1]
    held = np.flatnonzero(first >= 0)
    for name in _SERIES:
        values = files.column(name).to_pylist()
        for file, value in zip(held.tolist(), frames.values(name, first[held]), strict=True):
            values[file] = value
        files = files.with_column(name, values)
    return files


def _with_stacks(frames: Table, rows: Rows, generation: Generation) -> Table:
    """Add the row in the index, the number of the stack (-1 for copies) and its verdict."""
    starts = generation.stack_starts
    numbers = np.searchsorted(starts, rows, side="right") - 1
    numbers[rows >= starts[-1]] = -1
    codes, verdicts = generation.stacks.codes("verdict")
    of_frame = np.append(codes, len(verdicts))[numbers] if len(codes) else np.zeros(0, np.int64)
    names = np.array([*map(str, verdicts), ""], dtype=object)
    columns = {FRAME_NUMBERS[0]: rows, "stack": numbers, "verdict": names[of_frame]}
    return frames.with_first_columns(columns)


def _renumbered(originals: Rows, rows: Rows) -> Rows:
    """Return rows of originals as exported rows; -1 without one, -2 if it is not exported."""
    if not len(rows):
        return originals
    exported_rows = np.minimum(np.searchsorted(rows, originals), len(rows) - 1)
    is_exported = rows[exported_rows] == originals
    return np.where(originals < 0, -1, np.where(is_exported, exported_rows, -2))


def write_parquet(tables: Mapping[str, Callable[[], Table]], folder: str) -> None:
    """Write each table as a Parquet file into a folder, which is created if it is absent.

    Raises
    ------
    StorageError
        The folder or a file cannot be written.
    """
    storage.make_folder(folder)
    for name, table in tables.items():
        table().to_parquet(os.path.join(folder, f"{name}.parquet"))
