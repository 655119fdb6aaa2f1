"""Clients of stores against a second server of S3, which checks credentials: moto."""

import os
from collections.abc import Iterator

import pytest

from dicomdl.errors import FileChanged
from dicomdl.storage import _stores, objects
from dicomdl.storage._stores import plain_etag
from dicomdl.storage.handles import Source
from dicomdl.storage.listing import listed
from dicomdl.storage.sources import look_up, opened

pytest.importorskip("obstore")
DATA = os.urandom(50_000)


@pytest.mark.parametrize(
    ("given", "plain"),
    [('"abc"', "abc"), ("abc", "abc"), ('W/"abc"', "W/abc"), ("0x8D", "0x8D"), ("", "")],
)
def test_an_etag_is_the_same_with_and_without_quotes(given: str, plain: str) -> None:
    assert plain_etag(given) == plain


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of moto with 1,200 keys; the endpoint and the credentials are in the environment."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    boto3 = pytest.importorskip("boto3")
    server.start()
    _, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="moto")
    for number in range(1200):
        body = DATA if number == 0 else b"x"
        client.put_object(Bucket="moto", Key=f"p/{number:04} é+%20.dcm", Body=body)
    _stores.forget_clients()
    objects.declare(["s3://moto"], {})
    yield "s3://moto"
    _stores.forget_clients()
    server.stop()


@pytest.mark.slow
def test_moto_lists_and_gives_what_was_put(bucket: str) -> None:
    found = listed(f"{bucket}/p")
    assert found.paths == [f"{bucket}/p/{number:04} é+%20.dcm".encode() for number in range(1200)]
    path = os.fsdecode(found.paths[0])
    source = look_up(Source(path))
    # The listing and the object say the same state, so that a second scan reads nothing.
    assert (source.size, source.mtime_ns, source.etag) == (
        found.states[0][0],
        found.states[0][1],
        found.states[0][4],
    )
    with opened(source) as handle:
        assert handle.read_at(1234, 5678) == DATA[1234:6912]
    with opened(source._replace(etag="0" * 32)) as handle, pytest.raises(FileChanged):
        handle.read_at(0, 10)
