"""Scans of stores: prefixes, objects, lists and tables of URLs, and what they leave in an index."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from object_server import ObjectServer, serving
from phantoms import write_series
from phantoms_labels import write_seg, write_structure_set
from pydicom.data import get_testdata_file
from pydicom.uid import RLELossless

import dicomdl
from dicomdl.errors import FileChanged, StorageError, UsageError
from dicomdl.jobs import engine
from dicomdl.storage import _stores, memory

pytest.importorskip("obstore")
SHAPE = (12, 64, 48)
TABLES = ("files", "frames", "stacks", "problems", "annotations")


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A server with a series, a file that is no DICOM, one that is cut, and a JPEG 2000."""
    write_series(folder / "a", shape=SHAPE)
    write_series(folder / "b", shape=(5, 64, 48))
    (folder / "notes.txt").write_text("nothing")
    first = next((folder / "a").iterdir())
    (folder / "b" / "cut.dcm").write_bytes(first.read_bytes()[:2000])
    coded = get_testdata_file("JPEG2000.dcm")
    assert isinstance(coded, str)
    (folder / "coded.dcm").write_bytes(Path(coded).read_bytes())
    monkeypatch.setattr(_stores, "MAX_RETRIES", 2)
    _stores.forget_clients()
    server = ObjectServer()
    server.put_folder(folder, "b/data")
    with serving(server) as running:
        yield running
    _stores.forget_clients()


def options(server: ObjectServer) -> dict[str, Any]:
    return {"endpoint": server.url, "skip_signature": True, "region": "us-east-1"}


def scan(server: ObjectServer, roots: Any, out: Path, **more: Any) -> dicomdl.Index:
    return dicomdl.scan(roots, out, progress=False, storage_options=options(server), **more)


def tables(index: dicomdl.Index, root: str) -> dict[str, list[dict[str, Any]]]:
    """The tables of an index, with paths below the root and without the states of files."""
    states = ("file_bytes", "file_mtime_ns", "file_ctime_ns", "file_inode", "file_etag")
    found = {}
    for name in TABLES:
        rows = index.to_pandas(name).drop(columns=list(states), errors="ignore")
        text = rows.map(lambda cell: repr(cell).replace(root, "ROOT"))
        found[name] = text.to_dict("records")
    return found


@pytest.mark.slow
def test_a_prefix_has_the_tables_of_its_folder(
    server: ObjectServer, folder: Path, tmp_path: Path
) -> None:
    local = dicomdl.scan(folder, tmp_path / "local", progress=False)
    remote = scan(server, "s3://b/data", tmp_path / "remote")
    assert tables(remote, "s3://b/data") == tables(local, str(folder))
    assert remote.ledger == local.ledger
    for here, there in zip(local.stacks, remote.stacks, strict=True):
        arrays = [dicomdl.read_volume(each, irregular="accept").array for each in (here, there)]
        assert np.array_equal(*arrays)


def test_headers_are_read_by_one_request_each(server: ObjectServer, tmp_path: Path) -> None:
    files = [path for path in server.objects if path.startswith("b/data/a/")]
    scan(server, "s3://b/data/a", tmp_path / "index")
    assert len(server.gets()) == len(files) == SHAPE[0]
    assert {(each.start, each.stop) for each in server.gets()} == {(0, 16 * 1024)}


@pytest.mark.slow
def test_a_second_scan_reads_what_changed(server: ObjectServer, tmp_path: Path) -> None:
    index = scan(server, "s3://b/data/a/", tmp_path / "index")
    server.clear()
    assert len(scan(server, "s3://b/data/a/*", tmp_path / "index")) == len(index)
    assert not server.gets()
    name = next(path for path in server.objects if path.startswith("b/data/a/"))
    server.objects[name] = server.objects[name][:-2] + b"\1\2"
    again = scan(server, "s3://b/data/a", tmp_path / "index")
    assert [each.path for each in server.gets()] == [f"/{name}"]
    assert len(again) == len(index)
    index = dicomdl.open_index(tmp_path / "index")
    assert dicomdl.read_volume(index.stacks[0]).array.shape == SHAPE


def test_a_changed_object_is_refused_and_not_mixed(server: ObjectServer, tmp_path: Path) -> None:
    index = scan(server, "s3://b/data/a", tmp_path / "index")
    frame = index.frame(3)
    name = frame.path.removeprefix("s3://")
    server.objects[name] = bytes(len(server.objects[name]))
    with pytest.raises(FileChanged, match="another ETag"):
        dicomdl.read_frame(frame)
    with pytest.raises(FileChanged, match="another ETag"):
        dicomdl.read_volume(index.stacks[0])


@pytest.mark.slow
def test_an_index_knows_how_its_stores_are_reached(server: ObjectServer, tmp_path: Path) -> None:
    scan(server, "s3://b/data/a", tmp_path / "index")
    program = (
        "import dicomdl, sys; index = dicomdl.open_index(sys.argv[1]);"
        "print(dicomdl.read_volume(index.stacks[0]).array.shape)"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "index")]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(SHAPE)


def urls(server: ObjectServer, part: str = "") -> list[str]:
    return [f"{server.url}/{path}" for path in server.objects if part in path]


def test_urls_are_roots(server: ObjectServer, folder: Path, tmp_path: Path) -> None:
    roots = [*urls(server, "/a/"), folder / "b", "s3://b/data/coded.dcm"]
    index = scan(server, roots, tmp_path / "index")
    assert index.ledger["image"] == SHAPE[0] + 5 + 1
    (stack,) = index.select(verdict="regular", min_slices=6).stacks
    assert dicomdl.read_volume(stack).array.shape == SHAPE


@pytest.mark.quick(2)
@pytest.mark.parametrize("kind", ["csv", "parquet", "txt", "s5cmd", "remote txt", "relative"])
def test_a_table_of_urls_is_a_root(server: ObjectServer, tmp_path: Path, kind: str) -> None:
    names = urls(server, "/a/")
    root: Any = tmp_path / f"list.{kind.split()[-1]}"
    if kind == "csv":
        root.write_text("n,url\n" + "".join(f"1,{name}\n" for name in names))
    elif kind == "parquet":
        pq.write_table(pa.table({"n": [1] * len(names), "aws_url": names}), root)
    elif kind == "txt":
        root.write_text("# all\n\n" + "\n".join(names))
    elif kind == "s5cmd":
        root.write_text("cp s3://b/data/a/* .\n")
    else:
        base = f"{server.url}/b/data/" if kind == "remote txt" else ""
        lines = [base + name.partition("/data/")[2] for name in names]
        server.objects["b/data/list.txt"] = "\n".join(lines).encode()
        root = f"{server.url}/b/data/list.txt"
    index = scan(server, root, tmp_path / "index")
    assert dicomdl.read_volume(index.stacks[0]).array.shape == SHAPE


def test_a_table_without_urls_is_refused(server: ObjectServer, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("n,url\n1,see s3://bucket\n")
    with pytest.raises(UsageError, match="no column of URLs"):
        scan(server, tmp_path / "list.csv", tmp_path / "index")


def test_an_absent_object_of_a_list_is_a_problem(server: ObjectServer, tmp_path: Path) -> None:
    index = scan(server, [*urls(server, "/a/"), f"{server.url}/b/absent.dcm"], tmp_path / "index")
    assert index.ledger["image"] == SHAPE[0]
    (problem,) = index.problems
    assert problem.path == f"{server.url}/b/absent.dcm"
    assert problem.reason == "unreadable" and "no such object" in problem.detail


@pytest.mark.slow
def test_presigned_urls_leave_no_signature(server: ObjectServer, tmp_path: Path) -> None:
    names = [url for url in urls(server) if not url.endswith(".txt")]
    signed = [f"{url}?X-Amz-Signature=SECRET{number}" for number, url in enumerate(names)]
    index = scan(server, signed, tmp_path / "index")
    assert index.ledger["image"] == SHAPE[0] + 5 + 1
    (stack,) = index.select(verdict="regular", min_slices=6).stacks
    assert dicomdl.read_volume(stack).array.shape == SHAPE
    assert all("SECRET" in each.query for each in server.gets())
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()
    assert "SECRET" not in repr(index) + repr(index.frame(0)) + json.dumps(index.manifest)
    server.fault = lambda request: "" if "SECRET" in request.query else "403"
    program = (
        "import dicomdl, sys; index = dicomdl.open_index(sys.argv[1]);"
        "dicomdl.read_frame(index.frame(0))"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "index")]
    ran = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "DICOMDL_BYTE_CACHE": "0"}
    )
    assert "refuses access (403)" in ran.stderr and "SECRET" not in ran.stderr


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("s3://b/absent", "does not exist"),
        ("s3://", "names no bucket"),
        ("https://me:pw@host/x.dcm", "password"),
        ("s3://b/case.7z", "is an archive of a kind that is not read"),
        ("nothing://b/x", "no installed library reads nothing://"),
    ],
)
def test_roots_that_cannot_be_are_refused(
    server: ObjectServer, tmp_path: Path, root: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        scan(server, root, tmp_path / "index")
    assert "pw" not in str(caught.value).replace("password", "")
    assert not (tmp_path / "index").exists()


def test_a_store_that_refuses_the_listing_leaves_the_index(
    server: ObjectServer, tmp_path: Path
) -> None:
    index = scan(server, "s3://b/data/a", tmp_path / "index")
    server.fault = lambda request: "403"
    with pytest.raises(StorageError, match=r"s3://b/data/a' cannot be read: .*\(403\)"):
        scan(server, "s3://b/data/a", tmp_path / "index")
    assert len(dicomdl.open_index(tmp_path / "index")) == len(index)


def test_options_and_concurrency_are_checked(server: ObjectServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="concurrency is 0, expected 1 to 256"):
        scan(server, "s3://b/data/a", tmp_path / "index", concurrency=0)
    with pytest.raises(UsageError, match="environment"):
        dicomdl.scan("s3://b", tmp_path / "x", storage_options={"aws_secret_access_key": "k"})


def test_concurrency_bounds_the_requests_in_flight(server: ObjectServer, tmp_path: Path) -> None:
    server.delay_s = 0.01
    scan(server, "s3://b/data/a", tmp_path / "index", concurrency=3)
    assert 2 <= server.most_in_flight <= 3


@pytest.mark.slow
def test_worker_processes_read_from_stores(
    server: ObjectServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomdl.jobs.engine.CHUNK_FILES", 4)
    local = dicomdl.scan(folder, tmp_path / "local", progress=False)
    remote = scan(server, "s3://b/data", tmp_path / "remote", workers=2)
    assert tables(remote, "s3://b/data") == tables(local, str(folder))


def test_fsspec_reads_other_schemes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "0")
    fsspec = pytest.importorskip("fsspec")
    write_series(folder, shape=SHAPE)
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe(f"/set/{path.name}", path.read_bytes())
    index = dicomdl.scan("memory://set", tmp_path / "index", progress=False)
    assert index.stacks[0].verdict == "regular"
    assert dicomdl.read_volume(index.stacks[0]).array.shape == SHAPE
    files.pipe(index.frame(0).path.removeprefix("memory://"), b"short")
    with pytest.raises(FileChanged):
        dicomdl.read_frame(index.frame(0))


def test_a_gzip_of_a_table_is_no_table(server: ObjectServer, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(gzip.compress(b"url\ns3://b/x\n"))
    assert scan(server, tmp_path / "list.csv", tmp_path / "index").ledger["not_dicom"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "other grid"])
def test_frames_of_a_segmentation_are_asked_for_at_once(
    server: ObjectServer,
    folder: Path,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The scan leaves the beginning of the file in it.
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "0")
    labels = np.random.default_rng(1).integers(1, 4, SHAPE).astype(np.uint8)
    image = next(
        path
        for path in (folder / "a").iterdir()
        if pydicom.dcmread(path).ImagePositionPatient[2] == 0
    )
    move = 0.3 if kind == "other grid" else 0
    frames = [
        (part, (move, move, 2.0 * z), labels[z] if kind == "LABELMAP" else labels[z] == part)
        for part in ((1,) if kind == "LABELMAP" else (1, 2, 3))
        for z in range(SHAPE[0])
    ]
    path = write_seg(
        folder / "seg.dcm",
        image,
        [(part, where, values.astype(np.uint8)) for part, where, values in frames],
        kind="LABELMAP" if kind == "LABELMAP" else "BINARY",
        segments={1: "one", 2: "two", 3: "three"},
    )
    server.objects["b/data/seg.dcm"] = path.read_bytes()
    indexes = (
        dicomdl.scan(folder, tmp_path / "here", progress=False),
        scan(server, "s3://b/data", tmp_path / "there"),
    )
    here, there = (next(stack for stack in index.stacks if stack.annotations) for index in indexes)
    assert here.series_instance_uid == there.series_instance_uid
    whole = dicomdl.read_labels(here, here.annotations[0]).array
    memory.clear()
    server.clear()
    server.delay_s = 0.02
    assert np.array_equal(dicomdl.read_labels(there, there.annotations[0]).array, whole)
    assert len(server.gets()) == len(frames)
    assert server.most_in_flight >= 8


@pytest.mark.slow
def test_compressed_slices_of_a_patch_are_asked_for_at_once(
    server: ObjectServer, folder: Path, tmp_path: Path
) -> None:
    files = write_series(folder / "rle", shape=SHAPE, transfer_syntax=RLELossless)
    server.objects |= {f"b/rle/{path.name}": path.read_bytes() for path in files}
    index = scan(server, "s3://b/rle", tmp_path / "out")
    here = dicomdl.scan(folder / "rle", tmp_path / "here", progress=False)
    patches, same = (
        dicomdl.PatchDataset(each, (12, 8, 8), sampler="grid", intensity="modality")
        for each in (index, here)
    )
    server.clear()
    server.delay_s = 0.02
    for number in range(2):
        assert np.array_equal(patches[number]["image"], same[number]["image"])
    assert len(server.gets()) == SHAPE[0]
    assert server.most_in_flight >= 8


@pytest.mark.slow
def test_annotations_are_asked_for_at_once(
    server: ObjectServer, folder: Path, tmp_path: Path
) -> None:
    image = next((folder / "a").iterdir())
    for number in range(16):
        path = write_structure_set(folder / f"{number}.dcm", image, {f"region {number}": []})
        server.objects[f"b/rois/{number}.dcm"] = path.read_bytes()
    server.delay_s = 0.02
    in_flight: list[int] = []
    read = engine.read_annotation

    def counted(source: Any) -> Any:
        in_flight.append(1)
        most.append(sum(in_flight))
        try:
            return read(source)
        finally:
            in_flight.pop()

    most: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "read_annotation", counted)
        index = scan(server, "s3://b/rois", tmp_path / "out")
    assert len(index.to_pandas("annotations")) == 16
    assert max(most) >= 8
