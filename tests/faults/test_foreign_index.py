"""An index that somebody else edited: it reads no other file, and ends in errors of dicomdl."""

import contextlib
import functools
import json
import os
import random
import sys
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import phantoms
import phantoms_labels
import pyarrow as pa
import pytest

import dicomdl
from dicomdl.errors import DicomdlError, FileChanged, IndexFolderError, UntrustedRoot
from dicomdl.index import generations
from dicomdl.index._left_out import METADATA
from dicomdl.index.index import Index
from dicomdl.index.schema import TABLES
from dicomdl.index.table import Table

SHAPE = (4, 5, 7)
_opened: list[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str | bytes):
        path = os.fsdecode(arguments[0])
        # Without following links, nothing is opened behind one.
        if not (arguments[2] & getattr(os, "O_NOFOLLOW", 0) and os.path.islink(path)):
            _opened.append(os.path.realpath(path))


# A hook of a process stays for ever.
sys.addaudithook(_note)


@contextlib.contextmanager
def opened_files() -> Iterator[list[str]]:
    """Collect the files that are opened within the block, links resolved."""
    global _opened
    _opened = found = []
    try:
        yield found
    finally:
        _opened = None


def scanned_with_data(folder: Path) -> Index:
    """Write a series, a structure set and a damaged file, and scan them."""
    images = phantoms.write_series(folder / "data" / "ct", shape=SHAPE)
    square = phantoms_labels.contour([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]])
    phantoms_labels.write_structure_set(folder / "data" / "rt.dcm", images[0], {"square": [square]})
    (folder / "data" / "broken.dcm").write_bytes(images[0].read_bytes()[:400])
    return dicomdl.scan(folder / "data", folder / "index", progress=False)


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index that came with its data, beside which the user has a secret of his own."""
    index = scanned_with_data(tmp_path)
    phantoms.write_series(tmp_path / "secret", shape=SHAPE, seed=7)
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache of the victim"))
    return index


class Sent(NamedTuple):
    """An index and its data, of which tests edit copies."""

    data: Path
    tables: Mapping[str, Table]
    facts: Mapping[str, Any]

    def edited(self, out: Path, tables: Mapping[str, Table] | None = None, **facts: Any) -> Path:
        """Publish a copy with other tables or facts."""
        generations.publish(str(out), {**self.tables, **(tables or {})}, {**self.facts, **facts})
        return out


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """What another user sends, scanned with a cache folder of his own."""
    folder = tmp_path_factory.mktemp("sent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DICOMDL_CACHE", str(folder / "cache"))
        index = scanned_with_data(folder)
    return Sent(folder / "data", tables_of(index), dict(index._generation.facts))


@pytest.fixture(scope="module")
def beside_a_secret(tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """What another user sends, below a root with links to files of the user beside it."""
    folder = tmp_path_factory.mktemp("beside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DICOMDL_CACHE", str(folder / "cache"))
        index = scanned_with_data(folder)
    phantoms.write_series(folder / "secret", shape=SHAPE, seed=7)
    (folder / "data" / "link.dcm").symlink_to(sorted((folder / "secret").iterdir())[0])
    (folder / "data" / "folder").symlink_to(folder / "secret")
    return Sent(folder / "data", tables_of(index), dict(index._generation.facts))


def secret_of(sent: Sent) -> Path:
    """The folder that no index of this data may reach."""
    return sent.data.parent / "secret"


def tables_of(index: Index) -> dict[str, Table]:
    """The tables of an index, plain."""
    return {name: getattr(index._generation, name).plain() for name in TABLES}


def published(index: Index, tables: Mapping[str, Table], **facts: Any) -> str:
    """Publish edited tables as the attacker does, with all that makes a generation complete."""
    held = dict(index._generation.facts) | facts
    generations.publish(index.path, tables, held)
    return index.path


def with_value(table: Table, column: str, row: int, value: Any) -> Table:
    """The table with one value replaced."""
    values = table.column(column).to_pylist()
    values[row] = value
    return table.with_column(column, values)


def with_state_of(files: Table, path: str, target: Path) -> Table:
    """The table whose first image file has another path, in the state of a target."""
    row = files.column("kind").to_pylist().index("image")
    status = target.stat()
    state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    columns = ("path", "file_bytes", "file_mtime_ns", "file_ctime_ns", "file_inode")
    for column, value in zip(columns, (os.fsencode(path), *state), strict=True):
        files = with_value(files, column, row, value)
    return files


def read_all(index: Index) -> None:
    """Read every frame and volume, and every annotation."""
    for number in range(len(index)):
        dicomdl.read_frame(index.frame(number))
    for stack in index.stacks:
        dicomdl.read_volume(stack, irregular="accept")
        for annotation in stack.annotations:
            dicomdl.read_labels(stack, annotation)


# --- other files ----------------------------------------------------------------------------------

ESCAPES = {
    "absolute": "{secret}",
    "parent": "{data}/../secret/{name}",
    "parent within": "{data}/ct/../../secret/{name}",
    "link to a file": "{data}/link.dcm",
    "link to a folder": "{data}/folder/{name}",
    "folder with the root's name and more": "{data} of others/{name}",
    "doubled separator": "/{secret}",
    "archive of the root": "{data}.zip//{name}",
    "member that leaves its archive": "{data}//../secret/{name}",
}


@pytest.fixture(params=ESCAPES)
def escape(request: pytest.FixtureRequest, beside_a_secret: Sent, tmp_path: Path) -> Path:
    """The index whose first image is a file of the user outside of the root."""
    target = sorted(secret_of(beside_a_secret).iterdir())[0]
    path = ESCAPES[request.param].format(secret=target, data=beside_a_secret.data, name=target.name)
    files = with_state_of(beside_a_secret.tables["files"], path, target)
    return beside_a_secret.edited(tmp_path / "index", {"files": files})


@pytest.mark.quick(4)
@pytest.mark.parametrize("way", ["nothing", "root", "variable"])
def test_no_file_outside_of_the_root_is_opened(
    way: str, escape: Path, beside_a_secret: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "variable":
        monkeypatch.setenv("DICOMDL_ROOT", str(beside_a_secret.data))
    with opened_files() as found:
        index = dicomdl.open_index(escape, root=beside_a_secret.data if way == "root" else None)
        for part in (repr(index), repr(index.check()), repr(index.stacks)):
            assert part
        for stack in index.stacks:
            with pytest.raises(UntrustedRoot):
                dicomdl.read_volume(stack, irregular="accept")
        with pytest.raises(UntrustedRoot):
            for number in range(len(index)):
                dicomdl.read_frame(index.frame(number))
    secret = str(secret_of(beside_a_secret))
    assert not [path for path in found if path.startswith(secret)]


@pytest.mark.quick(4)
def test_a_dataset_of_it_is_not_made(escape: Path, beside_a_secret: Sent) -> None:
    """A path is refused when the dataset is made; a link when the sample is read, unskipped."""
    pytest.importorskip("torch")
    with pytest.raises(UntrustedRoot):
        samples = dicomdl.FrameDataset(
            dicomdl.open_index(escape, root=beside_a_secret.data), on_error="skip"
        )
        for row in range(len(samples)):
            _ = samples[row]


def test_an_index_that_is_trusted_reads_what_it_names(victim: Index, tmp_path: Path) -> None:
    target = sorted((tmp_path / "secret").iterdir())[0]
    tables = tables_of(victim)
    files = with_state_of(tables["files"], str(target), target)
    index = dicomdl.open_index(published(victim, tables | {"files": files}), trust=True)
    assert str(target) in {index.frame(number).path for number in range(len(index))}
    read_all(index)


@pytest.mark.quick(1)
def test_a_scan_into_it_reads_the_scanned_folder_alone(escape: Path, beside_a_secret: Sent) -> None:
    with opened_files() as found:
        index = dicomdl.scan(beside_a_secret.data, escape, progress=False)
        read_all(index)
    assert not [path for path in found if path.startswith(str(secret_of(beside_a_secret)))]


def test_an_edited_copy_of_this_user_s_own_index_is_foreign(
    victim: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    """The attacker keeps the name of the generation, and its roots."""
    monkeypatch.setenv("DICOMDL_CACHE", str(cache_folder))
    read_all(dicomdl.open_index(victim.path))
    path = Path(victim.path) / "generations" / victim.generation / "scan.json"
    facts = json.loads(path.read_bytes())
    facts["options"]["roots"] = ["/"]
    path.write_text(json.dumps(facts))
    with pytest.raises(DicomdlError):
        read_all(dicomdl.open_index(victim.path))


# --- numbers --------------------------------------------------------------------------------------

NUMBERS = [
    *[("files", "file_bytes", value) for value in (-1, 0, 2**63 - 1)],
    *[("files", name, -1) for name in ("file_mtime_ns", "file_ctime_ns")],
    *[("files", "path", path) for path in (b"/data\0", b"", b"etc/passwd", b"../passwd")],
    *[("frames", "file", value) for value in (-1, 2**31 - 1, 1000)],
    *[("frames", "byte_offset", value) for value in (-1, 2**62, 2**63 - 1, 4000)],
    *[("frames", "byte_length", value) for value in (-1, 2**62, 2**63 - 1, 4000)],
    *[("frames", name, value) for name in ("rows", "columns") for value in (-1, 2**40)],
    *[("frames", name, -1) for name in ("samples_per_pixel", "bits_allocated", "frame_number")],
    *[("frames", "bit_offset", value) for value in (-1, 8)],
    *[("frames", name, value) for name in ("coded_rows", "tile_top") for value in (-1, 10**6)],
    *[("frames", name, value) for name in ("position_in_stack",) for value in (-2, 10**6)],
    *[("frames", "duplicate_of", value) for value in (-2, 2**62)],
    *[("stacks", "frame_start", value) for value in (-1, 1, 2**62)],
    *[("stacks", "slices", value) for value in (-1, 0, 3, 5, 2**62)],
    *[("stacks", name, value) for name in ("group", "series") for value in (-1, 1, 2**62)],
    *[("stacks", name, text) for name in ("detail", "dimension") for text in ("{", "[]", "9" * 99)],
    *[("stacks", name, text) for name in ("verdict", "content") for text in ("", "fine")],
    *[("problems", "file", value) for value in (-1, 10**6)],
    *[("annotations", "file", value) for value in (-1, 10**6)],
    *[("annotations", "stacks", [value]) for value in (-1, 10**6)],
    ("annotations", "segments", "{}"),
]


def with_number(sent: Sent, table: str, column: str, value: Any) -> dict[str, Table]:
    """The table with another value in its first row, or in that of an image."""
    rows = sent.tables[table]
    row = rows.column("kind").to_pylist().index("image") if table == "files" else 0
    return {table: with_value(rows, column, row, value)}


@pytest.mark.quick(5)
@pytest.mark.parametrize(("table", "column", "value"), NUMBERS)
def test_a_number_that_no_scan_writes_is_refused_when_the_index_is_opened(
    table: str, column: str, value: Any, sent: Sent, tmp_path: Path
) -> None:
    path = sent.edited(tmp_path / "index", with_number(sent, table, column, value))
    with pytest.raises(IndexFolderError, match=r"the table \w+ of the index .* \(.*\): ask"):
        index = dicomdl.open_index(path, root=sent.data)
        _ = index.problems, len(index.problems), index.annotations


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("table", "column", "value"), {number[:2]: number for number in NUMBERS}.values()
)
def test_a_scan_takes_nothing_over_from_numbers_that_no_scan_writes(
    table: str, column: str, value: Any, sent: Sent, tmp_path: Path
) -> None:
    path = sent.edited(tmp_path / "index", with_number(sent, table, column, value))
    again = dicomdl.scan(sent.data, path, progress=False)
    assert len(again) == SHAPE[0] and len(again.problems) == 1 and len(again.annotations) == 1


def test_bytes_that_a_file_does_not_have_justify_no_memory(victim: Index, tmp_path: Path) -> None:
    tables = tables_of(victim)
    files, frames = tables["files"], tables["frames"]
    image = frames.column("file").to_pylist()[0]
    files = with_value(files, "file_bytes", image, 2**40)
    for column, value in {"byte_length": 2**39, "rows": 65535, "columns": 65535}.items():
        frames = with_value(frames, column, 0, value)
    edited = tables | {"files": files, "frames": frames}
    index = dicomdl.open_index(published(victim, edited), root=tmp_path / "data")
    tracemalloc.start()
    for read in (
        lambda: dicomdl.read_frame(index.frame(0)),
        lambda: dicomdl.read_frame(index.source(0)),
        lambda: dicomdl.read_volume(index.stacks[0], irregular="accept"),
    ):
        with pytest.raises(DicomdlError) as caught:
            read()
        assert not isinstance(caught.value, IndexFolderError)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
    with pytest.raises(FileChanged):
        dicomdl.read_frame(index.frame(0))


# --- tables ---------------------------------------------------------------------------------------


def raw(table: Table, change: str) -> pa.Table:
    """A table of frames that Arrow writes, and no scan does."""
    arrow = table.arrow
    if change == "no column":
        return arrow.drop_columns(["byte_offset"])
    if change == "other type":
        number = arrow.schema.get_field_index("byte_offset")
        return arrow.set_column(number, "byte_offset", pa.array([0.5] * len(table)))
    if change == "nulls":
        number = arrow.schema.get_field_index("byte_offset")
        return arrow.set_column(number, "byte_offset", pa.nulls(len(table), pa.int64()))
    if change == "a column twice":
        return arrow.append_column("file", arrow.column("file"))
    if change == "a column of structures":
        return arrow.append_column("more", pa.array([{"a": 1}] * len(table)))
    if change == "codes beyond the dictionary":
        codes = pa.array([0] + [100] * (len(table) - 1), pa.int8())
        texts = pa.array(["CT"], pa.large_string())
        coded = pa.DictionaryArray.from_arrays(codes, texts, safe=False)
        return arrow.set_column(arrow.schema.get_field_index("modality"), "modality", coded)
    if change == "offsets beyond the text":
        offsets = np.array([0, *[2**40] * (len(table) - 1), 2], np.int64)
        buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"CT")]
        texts = pa.Array.from_buffers(pa.large_string(), len(table), buffers)
        return arrow.set_column(arrow.schema.get_field_index("modality"), "modality", texts)
    if change == "no UTF-8":
        texts = pa.array([b"\xff"] * len(table), pa.large_binary()).view(pa.large_string())
        return arrow.set_column(arrow.schema.get_field_index("modality"), "modality", texts)
    if change == "several pieces":
        return pa.concat_tables([arrow.slice(0, 1), arrow.slice(1)])
    if change == "another constant":
        return described(arrow, {"byte_offset": 2**62})
    if change == "a constant without a column":
        return described(arrow, {"absent": 0})
    if change.startswith("left out: "):
        kind, value = LEFT_OUT[change]
        left_out = {"bit_offset": kind}
        return described(arrow.drop_columns(["bit_offset"]), {"bit_offset": value}, left_out)
    if change == "left out and stored":
        return described(arrow, {"bit_offset": 0}, {"bit_offset": "int8"})
    assert change == "constants that are no JSON"
    return arrow.replace_schema_metadata({METADATA: b"{"})


LEFT_OUT = {
    "left out: of an unknown type": ("int128", 0),
    "left out: of another type": ("int64", 0),
    "left out: a text for a number": ("int8", "0"),
    "left out: beyond its type": ("int8", 300),
    "left out: out of range": ("int8", 100),
    "left out: nothing": ("int8", None),
    "left out: a long vector": ("reals999999999", None),
}


def described(
    arrow: pa.Table, constants: dict[str, Any], left_out: dict[str, str] | None = None
) -> pa.Table:
    """A table with metadata as a scan writes them, but for the constants."""
    names = dict.fromkeys([*arrow.schema.names, *(left_out or {})])
    content = {"columns": [*names], "constants": constants, "left_out": left_out or {}}
    return arrow.replace_schema_metadata({METADATA: json.dumps(content)})


@pytest.mark.parametrize(
    "change",
    [
        "no column",
        "other type",
        "nulls",
        "a column twice",
        "a column of structures",
        "codes beyond the dictionary",
        "offsets beyond the text",
        "no UTF-8",
        "another constant",
        "a constant without a column",
        "constants that are no JSON",
        "left out and stored",
        "several pieces",
        *LEFT_OUT,
    ],
)
def test_a_table_that_no_scan_writes_is_refused_when_the_index_is_opened(
    change: str, sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow, plainly = raw(sent.tables["frames"], change), generations._write_table

    def write(path: str, table: Table) -> None:
        if "frames" not in path:
            plainly(path, table)
            return
        with pa.ipc.new_file(path, arrow.schema) as writer:
            writer.write_table(arrow)

    monkeypatch.setattr(generations, "_write_table", write)
    path = sent.edited(tmp_path / "index", {})
    with pytest.raises(IndexFolderError, match="frames"):
        dicomdl.open_index(path, root=sent.data)
    with pytest.raises(IndexFolderError):
        dicomdl.open_index(path, trust=True)


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    "facts",
    [
        {"options": []},
        {"options": {"roots": "/"}},
        {"options": {"roots": [1]}},
        {"options": {"roots": [""]}},
        {"options": {"roots": ["/"], "tolerances": {"position_mm": "x"}}},
        {"options": {"roots": ["/"], "tolerances": []}},
        {"passed_over": []},
        {"passed_over": {"hidden_folders": {}}},
        {"passed_over": {"unreadable": [1]}},
    ],
    ids=str,
)
def test_facts_that_no_scan_writes_are_refused(
    facts: dict[str, Any], sent: Sent, tmp_path: Path
) -> None:
    path = sent.edited(tmp_path / "index", **facts)
    with pytest.raises(IndexFolderError):
        dicomdl.open_index(path)
    assert len(dicomdl.scan(sent.data, path, progress=False)) == SHAPE[0]


@contextlib.contextmanager
def memory_limit(more_bytes: int) -> Iterator[None]:
    """Let this process take no more than some bytes in addition to those that it has."""
    resource = pytest.importorskip("resource")
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("the size of this process is unknown")
    size = int(pages.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.quick(2)
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("claim", ["true", "beyond all memory", "all but the dictionaries"])
def test_a_compressed_table_takes_no_memory(
    codec: str, claim: str, sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some kilobytes become 256 MiB, or say so."""
    zeros = pa.array(np.zeros(2**25, np.int64))
    if claim == "all but the dictionaries":
        texts = pa.array(["0" * 2**27], pa.large_string())
        zeros = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4, np.int8)), texts)
    frames = Table(pa.table({"byte_offset": zeros}))
    size = zeros.nbytes.to_bytes(8, "little")
    options, plainly = pa.ipc.IpcWriteOptions(compression=codec), generations._write_table

    def write(path: str, table: Table) -> None:
        if "frames" not in path:
            plainly(path, table)
            return
        with pa.ipc.new_file(path, table.arrow.schema, options=options) as writer:
            writer.write_table(table.arrow)
        if claim == "beyond all memory":
            before, _, after = Path(path).read_bytes().rpartition(size)
            Path(path).write_bytes(before + (2**50).to_bytes(8, "little") + after)

    monkeypatch.setattr(generations, "_write_table", write)
    monkeypatch.setattr(generations, "encoded", lambda table: table)
    path = sent.edited(tmp_path / "index", {"frames": frames})
    del frames, zeros
    with memory_limit(2**26), pytest.raises(IndexFolderError, match="frames cannot be read"):
        _ = dicomdl.open_index(path, root=sent.data).stacks, len(dicomdl.open_index(path))


# --- anything -------------------------------------------------------------------------------------

VALUES: dict[str, list[Any]] = {
    "int8": [-128, -1, 0, 1, 127],
    "int32": [-(2**31), -1, 0, 1, 2, 1000, 2**31 - 1],
    "int64": [-(2**63), -1, 0, 1, 2, 1000, 2**40, 2**62, 2**63 - 1],
    "double": [float("nan"), float("inf"), -1e308, -1.0, 0.0, 1e308],
    "large_string": ["", "x", "\x1b[2J", "1.2.840.10008.1.2.5", "{}", "[]", "null", "9" * 5000],
    "large_binary": [b"", b"/", b"/etc/passwd", b"..", b"\xff"],
    "bool": [True, False],
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_edits_end_in_errors_of_dicomdl(victim: Index, tmp_path: Path) -> None:
    """DICOMDL_FUZZ_COUNT=2000 is the nightly run."""
    pytest.importorskip("torch")
    from faults.whole_way import Way

    random_seed = int(os.environ.get("DICOMDL_FUZZ_SEED", "20261129"))
    print(f"DICOMDL_FUZZ_SEED={random_seed}")
    rng = random.Random(random_seed)
    tables, way = tables_of(victim), Way()
    secret = str(tmp_path / "secret")
    for _ in range(int(os.environ.get("DICOMDL_FUZZ_COUNT", "200")) // 10):
        name = rng.choice(TABLES)
        columns = [c for c in tables[name].names if str(tables[name].column(c).type) in VALUES]
        column = rng.choice(columns)
        value = rng.choice(VALUES[str(tables[name].column(column).type)])
        edited = with_value(tables[name], column, rng.randrange(len(tables[name])), value)
        path = published(victim, tables | {name: edited})
        with opened_files() as found:
            root = rng.choice([tmp_path / "data", None])
            index = way.take("open", functools.partial(dicomdl.open_index, path, root=root))
            if index is not None:
                way.follow(index)
        assert not [file for file in found if file.startswith(secret)]
        assert not way.escapes, (name, column, value, way.escapes)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize(
    "name", ["manifest.json", *(f"generations/*/{f}" for f in ("scan.json", "checksums"))]
)
@pytest.mark.timeout(30)
def test_a_fifo_in_the_place_of_a_file_is_an_error_and_no_wait(
    sent: Sent, name: str, tmp_path: Path
) -> None:
    folder = sent.edited(tmp_path / "index")
    (path,) = folder.glob(name)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IndexFolderError):
        dicomdl.open_index(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.timeout(30)
def test_a_fifo_in_the_place_of_a_table_is_an_error_and_no_wait(
    sent: Sent, table: str, tmp_path: Path
) -> None:
    folder = sent.edited(tmp_path / "index")
    (path,) = folder.glob(f"generations/*/{table}.arrow")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IndexFolderError):
        dicomdl.open_index(folder, trust=True).check()
