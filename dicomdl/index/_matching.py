"""Rows of a table and frames of an index with one key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dicomdl.arrays import Ints
from dicomdl.errors import UsageError
from dicomdl.index._cells import Column, coded, int32s
from dicomdl.index._keys import Facts, Key
from dicomdl.index.joined import LEVELS
from dicomdl.index.rows import Generation
from dicomdl.index.schema import TEXT

# Separator of several keys in one text: no cell holds this control character.
JOINT: Final = "\x1f"
# Rows of a table that are split at a time.
_BATCH: Final = 2**18
# In `Matched.key_of_row`.
NO_MATCH: Final = -1
NO_KEY: Final = -2
_LEVEL_OF: Final[Mapping[str, str]] = {
    "patient_id": "patient",
    "study_instance_uid": "study",
    "series_instance_uid": "series",
    **dict.fromkeys(("sop_instance_uid", "instance_number", "frame_index"), "frame"),
    **dict.fromkeys(("stem", "name"), "frame"),
}


class KeyColumns(Protocol):
    """A table, of which a join reads the keys as text."""

    def key_texts(self, names: Sequence[str]) -> pa.Table:
        """Return columns as text, null where a cell is blank."""


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """The key of each frame and of each row.

    Attributes
    ----------
    keys
        The distinct keys of the frames, as text.
    key_of_frame
        (frames,) int32, the number of the key; -1 for none.
    key_of_row
        (rows,) int32, the number of the key; `NO_MATCH` or `NO_KEY`.
    texts
        (rows,) the keys of the rows, as text; null where blank.
    parts
        The part that a template splits off, per row; None without one.
    """

    keys: pa.Array
    key_of_frame: npt.NDArray[np.int32]
    key_of_row: npt.NDArray[np.int32]
    texts: pa.ChunkedArray
    parts: Column | None


def matched(facts: Facts, keys: Sequence[Key], table: KeyColumns) -> Matched:
    """Match the rows of a table with the frames of an index by their keys."""
    texts = [key.index.texts({name: facts.texts(name) for name in key.index.names}) for key in keys]
    held = _together(texts).dictionary_encode()
    of_frame = int32s(pc.fill_null(held.indices, NO_MATCH))
    names = list(dict.fromkeys(name for key in keys for name in key.table.names))
    chunks, parts = [], []
    for batch in table.key_texts(names).to_batches(max_chunksize=_BATCH):
        columns = dict(zip(names, batch.columns, strict=True))
        both = [_split(key, key.table.texts(columns)) for key in keys]
        chunks.append(_together([text for text, _ in both]))
        parts += [part.dictionary_encode() for _, part in both if part is not None]
    distinct, rows = _composed(held.dictionary, pa.chunked_array(chunks, TEXT))
    numbers = pc.index_in(rows, value_set=distinct)
    numbers = pc.if_else(rows.is_null(), pa.scalar(NO_KEY, pa.int32()), numbers)
    of_row = pc.fill_null(numbers, NO_MATCH).to_numpy()
    split = coded(pa.chunked_array(parts)) if parts else None
    return Matched(distinct, of_frame, of_row, rows, split)


def _composed(keys: pa.Array, rows: pa.ChunkedArray) -> tuple[pa.Array, pa.ChunkedArray]:
    """Return the keys of the index and of a table in Unicode's composed form, NFC.

    Names of files from macOS are decomposed, and what people type is composed: both are one text.
    Keys that differ in this alone stay as they are, for files may be named so.
    """
    if all(pc.all(pc.string_is_ascii(texts)).as_py() is not False for texts in (keys, rows)):
        return keys, rows
    composed = pc.utf8_normalize(keys, form="NFC")
    counts = pc.value_counts(composed)
    twins = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    are_twins = pc.is_in(composed, value_set=twins)
    is_twin = pc.is_in(rows, value_set=keys.filter(are_twins))
    return (
        pc.if_else(are_twins, keys, composed),
        pc.if_else(is_twin, rows, pc.utf8_normalize(rows, form="NFC")),
    )


def _together(texts: Sequence[pa.Array]) -> pa.Array:
    """Return one text of several keys; null where one is null."""
    if len(texts) == 1:
        return texts[0]
    return pc.binary_join_element_wise(*texts, pa.scalar(JOINT, TEXT))


def _split(key: Key, texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Return the key in each cell, and the part that is split off it.

    A cell without the separator is a key that matches nothing, with a blank part.
    """
    if key.may_be_blank:
        texts = pc.fill_null(texts, "")
    if not key.split:
        return texts, None
    fits = pc.match_substring(texts, key.separator)
    if key.tail:
        side = pc.ends_with if key.is_last else pc.starts_with
        fits = pc.and_(fits, side(texts, key.tail))
    inner = pc.if_else(fits, texts, pa.scalar(key.separator, TEXT))
    if key.tail:
        slices = (0, -len(key.tail)) if key.is_last else (len(key.tail), None)
        inner = pc.if_else(fits, pc.utf8_slice_codeunits(inner, *slices), inner)
    halves = pc.split_pattern(inner, key.separator, max_splits=1, reverse=key.is_last)
    first, second = pc.list_element(halves, 0), pc.list_element(halves, 1)
    return (first, second) if key.is_last else (second, first)


def level_of(
    generation: Generation, facts: Facts, keys: Sequence[Key], found: Matched, level: str | None
) -> str:
    """Return the level of the keys: that of their UIDs or files, else the coarsest with one key.

    Raises
    ------
    UsageError
        `level` is none, or an entity of it has several keys.
    """
    if level is not None:
        if level not in LEVELS:
            raise UsageError(f"level={level!r}: expected one of {', '.join(LEVELS)}", level=level)
        if not _is_constant(found.key_of_frame, units(generation, facts, level)):
            raise UsageError(
                f"level={level!r}: some {plural(level)} have several keys of the table",
                level=level,
            )
        return level
    columns = [facts.column(name) for key in keys for name in key.index.names]
    named = [_LEVEL_OF.get(name, "patient") for name in columns]
    coarsest = max(named, key=LEVELS.index)
    if coarsest == "frame":
        # The frames of one file have one key.
        coarsest = "stack" if len(found.keys) < len(found.key_of_frame) else "frame"
    for each in LEVELS[LEVELS.index(coarsest) : -1]:
        if _is_constant(found.key_of_frame, units(generation, facts, each)):
            return each
    return "frame"


def plural(level: str) -> str:
    """Return the noun of several entities of a level."""
    return {"study": "studies", "series": "series"}.get(level, f"{level}s")


def units(generation: Generation, facts: Facts, level: str) -> Ints:
    """Return (frames of stacks,) the number of the patient, study, Series or stack of each.

    A blank PatientID is replaced by the Study Instance UID, that by the Series, as in a split.
    """
    starts = generation.stack_starts
    stacks = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    if level == "frame":
        return np.arange(int(starts[-1]))
    if level == "stack":
        return stacks
    numbers = np.asarray(generation.stacks.numbers("series")[stacks], dtype=np.int64)
    # A level of its own range of numbers for each column that fills in for a blank one.
    step = len(generation.frames) + 1
    for place, name in enumerate(("study_instance_uid", "patient_id")):
        if level == "series" or (level == "study" and name == "patient_id"):
            break
        texts = facts.texts(name)[: int(starts[-1])].dictionary_encode()
        codes = int32s(pc.fill_null(texts.indices, NO_MATCH)).astype(np.int64)
        numbers = np.where(codes < 0, numbers, codes + (place + 1) * step)
    return numbers


def _is_constant(keys: npt.NDArray[np.int32], of_frame: Ints) -> bool:
    """Whether all frames of each unit have one key."""
    held = keys[: len(of_frame)]
    key_of_unit = np.zeros(int(of_frame.max(initial=-1)) + 1, dtype=np.int32)
    key_of_unit[of_frame] = held
    return bool((held == key_of_unit[of_frame]).all())
