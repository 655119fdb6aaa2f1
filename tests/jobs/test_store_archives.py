"""Archives in stores: their members by ranges, or out of a copy."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_server import ObjectServer, serving
from phantoms import write_series
from phantoms_labels import write_structure_set

import dicomdl
from dicomdl.errors import FileChanged
from dicomdl.jobs.archive_check import check_archives
from dicomdl.storage import _stores, memory

pytest.importorskip("obstore")
SHAPE = (24, 128, 128)
TABLES = ("files", "frames", "stacks", "problems", "annotations")
STATES = ["file_mtime_ns", "file_ctime_ns", "file_inode", "file_etag"]


def packed(folder: Path, name: str) -> bytes:
    data, files = io.BytesIO(), sorted(each for each in folder.rglob("*") if each.is_file())
    if name.endswith(".zip"):
        method = zipfile.ZIP_STORED if name.startswith("stored") else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(data, "w", method) as archive:
            for file in files:
                archive.write(file, file.relative_to(folder).as_posix())
    else:
        with tarfile.open(fileobj=data, mode="w:gz" if name.endswith(".gz") else "w") as tar:
            for file in files:
                tar.add(file, file.relative_to(folder).as_posix())
    return data.getvalue()


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    image = write_series(folder / "ct", shape=SHAPE)[0]
    write_structure_set(folder / "rois.dcm", image, {"one": []})
    (folder / "cut.dcm").write_bytes(image.read_bytes()[:900])
    monkeypatch.setattr(_stores, "MAX_RETRIES", 1)
    _stores.forget_clients()
    with serving(ObjectServer()) as running:
        yield running
    _stores.forget_clients()


def scan(server: ObjectServer, root: str, out: Path, **more: Any) -> dicomdl.Index:
    options = {"endpoint": server.url, "skip_signature": True, "region": "us-east-1"}
    return dicomdl.scan(root, out, progress=False, storage_options=options, **more)


def rows(index: dicomdl.Index, table: str, root: str) -> list[dict[str, str]]:
    """The rows of a table, without states and with paths below the root."""
    found = index.to_pandas(table).drop(columns=STATES, errors="ignore")
    return found.map(lambda cell: repr(cell).replace(root, "ROOT")).to_dict("records")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stored.zip", "deflated.zip", "plain.tar", "packed.tar.gz"])
def test_an_archive_in_a_store_has_the_tables_of_the_archive_on_disk(
    server: ObjectServer, folder: Path, tmp_path: Path, name: str
) -> None:
    path, url = tmp_path / name, f"s3://b/sets/{name}"
    path.write_bytes(packed(folder, name))
    server.objects[f"b/sets/{name}"] = path.read_bytes()
    here = dicomdl.scan(path, tmp_path / "here", progress=False)
    memory.clear()
    server.clear()
    there = scan(server, url, tmp_path / "there")
    if name == "stored.zip":
        # One request per member, and some for the state, the end and the directory.
        assert len(server.log) <= 1.05 * (SHAPE[0] + 2) + 8
    for table in TABLES:
        assert rows(here, table, str(path)) == rows(there, table, url), table
    volumes = [dicomdl.read_volume(index.stacks[0]).array for index in (here, there)]
    assert np.array_equal(*volumes)
    server.clear()
    again = scan(server, url, tmp_path / "there")
    # The state alone: nothing is read again.
    assert (again.generation, len(server.log)) == (there.generation, 1)
    memory.clear()
    assert check_archives(there, progress=False).ok


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stored.zip", "plain.tar"])
def test_members_are_asked_for_at_once_and_by_ranges(
    server: ObjectServer,
    folder: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "0")
    server.objects[f"b/{name}"] = packed(folder, name)
    index = scan(server, f"s3://b/{name}", tmp_path / "index")
    here = dicomdl.scan(folder / "ct", tmp_path / "here", progress=False)
    patches, same = (
        dicomdl.PatchDataset(each, (16, 96, 128), sampler="grid", intensity="modality")
        for each in (index, here)
    )
    server.clear()
    server.delay_s = 0.02
    assert np.array_equal(patches[0]["image"], same[0]["image"])
    assert server.most_in_flight >= 8
    assert len(server.log) == 16


@pytest.mark.slow
def test_an_archive_that_changes_refuses_its_members(
    server: ObjectServer, folder: Path, tmp_path: Path
) -> None:
    server.objects["b/stored.zip"] = packed(folder, "stored.zip")
    index = scan(server, "s3://b/stored.zip", tmp_path / "index")
    server.objects["b/stored.zip"] = packed(folder / "ct", "stored.zip")
    for forget in (False, True):
        if forget:
            memory.clear()
        with pytest.raises(FileChanged):
            dicomdl.read_frame(index.frame(20))
    again = scan(server, "s3://b/stored.zip", tmp_path / "index")
    assert again.ledger["files"] == SHAPE[0]
    assert dicomdl.read_volume(again.stacks[0]).array.shape == SHAPE


def test_a_deflated_zip_in_a_store_is_copied_on_request(
    server: ObjectServer, folder: Path, tmp_path: Path
) -> None:
    server.objects["b/deflated.zip"] = packed(folder, "deflated.zip")
    index = scan(server, "s3://b/deflated.zip", tmp_path / "index", copy_archives=True)
    memory.clear()
    server.clear()
    assert dicomdl.read_volume(index.stacks[0]).array.shape == SHAPE
    # The state alone: the bytes are those of the copy.
    assert len(server.log) == 1


@pytest.mark.quick(2)
@pytest.mark.parametrize("fault", ["404", "403", "500", "cut", "no range"])
def test_an_archive_that_a_store_fails_to_give_is_one_sentence(
    server: ObjectServer, folder: Path, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stores, "_BODY_TRIES", 1)
    server.objects["b/stored.zip"] = packed(folder, "stored.zip")
    server.fault = lambda request: fault
    index = scan(server, "s3://b/stored.zip", tmp_path / "index")
    (problem,) = index.problems
    assert problem.path == "s3://b/stored.zip" and "\n" not in problem.detail


@pytest.mark.slow
def test_workers_read_members_of_an_archive_in_a_store(
    server: ObjectServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomdl.jobs.engine.CHUNK_FILES", 16)
    server.objects["b/stored.zip"] = packed(folder, "stored.zip")
    index = scan(server, "s3://b/stored.zip", tmp_path / "index", workers=2)
    assert index.ledger["image"] == SHAPE[0]


@pytest.mark.slow
def test_archives_below_a_prefix_are_read_on_request(
    server: ObjectServer, folder: Path, tmp_path: Path
) -> None:
    write_series(folder.parent / "other", shape=(3, 16, 16), series_uid="1.2.3")
    for path in (folder.parent / "other").iterdir():
        server.objects[f"b/set/{path.name}"] = path.read_bytes()
    server.objects["b/set/one/stored.zip"] = packed(folder, "stored.zip")
    server.objects["b/set/two/plain.tar"] = b"no tar" * 1000
    closed = scan(server, "s3://b/set", tmp_path / "closed")
    assert (closed.ledger["image"], closed.ledger["not_dicom"]) == (3, 2)
    found = scan(server, "s3://b/set", tmp_path / "open", archives=True)
    assert found.ledger["image"] == 3 + SHAPE[0]
    assert "s3://b/set/two/plain.tar" in [problem.path for problem in found.problems]
    # A root and a prefix that holds it: its members are read once.
    roots: Any = ["s3://b/set", "s3://b/set/one/stored.zip"]
    both = scan(server, roots, tmp_path / "both")
    assert both.ledger["image"] == 3 + SHAPE[0]
    server.clear()
    assert scan(server, roots, tmp_path / "both").generation == both.generation
    assert len(server.gets()) <= 1
