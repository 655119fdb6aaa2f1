"""The file of an archive in a store: how many requests its reads cost."""

from collections.abc import Iterator

import numpy as np
import pytest
from object_server import ObjectServer, serving

from dicomdl.storage import _stores, objects
from dicomdl.storage._remote_file import RemoteFile

pytest.importorskip("obstore")
DATA = np.random.default_rng(3).bytes(6_000_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "0")
    _stores.forget_clients()
    with serving(ObjectServer({"b/a.zip": DATA})) as running:
        options = {"endpoint": running.url, "skip_signature": True, "region": "us-east-1"}
        objects.declare(["s3://b"], options)
        yield running
    _stores.forget_clients()


def test_small_reads_side_by_side_are_one_request(server: ObjectServer) -> None:
    file = RemoteFile("s3://b/a.zip")
    server.clear()
    for offset, length in ((500_000, 30), (500_030, 100), (500_130, 16_384), (500_010, 5)):
        assert file.read_at(offset, length) == DATA[offset : offset + length]
    assert len(server.log) == 1
    assert file.read_at(len(DATA) - 22, 22) == DATA[-22:] == file.read_at(len(DATA) - 22, 500)
    assert file.read_at(len(DATA), 5) == b""
    assert len(server.log) == 2


def test_reads_that_follow_each_other_become_long_requests(server: ObjectServer) -> None:
    file = RemoteFile("s3://b/a.zip")
    server.clear()
    whole = b"".join(file.read_at(offset, 8192) for offset in range(0, len(DATA), 8192))
    assert whole == DATA
    assert len(server.log) <= 12
    assert sum(len(data) for _, data in file._blocks) <= 8 * 2**20


def test_long_reads_are_their_own_requests(server: ObjectServer) -> None:
    file = RemoteFile("s3://b/a.zip")
    server.clear()
    buffer = bytearray(100_000)
    assert file.read_into(memoryview(buffer), 7) == 100_000
    assert bytes(buffer) == DATA[7:100_007]
    assert file.read_at(9, 50_000) == DATA[9:50_009]
    assert server.sent_bytes < 151_000
