"""The scan: walk folders and archives, read headers in parallel, build stacks, publish an index.

A repeated scan reads new and changed files only. DICOM files are recognized by content, never by
name. Worker processes are started by a command of dicomdl, not by `multiprocessing`, so that
notebooks, standard input and scripts without a main guard work. The unit of work is
`engine.read_chunk`: paths in, tables of rows out.
"""

import functools
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints, Mask
from dicomdl.errors import DicomdlWarning, IndexFolderError, StorageError, UsageError
from dicomdl.geometry.grid import Tolerances
from dicomdl.geometry.stacks import Stacking, StackRow, build_stacks
from dicomdl.headers.attribute import Attribute
from dicomdl.headers.limits import ReadLimits
from dicomdl.headers.privacy import extra_attributes
from dicomdl.index.access import Access, roots_of
from dicomdl.index.building import by_file, encoded, in_order, table_of
from dicomdl.index.defaults import default_folder
from dicomdl.index.generations import clear_remains, is_index_folder, publish
from dicomdl.index.index import Index
from dicomdl.index.moves import Moves, moved, moves_of, parse_roots
from dicomdl.index.opening import opened
from dicomdl.index.own_scans import is_own, record
from dicomdl.index.rows import generation_of
from dicomdl.index.schema import (
    ETAG,
    PROBLEMS_SCHEMA,
    READ_ANNOTATIONS_SCHEMA,
    READ_FILES_SCHEMA,
    STACKS_SCHEMA,
    STATE_COLUMNS,
    TABLES,
    frames_schema,
)
from dicomdl.index.stored_generation import read_manifest
from dicomdl.index.table import Table
from dicomdl.jobs._digests import digests
from dicomdl.jobs._linking import with_links, without_links
from dicomdl.jobs._patients import (
    hash_patients,
    holds_more,
    known_key,
    patient_key_name,
    require_key,
)
from dicomdl.jobs._texts import without_texts
from dicomdl.jobs.engine import Reading, read_all, refused_tables
from dicomdl.jobs.given_files import stored_files
from dicomdl.jobs.roots import Known, Path, Root, Walking, checked_roots, walk_roots
from dicomdl.storage import publishing as storage
from dicomdl.storage.folders import Walk
from dicomdl.storage.locations import absolute, split
from dicomdl.storage.objects import MOST_CONCURRENCY, checked_options, declare, declared
from dicomdl.storage.sources import COMPARED, COMPARED_IF_MOVED, CONCURRENCY, State
from dicomdl.version import __version__


def scan(
    roots: Path | Iterable[Path],
    out: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    follow_links: bool = False,
    attributes: Sequence[str] = (),
    allow_phi: bool = False,
    patient_id: Literal["keep", "hash"] = "keep",
    tolerances: Tolerances | None = None,
    move: Mapping[str, str] | None = None,
    strict_files: bool = True,
    pixel_hash: bool = False,
    limits: ReadLimits | None = None,
    storage_options: Mapping[str, Any] | None = None,
    concurrency: int = CONCURRENCY,
    archives: bool = False,
    copy_archives: bool = False,
    texts: bool = True,
) -> Index:
    """Index every DICOM file in some folders and archives.

    Parameters
    ----------
    roots
        A folder or file, or several. Hidden folders (".name") are skipped and counted. Links to
        files below a root are followed, other links only with `follow_links`. A file that is
        reached by several paths is read once.

        A zip or tar archive, on disk or in a store, is read without unpacking it:
        ``case.zip//name`` is the path of a member. The file DICOMDIR of a CD stands for the files
        that it references.

        A URL is a prefix or an object of a store, as text: ``s3://bucket/prefix``, ``gs://``,
        ``az://``, ``https://host/file.dcm``; these need the extra `cloud`. A list or table of URLs
        (.txt, .csv, .tsv, .parquet, on disk or behind a URL) stands for the objects in it. Headers
        are read by ranges, of 16 kB for most files. The query of a URL, which may be a signature,
        is not stored: only this process can read such objects.

        ``dicomweb+https://host/dicom-web`` is a DICOMweb server (extra `net`), whole or down to a
        study or series (``/studies/UID/series/UID``), or filtered (``?Modality=CT``). Headers come
        from its metadata, and frames one by one when they are read: for browsing and small
        training.

        Items of a list may also be ``(name, bytes)``, or a name and a binary file that is open:
        such files are stored once in the folder of the index, for their owner only.
    out
        The index folder. The default is one in the user's cache folder, which the next scan of the
        same roots updates. An update reads new and changed files only and drops deleted ones. The
        old index stays valid until the new one is complete.
    workers
        Number of processes that read headers. By default this process begins alone, and others join
        it where that saves more than a second: one per core in all. A process alone reads in up to
        four threads.
    progress
        Show a progress bar with files per second.
    follow_links
        Follow symbolic links to folders, and to files outside of the roots.
    attributes
        Further columns by DICOM keyword, such as ``["ContrastBolusRoute"]``. Identifying attributes
        need `allow_phi`.
    allow_phi
        Allow identifying attributes in `attributes`.
    patient_id
        "keep" stores PatientID, because labels are joined by it. "hash" stores a keyed hash. The
        key stays in the user's cache folder: a patient has the same hash in all indexes of a user.
    tolerances
        Largest differences at which positions and orientations count as equal; stored with the
        index.
    move
        {old root: new root} of data that were moved since the last scan into `out`. Files with the
        same path below the root, size and modification time are taken over without reading them.
    strict_files
        Whether a file whose change time moved since the last scan is read again, although its size
        and modification time are the same, and refused by the index that is returned; see
        `open_index`.
    pixel_hash
        Read the pixels, too, and keep a hash of each frame (XXH3, 128 bits, the column
        `pixel_hash`), by which `Index.duplicates`, `Index.split` and `Index.audit` find equal
        images under other UIDs.
    limits
        Largest numbers of frames, fragments, elements and bytes that one file may have, and of
        members that an archive may have; a file beyond them is a problem.
    storage_options
        How the stores are reached; stored with the index. ``skip_signature`` (bool) reads public
        buckets without credentials, ``endpoint`` (URL) and ``region`` name another server of S3,
        ``request_payer`` (bool) accepts the costs of the requests, ``virtual_hosted_style_request``
        (bool) puts the bucket into the name of the host, ``account_name`` is that of Azure.
        Credentials come from the environment, such as AWS_ACCESS_KEY_ID.
    concurrency
        Objects of stores, and files of a slow file system, that each process asks for at once, 1 to
        256.
    archives
        Read the archives, too, that are found in folders and below prefixes (.zip, .tar, .tar.gz,
        .tar.bz2, .tar.xz, .tar.zst). Archives that are roots are read always. Members that are
        stored, and those of a .tar, are read in place. Compressed members are inflated when they
        are read, and a compressed tar is copied once to the user's cache folder.
    copy_archives
        Copy zips with compressed members once to the user's cache folder, without compression. All
        processes of this user read from the copy while it exists (``dicomdl cache clear`` removes
        it) and the archive is unchanged: as fast as from a stored zip, instead of inflating whole
        members for each patch.
    texts
        Whether the index holds free texts, which may name a person: Study and Series Description,
        Protocol Name, Contrast/Bolus Agent, and labels of annotations. Without them the columns are
        blank, and a new scan of an index that has them deletes these at once. Stacks that only a
        text tells apart are then told apart by time or number. Dates and times stay, because SUV
        and time points need them; so do the names of segments and regions.

    Returns
    -------
    Index
        The index. Files that could not be used are rows of its `problems`: the contents of a file
        never stop a scan.

    Raises
    ------
    UsageError
        A root does not exist, an attribute is unknown or identifying, `out` is a folder with other
        files, its index holds hashes and this scan has another key or none (`patient_id`), or an
        option of `storage_options` is unknown or a credential.
    StorageError
        The index cannot be written, or a store cannot be listed. The old index is untouched.
    MissingExtra
        A root is a URL, and obstore, or urllib3 for a DICOMweb server, is not installed.

    Examples
    --------
    >>> import dicomdl, tempfile
    >>> from pydicom.data import get_testdata_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     index = dicomdl.scan(get_testdata_file("CT_small.dcm"), folder, progress=False)
    >>> len(index), index.stacks[0].verdict
    (1, 'single')
    """
    begun = begin(
        roots,
        out,
        workers=workers,
        follow_links=follow_links,
        attributes=attributes,
        allow_phi=allow_phi,
        patient_id=patient_id,
        tolerances=tolerances,
        move=move,
        strict_files=strict_files,
        pixel_hash=pixel_hash,
        limits=limits,
        storage_options=storage_options,
        concurrency=concurrency,
        archives=archives,
        copy_archives=copy_archives,
        texts=texts,
    )
    if begun.is_unchanged and _is_current(begun):
        return unchanged(begun)
    paths = [begun.walked.paths[i] for i in begun.fresh]
    chunks = [
        without_identity(chunk, begun.options)
        for chunk in read_all(paths, begun.reading, workers, progress=progress)
    ]
    return finish(begun, chunks)


@dataclass(frozen=True)
class Begun:
    """A scan after its walk: what is read, and what is kept of the index before.

    `fresh` are the rows of the walk that are read, `kept` (2, n) the old and new rows of the
    others.
    """

    target: str
    options: dict[str, Any]
    walked: Walk
    fresh: list[int]
    kept: Ints
    old: "Old | None"
    reading: Reading
    strict_files: bool = True
    is_unchanged: bool = False


def begin(
    roots: Path | Iterable[Path],
    out: str | os.PathLike[str] | None,
    *,
    workers: int | None = None,
    follow_links: bool = False,
    attributes: Sequence[str] = (),
    allow_phi: bool = False,
    patient_id: Literal["keep", "hash"] = "keep",
    tolerances: Tolerances | None = None,
    move: Mapping[str, str] | None = None,
    strict_files: bool = True,
    pixel_hash: bool = False,
    limits: ReadLimits | None = None,
    storage_options: Mapping[str, Any] | None = None,
    concurrency: int = CONCURRENCY,
    archives: bool = False,
    copy_archives: bool = False,
    texts: bool = True,
    looks_up: bool = False,
) -> Begun:
    """Check the arguments of `scan`, walk over the roots, and compare with the last scan.

    With `looks_up`, the walk has the states of all files, although no last scan needs them.
    """
    own_folder = _own_folder(out)
    checked = checked_roots(stored_files(roots, own_folder))
    stores = checked_options(storage_options)
    declare([os.fsdecode(root.path) for root in checked if root.is_remote], stores)
    if not 1 <= concurrency <= MOST_CONCURRENCY:
        raise UsageError(f"concurrency is {concurrency}, expected 1 to {MOST_CONCURRENCY}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}, expected at least 1", workers=workers)
    extra = extra_attributes(attributes, allow_phi=allow_phi)
    if patient_id not in ("keep", "hash"):
        raise UsageError(f"patient_id={patient_id!r}: expected 'keep' or 'hash'")
    tolerances, limits = tolerances or Tolerances(), limits or ReadLimits()
    options: dict[str, Any] = {
        "roots": [os.fsdecode(root.path) for root in checked],
        "follow_links": follow_links,
        "archives": bool(archives),
        "attributes": list(attributes),
        "patient_id": patient_id if patient_id == "keep" else f"hash:{patient_key_name()}",
        "tolerances": asdict(tolerances),
        "pixel_hash": bool(pixel_hash),
        "limits": asdict(limits),
        "texts": bool(texts),
        **({"storage_options": stores} if stores else {}),
    }
    target = own_folder or default_folder(options)
    source = target
    if move and out is None:
        source = default_folder(options | {"roots": _roots_before(options["roots"], move)})
    options["patient_id"] = known_key(source, options["patient_id"])
    old = _reusable(source, options, move or {})
    # A moved file has another change time.
    compared = COMPARED if strict_files and not move else COMPARED_IF_MOVED
    known = _known_archives(old, checked, archives)
    walking = Walking(
        follow_links,
        archives,
        limits,
        target,
        compared,
        known,
        stores,
        copy_archives,
        looks_up or old is not None,
    )
    walked = walk_roots(checked, walking)
    reading = Reading(extra, bool(pixel_hash), limits, concurrency, declared())
    before = _rows_before(walked, old)
    kept, fresh = _divide(walked, old, before, compared)
    if old is not None and not move and _unchanged(walked, old, before):
        return Begun(target, options, walked, fresh, kept, old, reading, strict_files, True)
    if fresh and patient_id == "hash":
        require_key(target, options["patient_id"])
    if old is not None and compared == COMPARED_IF_MOVED:
        old = replace(old, files=_with_states(old.files, kept, walked))
    return Begun(target, options, walked, fresh, kept, old, reading, strict_files)


def current_generation(target: str) -> str:
    """Return the name of the current generation of the index at `target`; "" without an index."""
    try:
        return str(read_manifest(target)["generation"])
    except IndexFolderError:
        return ""


def old_for(begun: Begun, generation: str) -> "Old":
    """Return the tables of the index before, for a scan that was begun by another process.

    Raises
    ------
    UsageError
        They are no longer those of that generation.
    """
    target = begun.target
    old = _reusable(target, begun.options, {})
    if old is None or old.generation != generation:
        raise UsageError(
            f"the index {target!r} was written by another scan since the plan was made, or is "
            "damaged: plan again; the partitions that are finished stay",
            path=target,
        )
    if begun.strict_files:
        return old
    return replace(old, files=_with_states(old.files, begun.kept, begun.walked))


def without_identity(chunk: list[Table], options: Mapping[str, Any]) -> list[Table]:
    """Return the tables of `read_chunk` without what the options leave out: PatientID, texts."""
    files, frames, problems, annotations = chunk
    if options["patient_id"] != "keep":
        chunk = [files, hash_patients(frames), problems, hash_patients(annotations)]
    return chunk if options["texts"] else without_texts(chunk)


def _is_current(begun: Begun) -> bool:
    """Whether the index is still that of before the walk; another scan may have other roots."""
    return begun.old is not None and current_generation(begun.target) == begun.old.generation


def unchanged(begun: Begun) -> Index:
    """Return the index of a scan that found nothing to do."""
    clear_remains(begun.target)
    assert begun.old is not None
    return _own(begun.target, begun.old.generation, strict_files=begun.strict_files)


def finish(begun: Begun, chunks: list[list[Table]]) -> Index:
    """Join the tables of the files that were read with those of others, and publish the index."""
    walked, reading, options = begun.walked, begun.reading, begun.options
    refused = list[int]()
    if walked.refused:
        refused = [row for row, path in enumerate(walked.paths) if path in walked.refused]
        chunks.append(refused_tables(walked, refused, reading, first=len(begun.fresh)))
    tables = _merge(begun.old, begun.kept, [*begun.fresh, *refused], chunks, reading.extra)
    tables |= _with_stacks(tables["frames"], tables["files"], Tolerances(**options["tolerances"]))
    tables |= with_links(tables)
    grace_s = 0.0 if holds_more(begun.target, options) else None
    facts = {"options": options, "passed_over": walked.passed_over()}
    # Before others see it: until it is recorded, the index is that of somebody else.
    written = functools.partial(_record, begun.target)
    generation = publish(begun.target, tables, facts, grace_s, written=written)
    return _own(begun.target, generation, strict_files=begun.strict_files)


def _own(target: str, generation: str, *, strict_files: bool) -> Index:
    """Return an index that this scan wrote or confirmed, and record that it did."""
    if not is_own(target, generation):
        _record(target, generation)
    moves = moves_of(roots_of(target, generation), {}, strict_files=strict_files)
    return opened(target, generation, Access(moves, None, is_own=True))


def _record(target: str, generation: str) -> None:
    """Record that this scan wrote or confirmed a generation, or warn."""
    try:
        record(target, generation)
    except StorageError as error:
        warnings.warn(
            f"{error}. This process and its workers read the files of the index all the same; "
            "later ones name the root, open_index(path, root=...) or DICOMDL_ROOT. For the "
            "next scan, set DICOMDL_CACHE to a folder that can be written",
            DicomdlWarning,
            stacklevel=5,
        )


# --- target ---------------------------------------------------------------------------------------


def _own_folder(out: str | os.PathLike[str] | None) -> str | None:
    """Return the folder that a user gives for an index, after a check that it is free."""
    if out is None:
        return None
    if not os.fspath(out):
        raise UsageError("out is an empty name: name a folder for the index")
    target = os.path.abspath(os.path.expanduser(os.fspath(out)))
    if os.path.isdir(target):
        with storage.explained(f"{target!r} cannot be read"):
            if not is_index_folder(target):
                raise UsageError(
                    f"{target!r} holds other files: give the index a folder of its own", path=target
                )
    # Another scan may have made the folder since the first look.
    elif os.path.exists(target) and not os.path.isdir(target):
        raise UsageError(f"{target!r} is a file: give the index a folder of its own", path=target)
    return target


# --- changes since the last scan ------------------------------------------------------------------


@dataclass(frozen=True)
class Old:
    """Tables of the index that a scan updates, and whether a scan of this user wrote them."""

    files: Table
    frames: Table
    problems: Table
    annotations: Table
    passed_over: Mapping[str, Any]
    generation: str
    moves: Moves = ()
    is_own: bool = True


def _reusable(target: str, options: Mapping[str, Any], move: Mapping[str, str]) -> Old | None:
    """Return the tables of the index at `target` if its options and version are the same.

    None for a damaged or older index, which the scan replaces.

    Raises
    ------
    UsageError
        An old root of `move` is no root of that index.
    """
    moves: Moves = ()
    try:
        manifest = read_manifest(target)
        name = manifest["generation"]
        generation = generation_of(target, name, Access((), None, is_own(target, name)))
        before = dict(generation.facts.get("options") or {})
        if move:
            roots = roots_of(target, name)
            moves = moves_of(roots, parse_roots(roots, move))
            now = sorted(moved(os.fsencode(root), moves) for root in roots)
            before["roots"] = [os.fsdecode(root) for root in now]
        if before != json.loads(json.dumps(options)) or manifest.get("dicomdl") != __version__:
            return None
        # Nothing is kept of an index of which a part is damaged.
        generation.stored.verify()
        tables = {table: getattr(generation, table) for table in TABLES}
    except IndexFolderError:
        return None
    return Old(
        tables["files"],
        tables["frames"],
        tables["problems"],
        tables["annotations"],
        generation.facts.get("passed_over", {}),
        name,
        moves,
        generation.access.is_own,
    )


def _known_archives(old: Old | None, roots: Sequence[Root], archives: bool) -> dict[bytes, Known]:
    """Return the archives in an index by their location, where the roots may have some.

    Those of an index that no scan of this user wrote are listed again.
    """
    if (
        old is None
        or not old.is_own
        or not (archives or any(root.kind == "archive" for root in roots))
    ):
        return {}
    paths = [moved(path, old.moves) for path in old.files.column("path").to_pylist()]
    names = {_archive_of(path) for path in paths if b"//" in path}
    if not names:
        return {}
    # An archive that is damaged in part has a row of its own.
    rows = [row for row, path in enumerate(paths) if b"//" in path or path in names]
    states = [old.files.column(name).take(rows).to_pylist() for name in STATE_COLUMNS]
    hidden: dict[bytes, list[str]] = {}
    for folder in old.passed_over.get("hidden_in_archives", []):
        location = moved(os.fsencode(folder), old.moves)
        hidden.setdefault(_archive_of(location), []).append(os.fsdecode(location))
    members: dict[bytes, list[tuple[bytes, State]]] = {}
    for row, state in zip(rows, zip(*states, strict=True), strict=True):
        members.setdefault(_archive_of(paths[row]), []).append((paths[row], state))
    return {name: Known(each, hidden.get(name, [])) for name, each in members.items()}


def _archive_of(location: bytes) -> bytes:
    return os.fsencode(split(os.fsdecode(location)).whole)


def _rows_before(walked: Walk, old: Old | None) -> Ints:
    """Return (files,) the row that each path has in the last index, or -1."""
    paths = walked.paths
    before = np.full(len(paths), -1, np.int64)
    if old is None:
        return before
    known = old.files.column("path").to_pylist()
    if old.moves:
        known = [moved(path, old.moves) for path in known]
    # Most paths are at their places from either end: the others are looked up.
    shorter = min(len(known), len(paths))
    head = _alike(known, paths)
    tail = min(_alike(reversed(known), reversed(paths)), shorter - head)
    ends = len(known) - tail, len(paths) - tail
    before[:head] = np.arange(head)
    before[ends[1] :] = np.arange(ends[0], len(known))
    rows = dict(zip(known[head : ends[0]], range(head, ends[0]), strict=True))
    before[head : ends[1]] = [rows.get(path, -1) for path in paths[head : ends[1]]]
    return before


def _alike(one: Iterable[bytes], other: Iterable[bytes]) -> int:
    """Return how many of the first items are equal."""
    count = 0
    for count, (each, its) in enumerate(zip(one, other, strict=False), 1):
        if each != its:
            return count - 1
    return count


def _same_states(walked: Walk, files: Table, before: Ints, compared: int) -> Mask:
    """Return (files,) flags: whether a path was in the last index, in the same state.

    The first `compared` entries of states count, and the ETag.
    """
    rows = np.flatnonzero(before >= 0)
    old_rows, numbers = before[rows], walked.states.numbers()[rows]
    same = np.ones(len(rows), np.bool_)
    for place, name in enumerate(STATE_COLUMNS[:compared]):
        same &= files.numbers(name)[old_rows] == numbers[:, place]
    etags = walked.states.etags
    if any(etags) or files.constants.get(ETAG) != "":
        known = files.column(ETAG).to_pylist()
        pairs = zip(rows.tolist(), old_rows.tolist(), strict=True)
        same &= np.array([etags[row] == known[old_row] for row, old_row in pairs], np.bool_)
    result = np.zeros(len(before), np.bool_)
    result[rows] = same
    return result


def _unchanged(walked: Walk, old: Old, before: Ints) -> bool:
    """Whether the walk found the files of the last index, in their order, and nothing else."""
    return (
        len(old.files) == len(before)
        and np.array_equal(before, np.arange(len(before)))
        and walked.passed_over() == old.passed_over
        and bool(_same_states(walked, old.files, before, COMPARED).all())
        and _same_refusals(walked, old)
    )


def _same_refusals(walked: Walk, old: Old) -> bool:
    """Whether the last scan refused what this walk refuses, for the same reasons."""
    if not walked.refused:
        return True
    files = old.problems.numbers("file").tolist()
    reasons, details = (old.problems.column(name).to_pylist() for name in ("reason", "detail"))
    before = {walked.paths[file]: each for file, *each in zip(files, reasons, details, strict=True)}
    return all(before.get(path) == list(each) for path, each in walked.refused.items())


def _divide(walked: Walk, old: Old | None, before: Ints, compared: int) -> tuple[Ints, list[int]]:
    """Return (2, n) the old and new rows of unchanged files, and the rows of files to read.

    Neither has the rows of what the walk refused.
    """
    same = np.zeros(len(before), np.bool_)
    if old is not None:
        same = _same_states(walked, old.files, before, compared)
    counts = np.ones(len(before), np.bool_)
    if walked.refused:
        counts = np.array([path not in walked.refused for path in walked.paths], np.bool_)
    rows = np.flatnonzero(same & counts)
    return np.stack([before[rows], rows]), np.flatnonzero(~same & counts).tolist()


def _roots_before(roots: Sequence[str], move: Mapping[str, str]) -> list[str]:
    """Return the roots of the scan before the move, in the order of `checked_roots`."""
    old_of = {absolute(new): old for old, new in move.items()}
    before = [absolute(old_of.get(root, root)) for root in roots]
    return [os.fsdecode(root) for root in sorted(map(os.fsencode, before))]


def _with_states(files: Table, kept: Ints, walked: Walk) -> Table:
    """Return the table of files with paths and states of this walk for the files that were kept."""
    paths = files.column("path").to_pylist()
    states = [files.column(name).to_pylist() for name in STATE_COLUMNS]
    for old_row, new_row in kept.T.tolist():
        paths[old_row] = walked.paths[new_row]
        for column, value in zip(states, walked.states[new_row], strict=True):
            column[old_row] = value
    files = files.decoded().with_column("path", paths)
    for name, column in zip(STATE_COLUMNS, states, strict=True):
        files = files.with_column(name, column)
    return files


def _merge(
    old: Old | None,
    kept: Ints,
    fresh: Sequence[int],
    chunks: Sequence[list[Table]],
    extra: Sequence[Attribute],
) -> dict[str, Table]:
    """Join old and new rows of `files`, `frames` and `problems`, in the order of the walk."""
    # One array for all chunks: of a million files it takes 30 ms to make.
    rows = np.array(fresh, np.int64)
    files, frames, problems, annotations = (
        [_renumbered(chunk[table], rows) for chunk in chunks] for table in range(4)
    )
    if old is not None and kept.size:
        # Rows that are not kept get the file -1, and are left out when all are sorted: a table of a
        # million files is copied once less.
        new_row = np.full(len(old.files), -1, np.int32)
        new_row[kept[0]] = kept[1]
        files.insert(0, old.files.with_new_column("file", new_row))
        frames.insert(0, _renumbered(old.frames, new_row).decoded())
        problems.insert(0, _renumbered(old.problems, new_row))
        annotations.insert(0, _renumbered(without_links(old.annotations), new_row))
    return {
        "files": in_order(files, READ_FILES_SCHEMA).without("file"),
        "frames": encoded(_frames_of(frames, extra)),
        "problems": in_order(problems, PROBLEMS_SCHEMA),
        "annotations": in_order(annotations, READ_ANNOTATIONS_SCHEMA),
    }


def _frames_of(parts: Sequence[Table], extra: Sequence[Attribute]) -> Table:
    """Join parts of `frames`; one part alone stays encoded, which spares a quarter of a scan."""
    schema = frames_schema(extra)
    if len(parts) == 1 and len(parts[0]):
        return by_file(parts[0], schema)
    return in_order(parts, schema)


def _renumbered(table: Table, rows: npt.NDArray[Any]) -> Table:
    return table.with_column("file", rows[table.numbers("file")]) if len(table) else table


def _with_stacks(frames: Table, files: Table, tolerances: Tolerances) -> dict[str, Table]:
    """Sort `frames`, whose columns are encoded, into stacks, and build the table `stacks`."""
    stacking = build_stacks(frames, tolerances, _folders(frames, files), digests(frames, files))
    lengths = np.array([stack.slices for stack in stacking.stacks], dtype=np.int64)
    within = np.full(len(frames), -1, dtype=np.int64)
    within[: lengths.sum()] = np.arange(lengths.sum()) - np.repeat(
        np.cumsum(lengths) - lengths, lengths
    )
    if stacking.digests:
        frames = frames.with_column(
            "pixel_digest", [stacking.digests.get(row, "") for row in range(len(frames))]
        )
    ordered = (
        frames.take(stacking.order)
        .with_column("position_in_stack", within)
        .with_column("duplicate_of", stacking.duplicate_of)
    )
    return {"frames": ordered, "stacks": stacks_table(stacking)}


def stacks_table(stacking: Stacking) -> Table:
    """Build the table `stacks`, one row per stack."""
    fields = [name for name in STACKS_SCHEMA.names if name in StackRow.__slots__]
    columns = {name: [getattr(stack, name) for stack in stacking.stacks] for name in fields}
    # Filled in by `with_links`.
    columns["annotations"] = [""] * len(stacking.stacks)
    columns |= {
        name: [stack.idc[name] for stack in stacking.stacks]
        for name in STACKS_SCHEMA.names
        if name not in columns
    }
    return table_of(STACKS_SCHEMA, columns)


def _folders(frames: Table, files: Table) -> npt.NDArray[np.int64]:
    """Return (frames,) numbers of the folders of the files.

    Series without a UID are distinguished by folder only; zeros if all have one.
    """
    if "" not in frames.codes("series_instance_uid")[1]:
        return np.zeros(len(frames), dtype=np.int64)
    folders = [os.path.dirname(path) for path in files.column("path").to_pylist()]
    numbers = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    return np.asarray(
        np.array([numbers[folder] for folder in folders], dtype=np.int64)[frames.numbers("file")]
    )
