"""Stores that fail in the middle of a scan or an epoch, and the processes of a DataLoader."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_server import MODIFIED, ObjectServer, Request, serving
from phantoms import write_series

import dicomdl
from dicomdl.errors import PixelError, StorageError
from dicomdl.storage import _stores

pytest.importorskip("obstore")
torch = pytest.importorskip("torch")
SHAPE = (16, 48, 48)


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    write_series(folder, shape=SHAPE)
    monkeypatch.setattr(_stores, "MAX_RETRIES", 2)
    monkeypatch.setattr(_stores, "_BODY_TRIES", 2)
    monkeypatch.setattr(_stores, "REQUEST_S", 0.5)
    _stores.forget_clients()
    server = ObjectServer()
    server.put_folder(folder, "b/data")
    with serving(server) as running:
        yield running
    _stores.forget_clients()


def scanned(server: ObjectServer, out: Path) -> dicomdl.Index:
    options = {"endpoint": server.url, "skip_signature": True, "region": "us-east-1"}
    return dicomdl.scan("s3://b/data", out, progress=False, storage_options=options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ["301", "401", "403", "404", "416", "429", "500", "cut", "hang", "short", "wrong range"],
)
def test_a_file_that_a_store_fails_to_give_is_a_problem(
    server: ObjectServer, tmp_path: Path, fault: str
) -> None:
    bad = sorted(server.objects)[3]
    server.fault = lambda request: fault if request.path == f"/{bad}" else ""
    index = scanned(server, tmp_path / "index")
    assert index.ledger["image"] == SHAPE[0] - 1
    (problem,) = index.problems
    assert problem.path == f"s3://{bad}" and problem.reason == "unreadable"
    assert "\n" not in problem.detail and "Generic" not in problem.detail
    server.fault = lambda request: ""
    # The next scan asks again.
    assert len(scanned(server, tmp_path / "index")) == SHAPE[0]


def test_faults_that_pass_cost_retries_alone(server: ObjectServer, tmp_path: Path) -> None:
    calls: dict[str, int] = {}

    def first_fails(request: Request) -> str:
        calls[request.path] = calls.get(request.path, 0) + 1
        return ("503", "cut")[len(calls) % 2] if calls[request.path] == 1 else ""

    server.fault = first_fails
    index = scanned(server, tmp_path / "index")
    calls.clear()
    assert dicomdl.read_volume(index.stacks[0]).array.shape == SHAPE


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "fault", ["403", "404", "412", "416", "429", "500", "cut", "hang", "short", "no length"]
)
def test_an_epoch_follows_on_error(server: ObjectServer, tmp_path: Path, fault: str) -> None:
    index = scanned(server, tmp_path / "index")
    bad = index.frame(5).path.removeprefix("s3:/")
    server.fault = lambda request: fault if request.path == bad else ""
    frames = dicomdl.FrameDataset(index, intensity="modality", on_error="skip")
    kept = [
        int(row)
        for batch in torch.utils.data.DataLoader(frames, batch_size=4, collate_fn=dicomdl.collate)
        for row in batch["row"]
    ]
    assert kept == [row for row in range(SHAPE[0]) if row != 5]
    with pytest.raises(PixelError) as caught:
        dicomdl.read_frame(index.frame(5))
    assert index.frame(5).path in "".join(caught.value.__notes__)


def test_a_store_without_etags_is_compared_by_size_and_time(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.etags = False
    index = scanned(server, tmp_path / "index")
    assert index.frame(0).file_etag == ""
    assert dicomdl.read_frame(index.frame(0)).shape == SHAPE[1:]
    monkeypatch.setattr("object_server.MODIFIED", MODIFIED.replace("Wed, 01", "Thu, 02"))
    with pytest.raises(PixelError, match="another time of modification"):
        dicomdl.read_frame(index.frame(1))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_samples_of_the_folder(
    server: ObjectServer, folder: Path, tmp_path: Path, method: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    remote = scanned(server, tmp_path / "index")
    local = dicomdl.scan(folder, tmp_path / "local", progress=False)

    def epoch(index: dicomdl.Index, **options: Any) -> list[Any]:
        patches = dicomdl.PatchDataset(index, (8, 16, 16), sampler="grid", intensity="modality")
        loader = torch.utils.data.DataLoader(patches, batch_size=3, **options)
        return [batch["image"].numpy() for batch in loader]

    expected = epoch(local)
    server.clear()
    epochs = 2 if method == "fork" else 1  # an interpreter takes seconds to start
    for _ in range(epochs):
        found = epoch(remote, num_workers=1, multiprocessing_context=method)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    # The second epoch reads the byte cache.
    assert 0 < len(server.gets()) <= 9 * SHAPE[0] + SHAPE[0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hang", "gives no answer"),
        ("403", "refuses access"),
        ("500", "status 500"),
    ],
)
def test_a_listing_that_fails_leaves_the_index_and_is_one_sentence(
    server: ObjectServer, tmp_path: Path, fault: str, words: str
) -> None:
    before = scanned(server, tmp_path / "index")
    server.fault = lambda request: fault if "list-type" in request.query else ""
    with pytest.raises(StorageError, match=words) as caught:
        scanned(server, tmp_path / "index")
    assert "\n" not in str(caught.value) and "s3://b/data" in str(caught.value)
    assert len(dicomdl.open_index(tmp_path / "index")) == len(before) == SHAPE[0]
