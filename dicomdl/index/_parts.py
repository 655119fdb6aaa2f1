"""Parts of an index that its overview and its check read, and the ledger of its files."""

import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.index.problems import Problems
from dicomdl.index.rows import Generation
from dicomdl.index.table import Table
from dicomdl.index.text import Part


def part_of(
    generation: Generation,
    *,
    is_whole: bool,
    chosen: npt.NDArray[np.int64],
    mask: npt.NDArray[np.bool_],
    joined: Sequence[str],
) -> Part:
    """Return the part of a generation with the chosen stacks and the frames of a mask.

    `joined` names the columns that were joined.
    """
    problems = Problems(generation)
    return Part(
        path=generation.folder,
        generation=generation.name,
        is_whole=is_whole,
        frames=generation.frames,
        stacks=generation.stacks,
        starts=generation.stack_starts,
        chosen=chosen,
        mask=mask,
        ledger=ledger_of(generation.files),
        problems=problems,
        reasons=problems.reasons(),
        passed_over=_passed_over(generation.facts),
        flags=_flags(generation.frames, mask),
        annotations=_annotated(generation, None if is_whole else chosen),
        joined=joined,
        folder_of=functools.partial(_folder_of, generation),
        held_files=_held_files(generation, mask),
    )


def _folder_of(generation: Generation, stack: int) -> str:
    path: str = generation.cell("path")(int(generation.stack_starts[stack]))
    return os.path.dirname(path)


def _held_files(generation: Generation, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    held = np.zeros(len(generation.files), dtype=np.bool_)
    held[generation.frames.numbers("file")[mask]] = True
    return held


def _annotated(generation: Generation, stacks: npt.NDArray[np.int64] | None) -> dict[str, int]:
    """Count the annotations of some stacks per kind; None for all of the index."""
    codes, kinds = generation.annotations.codes("kind")
    codes = codes[generation.annotation_rows(stacks)]
    present, counts = np.unique(codes, return_counts=True)
    return {str(kinds[code]): int(n) for code, n in zip(present, counts, strict=True)}


def ledger_of(files: Table) -> dict[str, int]:
    """Return the number of files, and their number per kind, which add up to it."""
    codes, kinds = files.codes("kind")
    counts = np.bincount(codes, minlength=len(kinds)) if len(codes) else np.zeros(0, dtype=int)
    per_kind = {str(kind): int(count) for kind, count in zip(kinds, counts, strict=False)}
    return {
        "files": len(files),
        **{k: per_kind.get(k, 0) for k in ("image", "no_image", "not_dicom", "problem")},
    }


def _flags(frames: Table, mask: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Return the number of files per flag, of those that hold frames of the mask, most first."""
    if frames.constants.get("flags", None) == "":
        return {}
    codes, texts = frames.codes("flags")
    counts: Counter[str] = Counter()
    for code, text in enumerate(texts):
        if text:
            files = len(np.unique(frames.numbers("file")[mask & (codes == code)]))
            counts.update(dict.fromkeys(text.split(), files))
    return {flag: n for flag, n in counts.most_common() if n}


def _passed_over(facts: Mapping[str, Any]) -> dict[str, int]:
    """Count the entries that the walk left out, per kind; kinds without any are omitted."""
    counts = {
        name.replace("_", " "): len(n) if isinstance(n, list) else n
        for name, n in facts.get("passed_over", {}).items()
    }
    return {name: n for name, n in counts.items() if n}
