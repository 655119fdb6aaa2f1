"""Folders -> Index: walk, read headers in parallel, build stacks, publish; the second time only what changed.

Files are told by content, never by name. Headers are read in processes that are started by dicomdl's own command, not by
`multiprocessing`, so that notebooks, standard input and scripts without a main guard work. What an engine on
a cluster would run is `read_chunk`: paths in, tables of rows out.
"""

import contextlib
import gc
import hashlib
import hmac
import json
import os
import queue
import secrets
import stat
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from dicomdl.errors import IndexFolderError, PixelError, StorageError, UsageError
from dicomdl.geometry.grid import Tolerances
from dicomdl.geometry.stacks import Stacking, StackRow, build_stacks
from dicomdl.headers.frame import SOURCE_FIELDS, Attribute, FrameSource
from dicomdl.headers.reader import NO_TILE, CodedTile, HeaderReader, extra_attributes
from dicomdl.index.index import Index, open_index
from dicomdl.index.table import (
    PROBLEMS_SCHEMA,
    READ_FILES_SCHEMA,
    STACKS_SCHEMA,
    TABLES,
    Table,
    empty_table,
    encoded,
    frames_schema,
    frames_table,
    from_bytes,
    is_index_folder,
    joined,
    map_table,
    publish,
    read_manifest,
    table_of,
    to_bytes,
)
from dicomdl.pixels.read import read_frame
from dicomdl.storage import publishing as storage
from dicomdl.storage.system import available_cores
from dicomdl.version import __version__

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
CHUNK_FILES: Final = 1024  # files a worker reads before it answers
IN_PROCESS_FILES: Final = 4000  # below this, starting workers (0.4 s) costs more than they save


@dataclass
class Walk:
    """What a walk over the roots found: files, and what was passed over."""

    paths: list[bytes] = field(default_factory=list)
    stats: list[tuple[int, int, int]] = field(default_factory=list)  # size, mtime_ns, ctime_ns
    keys: list[tuple[int, int]] = field(default_factory=list)  # device, inode
    may_repeat: bool = False  # some file may have been reached twice: by links, or by roots that overlap
    hidden_folders: int = 0
    linked_folders: int = 0
    special_files: int = 0
    unreadable: list[str] = field(default_factory=list)

    def passed_over(self) -> dict[str, Any]:
        """What is in no ledger, as the manifest keeps it."""
        return {name: getattr(self, name) for name in ("hidden_folders", "linked_folders", "special_files", "unreadable")}


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
) -> Index:
    """Index every DICOM file below some folders.

    Parameters
    ----------
    roots
        A folder or file, or several. Hidden folders (".name") are passed over and counted. File links are followed,
        folder links only with `follow_links`; each file is read once, however many ways lead to it.
    out
        The index folder; by default one in the user's cache folder that the next scan of the same roots updates.
        When it exists, only new and changed files are read and deleted ones forgotten. The old index stays whole
        until the new one is complete.
    workers
        Processes that read headers; by default one a core for large folders, none (this process reads) for small ones.
    progress
        Show a progress bar with files per second.
    attributes
        Further columns by DICOM keyword, e.g. ``["ContrastBolusAgent"]``; identifying ones need `allow_phi`.
    patient_id
        "keep" stores PatientID, because labels are joined by it; "hash" stores a hash with a key that stays in the
        user's cache folder: the same patient has the same hash in all indexes of this user.
    tolerances
        What still counts as equal positions and orientations; stored with the index.

    Returns
    -------
    Index
        Files that could not be used are rows of its `problems`; nothing that a file contains stops the scan.

    Raises
    ------
    UsageError
        A root that does not exist, an unknown or identifying attribute, an `out` that is some other folder.
    StorageError
        The index cannot be written; the old one is untouched.
    """
    folders = _checked_roots(roots)
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}, expected at least 1", workers=workers)
    extra = extra_attributes(attributes, allow_phi=allow_phi)
    if patient_id not in ("keep", "hash"):
        raise UsageError(f"patient_id={patient_id!r}: expected 'keep' or 'hash'")
    options = {
        "roots": [os.fsdecode(folder) for folder in folders],
        "follow_links": follow_links,
        "attributes": list(attributes),
        "patient_id": patient_id if patient_id == "keep" else f"hash:{_patient_key_name()}",
        "tolerances": asdict(tolerances or Tolerances()),
    }
    target = _target(out, options)
    found = walk(folders, follow_links=follow_links, avoid=target)
    old = _reusable(target, options)
    if old is not None and _unchanged(found, old.files):
        return open_index(target)
    kept, fresh = _divide(found, old)
    chunks = list(_read_all([found.paths[i] for i in fresh], extra, workers, progress=progress))
    if patient_id == "hash":
        chunks = [[files, _hash_patients(frames), problems] for files, frames, problems in chunks]
    tables = _merge(old, kept, fresh, chunks, extra)
    tables |= _with_stacks(tables["frames"], tables["files"], tolerances or Tolerances())
    grace_s = 0.0 if patient_id == "hash" and _holds_raw_patients(target) else None
    publish(target, tables, {"options": options, "passed_over": found.passed_over()}, grace_s)
    return open_index(target)


# --- what to scan, and where to ---------------------------------------------------------------------------------------


def _checked_roots(roots: Path | Iterable[Path]) -> list[bytes]:
    given = [roots] if isinstance(roots, str | bytes | os.PathLike) else list(roots)
    if not given or not all(os.fspath(root) for root in given):
        raise UsageError("no folder to scan was given, or one with an empty name")
    folders = [os.path.abspath(os.fsencode(os.path.expanduser(os.fspath(root)))) for root in given]
    for folder in folders:
        if not os.path.exists(folder):
            raise UsageError(f"{os.fsdecode(folder)!r} does not exist", path=os.fsdecode(folder))
    return sorted(set(folders))


def _target(out: str | os.PathLike[str] | None, options: Mapping[str, Any]) -> str:
    if out is None:
        name = hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=12).hexdigest()
        return storage.cache_folder("indexes", name)
    if not os.fspath(out):
        raise UsageError("out is an empty name: name a folder for the index")
    target = os.path.abspath(os.path.expanduser(os.fspath(out)))
    if os.path.isdir(target):
        with storage.explained(f"{target!r} cannot be read"):
            if not is_index_folder(target):
                raise UsageError(f"{target!r} holds other files: give the index a folder of its own", path=target)
    elif os.path.exists(target):
        raise UsageError(f"{target!r} is a file: give the index a folder of its own", path=target)
    return target


# --- the walk ---------------------------------------------------------------------------------------------------------


def walk(roots: Sequence[bytes], *, follow_links: bool = False, avoid: str = "") -> Walk:
    """Every regular file below the roots, once, in an order that follows from their paths; `avoid` (the index) is left out."""
    found = Walk(may_repeat=len(roots) > 1)
    avoided = _identity(avoid)
    seen_folders: set[tuple[int, int]] = set()
    for root in roots:
        if os.path.isdir(root):
            _walk_folder(root, found, seen_folders, avoided, follow_links)
        else:
            _add_root_file(root, found)
    if found.may_repeat:
        _drop_repeats(found)
    return found


def _identity(folder: str) -> tuple[int, int] | None:
    """(device, inode): the same folder however its path is written; None where there is none."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _walk_folder(root: bytes, found: Walk, seen_folders: set[tuple[int, int]], avoided: tuple[int, int] | None, follow_links: bool) -> None:
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=_name)
            if follow_links or found.may_repeat:
                here = os.stat(folder)
                if (here.st_dev, here.st_ino) in seen_folders:
                    continue
                seen_folders.add((here.st_dev, here.st_ino))
        except OSError:
            found.unreadable.append(os.fsdecode(folder))
            continue
        folders = []
        for entry in listed:
            try:
                if not entry.is_dir():
                    _add_entry(entry, found)
                elif entry.is_symlink() and not follow_links:
                    found.linked_folders += 1
                elif entry.name.startswith(b"."):
                    found.hidden_folders += 1
                elif avoided is None or not _is_folder(entry, avoided):
                    folders.append(entry.path)
            except OSError:
                _add_failed(entry, found)
        pending.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[bytes], folder: tuple[int, int]) -> bool:
    may_be = entry.inode() == folder[1] or entry.is_symlink()  # the directory tells inodes at no cost
    return may_be and _identity(os.fsdecode(entry.path)) == folder


def _add_entry(entry: os.DirEntry[bytes], found: Walk) -> None:
    """Note a file, however a link leads to it; a device, FIFO or socket is only counted."""
    status = entry.stat() if os.name != "nt" else os.stat(entry.path)  # Windows lists folders without inodes and link counts
    if not stat.S_ISREG(status.st_mode):
        found.special_files += 1
        return
    if status.st_nlink > 1 or entry.is_symlink():
        found.may_repeat = True
    found.paths.append(entry.path)
    found.stats.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    found.keys.append((status.st_dev, status.st_ino))


def _add_failed(entry: os.DirEntry[bytes], found: Walk) -> None:
    """Note an entry that the system does not describe: a link to nowhere, one it forbids; a file that vanished is none."""
    if entry.is_symlink():
        found.special_files += 1
    elif os.path.lexists(entry.path) or not os.access(os.path.dirname(entry.path), os.X_OK):
        found.unreadable.append(os.fsdecode(entry.path))


def _name(entry: os.DirEntry[bytes]) -> bytes:
    return entry.name


def _add_root_file(path: bytes, found: Walk) -> None:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{os.fsdecode(path)!r} is neither a folder nor a file", path=os.fsdecode(path))
    found.paths.append(path)
    found.stats.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    found.keys.append((status.st_dev, status.st_ino))


def _drop_repeats(found: Walk) -> None:
    """Keep the first path to each (device, inode); the order of paths decides, so it is the same every time."""
    order = sorted(range(len(found.paths)), key=found.paths.__getitem__)
    seen: set[tuple[int, int]] = set()
    keep = []
    for i in order:
        if found.keys[i] not in seen:
            seen.add(found.keys[i])
            keep.append(i)
    found.paths = [found.paths[i] for i in keep]
    found.stats = [found.stats[i] for i in keep]
    found.keys = [found.keys[i] for i in keep]


# --- what is new ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Old:
    """The tables of the index that a scan updates."""

    files: Table
    frames: Table
    problems: Table


def _reusable(target: str, options: Mapping[str, Any]) -> _Old | None:
    """The index at `target` when it was made with the same options; a damaged or older one is made anew."""
    try:
        manifest = read_manifest(target)
        if manifest.get("options") != json.loads(json.dumps(options)) or manifest.get("dicomdl") != __version__:
            return None
        tables = {name: map_table(target, manifest["generation"], name) for name in TABLES}
    except IndexFolderError:
        return None
    return _Old(tables["files"], tables["frames"], tables["problems"])


def _unchanged(found: Walk, files: Table) -> bool:
    if len(files) != len(found.paths):
        return False
    stats = np.array(found.stats, dtype=np.int64).reshape(-1, 3)
    names = ("file_bytes", "file_mtime_ns", "file_ctime_ns")
    same = all(np.array_equal(stats[:, i], files.numbers(name)) for i, name in enumerate(names))
    return same and files.equals("path", found.paths)


def _divide(found: Walk, old: _Old | None) -> tuple[dict[int, int], list[int]]:
    """({old file row: new file row} of files that are as they were, new rows of files to read)."""
    if old is None:
        return {}, list(range(len(found.paths)))
    columns = [old.files.column("path").to_pylist()]
    columns += [old.files.numbers(name).tolist() for name in ("file_bytes", "file_mtime_ns", "file_ctime_ns")]
    known = {key: row for row, key in enumerate(zip(*columns, strict=True))}
    kept: dict[int, int] = {}
    fresh: list[int] = []
    for row, (path, status) in enumerate(zip(found.paths, found.stats, strict=True)):
        old_row = known.get((path, *status))
        if old_row is None:
            fresh.append(row)
        else:
            kept[old_row] = row
    return kept, fresh


def _merge(
    old: _Old | None, kept: Mapping[int, int], fresh: Sequence[int], chunks: Sequence[list[Table]], extra: Sequence[Attribute]
) -> dict[str, Table]:
    """The tables `files`, `frames` and `problems` of all files, kept rows first, file rows in the order of the walk."""
    files = [_placed(chunk[0], "file", fresh) for chunk in chunks]
    frames = [_placed(chunk[1], "file", fresh) for chunk in chunks]
    problems = [_placed(chunk[2], "file", fresh) for chunk in chunks]
    if old is not None and kept:
        old_rows, new_rows = np.array(list(kept), dtype=np.int64), np.array(list(kept.values()), dtype=np.int64)
        place = np.full(len(old.files), -1, dtype=np.int64)
        place[old_rows] = new_rows
        files.insert(0, old.files.take(old_rows).plain().with_new_column("file", new_rows.astype(np.int32)))
        frames.insert(0, _kept_rows(old.frames, place))
        problems.insert(0, _kept_rows(old.problems, place))
    return {
        "files": _by_file(joined(files, READ_FILES_SCHEMA)).without("file"),
        "frames": encoded(_by_file(joined(frames, frames_schema(extra)))),
        "problems": _by_file(joined(problems, PROBLEMS_SCHEMA)),
    }


def _by_file(table: Table) -> Table:
    """In the order of the files, whichever process read them first."""
    files = table.numbers("file")
    return table if (files[1:] >= files[:-1]).all() else table.take(np.argsort(files, kind="stable"))


def _placed(table: Table, name: str, rows: Sequence[int]) -> Table:
    return table.with_column(name, np.asarray(rows, dtype=np.int64)[table.numbers(name)]) if len(table) else table


def _kept_rows(table: Table, place: npt.NDArray[np.int64]) -> Table:
    files = place[table.numbers("file")]
    rows = np.flatnonzero(files >= 0)
    return table.take(rows).plain().with_column("file", files[rows])


def _with_stacks(frames: Table, files: Table, tolerances: Tolerances) -> dict[str, Table]:
    """`frames`, whose columns are encoded, sorted into stacks, and `stacks`."""
    stacking = build_stacks(frames, tolerances, _folders(frames, files), _digests(frames, files))
    lengths = np.array([stack.slices for stack in stacking.stacks], dtype=np.int64)
    within = np.full(len(frames), -1, dtype=np.int64)
    within[: lengths.sum()] = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if stacking.digests:
        frames = frames.with_column("pixel_digest", [stacking.digests.get(row, "") for row in range(len(frames))])
    ordered = frames.take(stacking.order).with_column("position_in_stack", within).with_column("duplicate_of", stacking.duplicate_of)
    return {"frames": ordered, "stacks": stacks_table(stacking)}


def stacks_table(stacking: Stacking) -> Table:
    """The rows of `stacks`."""
    own = [name for name in STACKS_SCHEMA.names if name in StackRow.__slots__]
    columns = {name: [getattr(stack, name) for stack in stacking.stacks] for name in own}
    columns |= {name: [stack.idc[name] for stack in stacking.stacks] for name in STACKS_SCHEMA.names if name not in columns}
    return table_of(STACKS_SCHEMA, columns)


def _digests(frames: Table, files: Table) -> Callable[[int], str]:
    """row -> a digest of the frame's modality values; see `_digest`. What the scan before has read is not read again."""

    def digest(row: int) -> str:
        if known := frames.text("pixel_digest", row):
            return known
        places = {name: frames.value(name, row) for name in SOURCE_FIELDS if name in frames.names}
        path, size, modified = (files.value(name, frames.value("file", row)) for name in ("path", "file_bytes", "file_mtime_ns"))
        source = FrameSource(path=os.fsdecode(path), file_bytes=size, file_mtime_ns=modified, **places)
        rescale = [frames.value(name, row) for name in ("rescale_slope", "rescale_intercept", "dose_grid_scaling")]
        return _digest(source, rescale, by_file=frames.value("modality_lut_sequence", row))

    return digest


def _digest(source: FrameSource, rescale: Sequence[float | None], *, by_file: bool) -> str:
    """Of the stored values and the rescale; of the whole file where look-up tables decide what values mean, or where nothing can
    decode them; "" where not even that can be read."""
    if not by_file and source.photometric_interpretation != "PALETTE COLOR":
        try:
            values = read_frame(source)
        except PixelError:
            pass
        else:
            result = hashlib.blake2b(repr((values.shape, values.dtype.str, rescale)).encode(), digest_size=16)
            result.update(np.ascontiguousarray(values).data)
            return result.hexdigest()
    try:
        with open(source.path, "rb") as file:
            whole = hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError:
        return ""
    return f"{whole[:32]}:{source.frame_number}:{source.tile_top}:{source.tile_left}"


def _folders(frames: Table, files: Table) -> npt.NDArray[np.int64]:
    """(frames,) which folder each frame's file is in: what is left to tell Series without a UID apart."""
    if "" not in frames.codes("series_instance_uid")[1]:
        return np.zeros(len(frames), dtype=np.int64)
    folders = [os.path.dirname(path) for path in files.column("path").to_pylist()]
    place = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    return np.asarray(np.array([place[folder] for folder in folders], dtype=np.int64)[frames.numbers("file")])


# --- patients ---------------------------------------------------------------------------------------------------------


def _patient_key() -> bytes:
    """The key of this user's patient hashes; made once, readable by its owner only."""
    path = os.path.join(storage.cache_folder(), "patient_id.key")
    if not os.path.exists(path):
        storage.write_first(path, secrets.token_bytes(32))
    with storage.explained(f"{path!r} cannot be read"), open(path, "rb") as file:
        return file.read()  # of two first runs at once, both read the key that came first


def _patient_key_name() -> str:
    """Names the key without giving it away, so that an index knows whether its hashes are of this key."""
    return hashlib.blake2b(_patient_key(), digest_size=8, person=b"key name").hexdigest()


def _hash_patients(frames: Table) -> Table:
    """PatientID of newly read frames as a keyed hash of 128 bits; blank stays blank."""
    key = _patient_key()
    codes, patients = frames.codes("patient_id")
    hashes = [f"hash:{hmac.new(key, p.encode(), hashlib.blake2b).hexdigest()[:32]}" if p.strip() else "" for p in patients]
    return frames.with_column("patient_id", [hashes[code] for code in codes])


def _holds_raw_patients(target: str) -> bool:
    """Whether an older generation of the index keeps PatientID as it is: it gets no time of grace."""
    try:
        return bool(read_manifest(target).get("options", {}).get("patient_id") == "keep")
    except IndexFolderError:
        return False


# --- reading headers --------------------------------------------------------------------------------------------------


def read_chunk(reader: HeaderReader, paths: Sequence[bytes], first: int = 0) -> list[Table]:
    """[files, frames, problems] of some files, numbered from `first`: the unit of work of every engine."""
    with _no_cycle_collection():
        headers = [reader.read(os.fsdecode(path)) for path in paths]
    numbers = range(first, first + len(paths))
    files = {
        "path": list(paths),
        "file_bytes": [h.file_bytes for h in headers],
        "file_mtime_ns": [h.file_mtime_ns for h in headers],
        "file_ctime_ns": [h.file_ctime_ns for h in headers],
        "kind": [h.kind for h in headers],
        "sop_class_uid": [h.sop_class_uid for h in headers],
        "file": list(numbers),
    }
    bad = [(number, h) for number, h in zip(numbers, headers, strict=True) if h.kind == "problem"]
    problems = {"file": [number for number, _ in bad], "reason": [h.reason for _, h in bad], "detail": [h.detail for _, h in bad]}
    return [
        table_of(READ_FILES_SCHEMA, files),
        _frame_rows(reader, [(number, h) for number, h in zip(numbers, headers, strict=True) if h.rows]),
        table_of(PROBLEMS_SCHEMA, problems),
    ]


@contextlib.contextmanager
def _no_cycle_collection() -> Iterator[None]:
    """Headers are tuples of bytes, without cycles, but by the hundred thousand: looking for some costs a quarter of the scan."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _frame_rows(reader: HeaderReader, headers: Sequence[tuple[int, Any]]) -> Table:
    extra = reader.extra
    rows = [row for _, header in headers for row in header.rows]
    if not rows:
        return empty_table(frames_schema(extra))
    places = {
        "file": [number for number, header in headers for _ in header.rows],
        "frame_number": [number for _, header in headers for number in header.frame_numbers],
        "byte_offset": [place.byte_offset for _, header in headers for place in header.places],
        "byte_length": [place.byte_length for _, header in headers for place in header.places],
        "bit_offset": [place.bit_offset for _, header in headers for place in header.places],
        "deflated": [header.deflated for _, header in headers for _ in header.rows],
        "float_pixels": [header.float_pixels for _, header in headers for _ in header.rows],
    }
    if any(header.tiles for _, header in headers):
        tiles = [tile for _, header in headers for tile in (header.tiles or [NO_TILE] * len(header.rows))]
        places |= dict(zip(CodedTile._fields, map(list, zip(*tiles, strict=True)), strict=True))
    return frames_table(places, reader.convert(rows), extra)


def _read_all(paths: Sequence[bytes], extra: Sequence[Attribute], workers: int | None, *, progress: bool) -> Iterator[list[Table]]:
    """The tables of every chunk of files, in any order, with a progress bar."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook without ipywidgets tqdm says so, and shows a text bar
        from tqdm.auto import tqdm

    chunks = [(start, paths[start : start + CHUNK_FILES]) for start in range(0, len(paths), CHUNK_FILES)]
    if workers is None:
        workers = 1 if len(paths) < IN_PROCESS_FILES else available_cores()
    if not sys.executable:  # Python inside another program: there is no command to start workers with
        workers = 1
    done = _in_process(chunks, extra) if workers == 1 or len(chunks) < 2 else _in_workers(chunks, extra, min(workers, len(chunks)))
    with tqdm(total=len(paths), unit="file", desc="reading headers", disable=None if progress else True, leave=False) as bar:
        for tables in done:
            bar.update(len(tables[0]))
            yield tables


def _in_process(chunks: Sequence[tuple[int, Sequence[bytes]]], extra: Sequence[Attribute]) -> Iterator[list[Table]]:
    reader = HeaderReader(extra)
    for first, paths in chunks:
        yield read_chunk(reader, paths, first)


# A message is its length and its bytes; a chunk's message is the number of its first file and its paths, NUL between them.
_LENGTH: Final = struct.Struct("<QQ")


def _in_workers(chunks: Sequence[tuple[int, Sequence[bytes]]], extra: Sequence[Attribute], workers: int) -> Iterator[list[Table]]:
    """Chunks read by processes of our own; what a process that dies leaves undone, this process reads."""
    waiting: queue.SimpleQueue[tuple[int, Sequence[bytes]] | None] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[tuple[int, Sequence[bytes]] | None, bytes]] = queue.SimpleQueue()
    for chunk in chunks:
        waiting.put(chunk)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(workers):  # inside, so that one that cannot be started does not leave the others behind
            processes.append(_start_worker(extra))
        for process in processes:
            waiting.put(None)
            threading.Thread(target=_serve_from, args=(process, waiting, answers), daemon=True).start()
        ended = 0
        while ended < workers:
            answered, answer = answers.get()
            if answered is None:
                ended += 1
            elif answer:
                yield from_bytes(answer, 3)
            else:
                yield from _in_process([answered], extra)
        while not waiting.empty():  # every process died before the work was done
            left = waiting.get()
            if left is not None:
                yield from _in_process([left], extra)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what a dead worker never read cannot be flushed
                        pipe.close()


_WORKER: Final = (
    "import json, sys; setup = json.loads(sys.argv[1]); sys.path[:] = setup['path'];"  # before the import: it says where dicomdl is
    "from dicomdl.jobs.scan import serve; serve(setup)"
)


def _start_worker(extra: Sequence[Attribute]) -> "subprocess.Popen[bytes]":
    places = [place for place in sys.path if isinstance(place, str)]  # notebooks put other things there, too
    setup = json.dumps({"path": places, "extra": [asdict(attribute) for attribute in extra]})
    try:
        return subprocess.Popen([sys.executable, "-P", "-c", _WORKER, setup], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise StorageError(f"a worker cannot be started ({error.strerror}): pass workers=1") from error


def _serve_from(process: "subprocess.Popen[bytes]", waiting: Any, answers: Any) -> None:
    """Feed one worker chunk by chunk; an empty answer stands for a chunk that it could not read."""
    while (chunk := waiting.get()) is not None:
        try:
            assert process.stdin is not None and process.stdout is not None
            message = b"\0".join(chunk[1])
            process.stdin.write(_LENGTH.pack(len(message), chunk[0]) + message)
            process.stdin.flush()
            size, _ = _LENGTH.unpack(process.stdout.read(_LENGTH.size))
            answer = process.stdout.read(size)
        except (OSError, ValueError, struct.error):
            answers.put((chunk, b""))
            break
        answers.put((chunk, answer if len(answer) == size else b""))
    answers.put((None, b""))


def serve(setup: Mapping[str, Any]) -> None:
    """A worker process: chunks from standard input, tables to standard output, until the input ends."""
    reader = HeaderReader([Attribute(**{**a, "groups": tuple(a["groups"])}) for a in setup["extra"]])
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing that prints may get between the messages
    try:
        while len(head := source.read(_LENGTH.size)) == _LENGTH.size:
            size, first = _LENGTH.unpack(head)
            answer = to_bytes(read_chunk(reader, source.read(size).split(b"\0"), first))
            sink.write(_LENGTH.pack(len(answer), first) + answer)
            sink.flush()
    except (KeyboardInterrupt, BrokenPipeError):
        return


__all__ = ["Walk", "read_chunk", "scan", "serve", "walk"]
