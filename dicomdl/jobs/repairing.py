"""Repairs of an index: facts that headers state wrongly, corrected in a copy of the tables.

The copy lies in the user's cache folder, is made once per generation, and has the rows of the
original. Files stay as they are.
"""

import functools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Mask
from dicomdl.errors import DicomdlError
from dicomdl.index.access import Access
from dicomdl.index.generations import publish
from dicomdl.index.index import Index
from dicomdl.index.opening import open_index, opened
from dicomdl.index.own_scans import record
from dicomdl.index.rows import generation_of
from dicomdl.index.schema import TABLES
from dicomdl.index.table import Table
from dicomdl.jobs.partitions import key_of
from dicomdl.storage import publishing as storage

_SIGNED_CT: Final = "signed_ct"
_REPAIRS: Final = "repairs"
_PART: Final = "repaired"
# An unsigned value with a higher intercept states no air.
_HIGHEST_INTERCEPT: Final = -100.0
_BITS: Final = 12


def repaired(index: Index, repairs: Sequence[str]) -> tuple[Index, dict[str, int]]:
    """Return the index with corrected facts, and {repair: number of frames}.

    Parameters
    ----------
    index
        A whole index.
    repairs
        "signed_ct".
    """
    if not repairs:
        return index, {}
    facts = {_REPAIRS: sorted(repairs), "of": [index.path, index.generation]}
    folder = storage.cache_folder(_PART, key_of(facts))
    try:
        found = open_index(folder)
        counts: dict[str, int] = found.manifest["repaired"]
    except (DicomdlError, KeyError):
        return _published(index, folder, facts)
    return found, counts


def _published(index: Index, folder: str, facts: dict[str, Any]) -> tuple[Index, dict[str, int]]:
    generation = generation_of(index.path, index.generation, index._generation.access)
    tables: dict[str, Table] = {name: getattr(generation, name) for name in TABLES}
    frames = tables["frames"]
    signed = _signed_ct(frames)
    counts = {_SIGNED_CT: int(signed.sum())}
    kinds = np.where(signed, 1, frames.numbers("pixel_representation"))
    tables["frames"] = frames.plain().with_column("pixel_representation", kinds)
    told = {**generation.facts, **facts, "repaired": counts}
    name = publish(folder, tables, told, written=functools.partial(record, folder))
    return opened(folder, name, Access(generation.access.moves, None, is_own=True)), counts


def _signed_ct(frames: Table) -> Mask:
    """Return (frames,) flags of CT in 12 bits that are signed, although they state otherwise."""
    codes, names = frames.codes("modality")
    is_ct = np.isin(codes, [code for code, name in enumerate(names) if name == "CT"])
    intercepts = frames.numbers("rescale_intercept")
    with np.errstate(invalid="ignore"):
        above = intercepts > _HIGHEST_INTERCEPT
    flags = is_ct & above & (frames.numbers("pixel_representation") == 0)
    flags &= (frames.numbers("bits_stored") == _BITS) & (frames.numbers("high_bit") == _BITS - 1)
    return np.asarray(flags, dtype=np.bool_)
