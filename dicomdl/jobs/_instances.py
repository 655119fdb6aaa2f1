"""The fingerprint of instances and options: equal where both are, on any machine and in any order.

An instance counts with the bytes of its file, the numbers of its selected frames, its parts of a
split and its joined values. Paths, times and the order of files do not count, nor does a second
copy of the same bytes.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.jobs._progress import progress_bar
from dicomdl.storage.sources import Source, as_stream, opened
from dicomdl.storage.system import available_cores

# The prefix of a fingerprint states what it covers, and changes with the rules of this module.
BYTES: Final = "bytes1"
UIDS: Final = "uids1"
_PLACE: Final = ("frame_number", "tile_top", "tile_left", "sop_instance_uid")


def fingerprint_of(
    index: Index,
    parts: Mapping[str, Index],
    options: Mapping[str, Any],
    *,
    contents: bool = True,
    progress: bool = False,
) -> str:
    """Return the fingerprint of the frames of an index, its labels, a split, and options.

    Parameters
    ----------
    index
        The frames. Annotations that describe their stacks count, too.
    parts
        {name of a part: its index}, of the same generation.
    options
        Plain values: mappings with texts as keys, lists, texts, numbers, flags and None. Mappings
        have no order, and a number is the same as integer and as real.
    contents
        Whether files count with all of their bytes, which are read. Otherwise they count with their
        SOP Instance UID and size.
    progress
        Show a progress bar.

    Raises
    ------
    UsageError
        An option is no plain value.
    PixelError
        A file cannot be read, or has changed since the scan.
    """
    told = _canonical(options, "options")
    files = _files(index, parts)
    sources = list(files)
    names = [
        hashlib.sha256(f"{uid}\n{source.size}".encode()).hexdigest()
        for source, (uid, _) in files.items()
    ]
    if contents:
        names = _hashes(sources, progress=progress)
    # Equal copies are one record.
    records = {
        json.dumps([name, sorted(frames)], separators=(",", ":"))
        for name, (_, frames) in zip(names, files.values(), strict=True)
    }
    whole = hashlib.sha256()
    for line in (told, *sorted(records)):
        whole.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return f"{BYTES if contents else UIDS}:{whole.hexdigest()}"


def _files(index: Index, parts: Mapping[str, Index]) -> dict[Source, tuple[str, list[Any]]]:
    """Return {file: (SOP Instance UID, what counts of each selected frame)}."""
    found: dict[Source, tuple[str, list[Any]]] = {}
    rows = index.rows()
    members = defaultdict[int, list[str]](list)
    for name in sorted(parts):
        for place in np.flatnonzero(np.isin(rows, parts[name].rows())).tolist():
            members[place].append(name)
    joined = sorted(index.joined.names)
    for number in range(len(index)):
        facts = index.facts(number, _PLACE)
        uid = facts.pop("sop_instance_uid")
        labels = [[name, _canonical(index.value(number, name), name)] for name in joined]
        _, frames = found.setdefault(index.source(number).file, (uid, []))
        frames.append([*facts.values(), members.get(number, []), labels])
    for annotation in index.annotations:
        for source in annotation.sources:
            found.setdefault(source, (annotation.facts.sop_instance_uid, []))
    return found


def _hashes(sources: Sequence[Source], *, progress: bool) -> list[str]:
    """Return the SHA-256 of each file, in order; files are read in threads."""
    with ThreadPoolExecutor(available_cores()) as team:
        each = team.map(_hash, sources)
        bar = progress_bar(
            each, total=len(sources), unit="file", desc="fingerprint", shown=progress
        )
        return list(bar)


def _hash(source: Source) -> str:
    with opened(source) as handle:
        return hashlib.file_digest(as_stream(handle), "sha256").hexdigest()


def _canonical(value: Any, where: str) -> str:
    """Return JSON that is equal where values are: sorted keys, and one form per number."""
    return json.dumps(_plain(value, where), sort_keys=True, allow_nan=False, separators=(",", ":"))


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), where)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            # JSON has no such number; no text of an option has a key of this kind.
            return {"": repr(value)}
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        if stray := [key for key in value if not (isinstance(key, str) and key)]:
            raise UsageError(f"{where} have the key {stray[0]!r}: expected a text")
        return {key: _plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, Iterable) and isinstance(value, list | tuple):
        return [_plain(inner, where) for inner in value]
    raise UsageError(
        f"{where} is a {type(value).__name__}: expected plain values (text, number, flag, list, "
        "mapping)"
    )
