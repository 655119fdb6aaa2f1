"""Tables of an index as an export shows them: the selected rows, with paths."""

import numpy as np
import numpy.typing as npt

from dicomdl.index.moves import moved
from dicomdl.index.rows import Generation
from dicomdl.index.table import Table

Rows = npt.NDArray[np.int64]


def exported(generation: Generation, selected: tuple[Rows, Rows] | None) -> dict[str, Table]:
    """Return the tables `files`, `frames`, `stacks` and `problems`.

    Parameters
    ----------
    generation
        The generation whose tables are exported.
    selected
        Rows of the selected frames, ascending, and numbers of the complete stacks among them. None
        for everything.
    """
    frames, stacks = generation.frames, generation.stacks
    if selected is not None:
        rows, whole = selected
        # Row of the first frame of each stack among the exported rows.
        starts = np.searchsorted(rows, generation.stack_starts[whole])
        originals = _renumbered(frames.numbers("duplicate_of")[rows], rows)
        frames = frames.take(rows).with_column("duplicate_of", originals)
        stacks = stacks.take(whole).with_column("frame_start", starts)
    files = generation.files
    if generation.moves:
        paths = [moved(path, generation.moves) for path in files.column("path").to_pylist()]
        files = files.with_column("path", paths)
    return {
        "files": files,
        "frames": frames.with_paths(files),
        "stacks": stacks,
        "problems": generation.problems.with_paths(files),
    }


def _renumbered(originals: Rows, rows: Rows) -> Rows:
    """Return rows of originals as exported rows; -1 without one, -2 if it is not exported."""
    if not len(rows):
        return originals
    exported_rows = np.minimum(np.searchsorted(rows, originals), len(rows) - 1)
    is_exported = rows[exported_rows] == originals
    return np.where(originals < 0, -1, np.where(is_exported, exported_rows, -2))
