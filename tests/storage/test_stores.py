"""Clients of stores: a second server of S3, which checks credentials (moto), and TLS."""

import datetime
import ipaddress
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_server import ObjectServer, serving

import dicomdl
from dicomdl.errors import FileChanged, PixelError
from dicomdl.storage import _stores, objects
from dicomdl.storage._stores import plain_etag
from dicomdl.storage.handles import Source
from dicomdl.storage.listing import listed
from dicomdl.storage.sources import look_up, opened, read_range

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


# --- GCS and Azure --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_stores_of_all_kinds_list_and_give_objects(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(_stores, "MAX_RETRIES", 1)
    _stores.forget_clients()
    keys = [f"b/p/{number:04} é&+.dcm" for number in range(1100)]
    with serving(ObjectServer(dict.fromkeys(keys, b"x") | {"b/p/q/a.dcm": DATA})) as server:
        # All options that any of them has: a scan may have roots in several stores.
        options = {
            "endpoint": server.url,
            "skip_signature": True,
            "region": "us-east-1",
            "account_name": "me",
        }
        objects.declare([f"{scheme}://b"], options)
        found = listed(f"{scheme}://b/p")
        assert sorted(found.paths)[:-1] == [f"{scheme}://{key}".encode() for key in keys]
        source = look_up(Source(f"{scheme}://b/p/q/a.dcm"))
        (state,) = (state for state in found.states if state[0] == len(DATA))
        assert (source.size, source.mtime_ns, source.etag) == (state[0], state[1], state[4])
        server.clear()
        with opened(source) as handle:
            assert read_range(handle, 1234, 5678) == DATA[1234:6912]
        (request,) = server.log
        assert request.headers["if-match"] == f'"{source.etag}"'
        server.version = "-2"
        with opened(source) as handle, pytest.raises(FileChanged):
            handle.read_at(0, 10)
    _stores.forget_clients()


# --- TLS ------------------------------------------------------------------------------------------


def written(folder: Path, names: list[Any], days: int) -> tuple[Path, Path]:
    """Write the certificate of an authority, and one with its key that it has issued."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)

    def made(subject: str, key: Any, issuer: str, signing: Any, *more: Any) -> Any:
        builder = x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]),
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]),
            key.public_key(),
            x509.random_serial_number(),
            now - datetime.timedelta(days=10),
            now + datetime.timedelta(days=days),
        )
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(signing, hashes.SHA256())

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = made(
        "CA", authority_key, "CA", authority_key, x509.BasicConstraints(ca=True, path_length=None)
    )
    issued = made(
        "server",
        key,
        "CA",
        authority_key,
        x509.BasicConstraints(ca=False, path_length=None),
        x509.SubjectAlternativeName(names),
    )
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(private + issued.public_bytes(pem))
    return folder / "authority.pem", folder / "server.pem"


@pytest.mark.quick(3)
@pytest.mark.parametrize("fault", ["", "issuer", "name", "expired"])
@pytest.mark.parametrize("scheme", ["https", "s3"])
def test_the_certificate_of_a_server_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, scheme: str
) -> None:
    x509 = pytest.importorskip("cryptography.x509")
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    names = [x509.DNSName("elsewhere.example")] if fault == "name" else [here]
    authority, certificate = written(tmp_path, names, -1 if fault == "expired" else 2)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    monkeypatch.setattr(_stores, "MAX_RETRIES", 1)
    if fault != "issuer":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    _stores.forget_clients()
    with serving(ObjectServer({"b/a.dcm": DATA}, tls=tls)) as server:
        options = {"endpoint": server.url, "skip_signature": True, "region": "us-east-1"}
        objects.declare(["s3://b"], options)
        url = "s3://b/a.dcm" if scheme == "s3" else f"{server.url}/b/a.dcm"
        if not fault:
            source = look_up(Source(url))
            with opened(source) as handle:
                assert read_range(handle, 700, 5000) == DATA[700:5700]
        else:
            with pytest.raises(PixelError, match="certificate of the server is not trusted"):
                look_up(Source(url))
            assert server.log == []
    _stores.forget_clients()


def test_a_scan_over_https_names_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x509 = pytest.importorskip("cryptography.x509")
    _, certificate = written(tmp_path, [x509.DNSName("elsewhere.example")], 2)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    monkeypatch.setattr(_stores, "MAX_RETRIES", 1)
    _stores.forget_clients()
    with serving(ObjectServer({"a.dcm": DATA}, tls=tls)) as server:
        index = dicomdl.scan(f"{server.url}/a.dcm", tmp_path / "index", progress=False)
        (problem,) = index.problems
        assert "certificate of the server is not trusted" in problem.detail
    _stores.forget_clients()
