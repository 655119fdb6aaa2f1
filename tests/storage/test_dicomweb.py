"""Sessions of DICOMweb servers: credentials, TLS, redirections, retries, and bounded answers."""

import base64
import contextlib
import gzip
import pickle
import socket
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from network_servers import make_certificates
from web_server import Answer, Asked, as_json, multipart, serving

from dicomdl.errors import DicomdlWarning, StorageError, UsageError
from dicomdl.storage import dicomweb
from dicomdl.storage._web_login import FILE, PASSWORD, TOKEN, USER, Login, login_of
from dicomdl.storage.dicomweb import Session, Timeouts, WebError, session_of

pytest.importorskip("urllib3")

FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'


@pytest.fixture(autouse=True)
def _no_credentials_and_short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (TOKEN, USER, PASSWORD, FILE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dicomweb, "_LONGEST_PAUSE_S", 0.01)


def test_metadata_are_the_data_sets_of_the_json_also_compressed_and_none_for_204() -> None:
    packed = gzip.compress(b'[{"00080060": {"vr": "CS", "Value": ["CT"]}}]')
    headers = {"Content-Type": dicomweb.JSON, "Content-Encoding": "gzip"}

    def answer(asked: Asked, _: socket.socket) -> Answer:
        return Answer(204) if asked.query else Answer(200, packed, headers)

    with serving(answer) as server:
        session = Session(f"dicomweb+{server.url}/dicom-web/")
        assert session.json("/studies") == [{"00080060": {"vr": "CS", "Value": ["CT"]}}]
        assert session.json("/studies", [("Modality", "MR"), ("StudyDate", "2020-")]) == []
        assert server.log[0].path == "/dicom-web/studies"
        assert server.log[1].query == "Modality=MR&StudyDate=2020-"


@pytest.mark.parametrize("single", [False, True])
def test_parts_come_one_after_the_other_whatever_they_contain(single: bool) -> None:
    frames = [b"", b"\r\n--b-", b"\r\n--b\r\n" * 50_000, b"--b-1", bytes(range(256)) * 3000]
    whole = Answer(200, b"frame", {"Content-Type": "application/octet-stream"})
    with serving(lambda *_: whole if single else multipart(*frames)) as server:
        session = Session(server.url)
        with session.parts("/x", FRAMES, most_bytes=10**7) as parts:
            assert [part.read(10**6) for part in parts] == ([b"frame"] if single else frames)
        with session.parts("/x", FRAMES, most_bytes=10**7) as parts:
            assert [part.media_type for part in parts] == ["application/octet-stream"] * (
                1 if single else len(frames)
            )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(401), "wants credentials"),
        (Answer(403), "refuses access"),
        (Answer(404), "no such study"),
        (Answer(500, b"<html>Doe^Jane"), "fails with status 500"),
        (Answer(200, b"<html>Doe^Jane", {"Content-Type": "text/html"}), "text/html where JSON"),
        (Answer(200, b"[" * 100_000, {"Content-Type": dicomweb.JSON}), "no list of data sets"),
        (Answer(200, b"[1", {"Content-Type": dicomweb.JSON}), "no list of data sets"),
        (Answer(200, b"7", {"Content-Type": dicomweb.JSON}), "no list of data sets"),
        (Answer(200, b"[" + b" " * 300_000, {"Content-Type": dicomweb.JSON}), "more than 200000 b"),
        (Answer(302, b"", {"Location": "http://other.example/studies"}), "another address"),
        (Answer(302, b"", {"Location": "/studies"}), "in a circle"),
    ],
    ids=lambda each: str(each.status) if isinstance(each, Answer) else each,
)
def test_what_is_no_answer_is_an_error_without_content_and_address(
    answer: Answer, words: str
) -> None:
    with serving(lambda *_: answer) as server:
        session = Session(server.url)
        with pytest.raises(WebError, match=words) as caught:
            session.json("/studies", [("PatientName", "Doe^Jane")], most_bytes=200_000)
    text = repr(caught.value)
    assert "Doe" not in text and "127.0.0.1" not in text and "other.example" not in text
    assert caught.value.__cause__ is None
    assert pickle.loads(pickle.dumps(caught.value)).status == caught.value.status


@pytest.mark.slow
def test_a_bomb_of_gzip_ends_at_the_limit() -> None:
    bomb = gzip.compress(b"[" + b" " * 50_000_000)
    headers = {"Content-Type": dicomweb.JSON, "Content-Encoding": "gzip"}
    with (
        serving(lambda *_: Answer(200, bomb, headers)) as server,
        pytest.raises(WebError, match="more than 100000 bytes"),
    ):
        Session(server.url).json("/studies", most_bytes=100_000)


def _failing(times: int, fault: Answer | None) -> Callable[[Asked, socket.socket], Answer | None]:
    left = [times]

    def answer(_: Asked, connection: socket.socket) -> Answer | None:
        left[0] -= 1
        if left[0] < 0:
            return as_json([{}])
        if fault is None:
            connection.close()
        return fault

    return answer


@pytest.mark.parametrize(
    "fault",
    [Answer(503, headers={"Retry-After": "0"}), Answer(429), Answer(200, b"[", claims=50), None],
    ids=["503", "429", "cut", "closed"],
)
def test_what_failed_on_the_way_is_asked_for_again_a_few_times(fault: Answer | None) -> None:
    if fault is not None and fault.status == 200:
        fault = Answer(200, b"[", {"Content-Type": dicomweb.JSON}, 50)
    with serving(_failing(2, fault)) as server:
        assert Session(server.url).json("/studies") == [{}]
        assert len(server.log) == 3
    with serving(_failing(99, fault)) as server:
        with pytest.raises(WebError):
            Session(server.url).json("/studies")
        assert len(server.log) == 4


def test_a_silent_server_and_one_that_trickles_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "_PATIENCE_S", 0.3)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n"

    def answer(asked: Asked, connection: socket.socket) -> None:
        if asked.path == "/silent":
            connection.recv(1)
            return
        connection.sendall(head + b"Content-Length: 1000\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b" ")
                connection.settimeout(0.05)
                try:
                    if not connection.recv(1):
                        return
                except TimeoutError:
                    continue

    with serving(answer) as server:
        session = Session(server.url, timeouts=Timeouts(answer_s=0.2))
        with pytest.raises(WebError, match="was silent"):
            session.json("/silent")
        with pytest.raises(WebError, match="trickles"):
            session.json("/trickle")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"--b\r\n\r\nhalf", "before the last part"),
        (b"x" * 100_000, "does not begin with its boundary"),
        (b"--b\r\n" + b"a: b\r\n" * 10_000, "endless headers"),
    ],
)
def test_a_multipart_body_that_is_none_is_an_error(body: bytes, words: str) -> None:
    kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    with (
        serving(lambda *_: Answer(200, body, kind)) as server,
        pytest.raises(WebError, match=words),
        Session(server.url).parts("/x", FRAMES, most_bytes=10**6) as parts,
    ):
        for part in parts:
            part.read(10**6)


def test_credentials_are_sent_to_their_server_and_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(lambda *_: as_json([])) as server:
        monkeypatch.setenv(TOKEN, "s3cret")
        session = session_of(f"dicomweb+{server.url}/root")
        session.json("/studies")
        assert session is session_of(f"dicomweb+{server.url}/root/")
        monkeypatch.delenv(TOKEN)
        monkeypatch.setenv(USER, "reader")
        monkeypatch.setenv(PASSWORD, "päss")
        session_of(f"{server.url}/root").json("/studies")
        folder = tmp_path / "own"
        folder.mkdir(mode=0o700)
        file = folder / "servers.json"
        file.write_text(f'{{"{server.url}": {{"token": "fromfile"}}}}')
        file.chmod(0o600)
        monkeypatch.setenv(FILE, str(file))
        session_of(f"{server.url}/root").json("/studies")
        assert login_of("https://other.example").authorization.startswith("Basic")
        sent = [asked.headers["authorization"] for asked in server.log]
    basic = base64.b64encode("reader:päss".encode()).decode()
    assert sent == ["Bearer s3cret", f"Basic {basic}", "Bearer fromfile"]
    assert "s3cret" not in repr(session) + repr(vars(session)["_login"])
    for secret in (session, Login.bearer("s3cret")):
        with pytest.raises(TypeError):
            pickle.dumps(secret)


def test_credentials_over_plain_http_to_another_machine_are_warned_of_once_per_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dicomweb._warn_if_readable.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        session_of("http://pacs.example/none")
        monkeypatch.setenv(TOKEN, "s3cret")
        for url in ("http://127.0.0.1:1/x", "http://[::1]:1/x", "http://localhost/x"):
            session_of(url)
        session_of("https://pacs.example/x")
        assert not told
        for url in ("http://pacs.example/a", "dicomweb+http://pacs.example:8042/b"):
            session_of(url)
        session_of("http://10.0.0.1/a")
    assert [each.category for each in told] == [DicomdlWarning] * 2
    text = str(told[0].message)
    assert "pacs.example can be read" in text and "https://pacs.example/" in text
    assert "10.0.0.1" in str(told[1].message)
    assert "s3cret" not in text


def test_a_file_of_credentials_that_others_can_read_or_that_is_malformed_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "servers.json"
    monkeypatch.setenv(FILE, str(file))
    file.write_text('{"https://host": "s3cret"}')
    file.chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        login_of("https://host")
    file.chmod(0o600)
    with pytest.raises(UsageError, match="one object per server") as caught:
        login_of("https://host")
    assert "s3cret" not in str(caught.value)
    monkeypatch.delenv(FILE)
    monkeypatch.setenv(TOKEN, "s3cret\r\nX: y")
    with pytest.raises(UsageError, match="control characters") as caught:
        login_of("https://host")
    assert "s3cret" not in str(caught.value)


@pytest.mark.slow
def test_certificates_are_verified_and_an_issuer_of_ones_own_can_be_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.server, certificates.server_key)
    with serving(lambda *_: as_json([]), tls) as server:
        with pytest.raises(WebError, match="not trusted"):
            Session(server.url).json("/studies")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
        assert Session(server.url).json("/studies") == []


def test_addresses_with_passwords_or_without_host_are_refused() -> None:
    with pytest.raises(UsageError, match="user name or password") as caught:
        Session("dicomweb+https://me:s3cret@host/dicom-web")
    assert "s3cret" not in str(caught.value)
    for url in ("dicomweb+https:///x", "ftp://host", "host/dicom-web"):
        with pytest.raises(UsageError, match="no address of a DICOMweb server"):
            Session(url)
    assert dicomweb.is_web("dicomweb+http://h") and not dicomweb.is_web("https://h")


def test_a_body_is_posted_in_chunks_and_its_answer_returned_also_for_a_conflict() -> None:
    with serving(lambda *_: Answer(409, b"{}", {"Content-Type": dicomweb.JSON})) as server:
        reply = Session(server.url).post("/studies", "multipart/related", iter([b"ab", b"c"]))
        assert (reply.status, reply.data, server.log[0].body) == (409, b"{}", b"abc")
