"""C-GET, C-MOVE and storage commitment over TLS, with right certificates and wrong ones."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.request import Request, urlopen

import pydicom
import pytest
from network_servers import (
    Certificates,
    Orthanc,
    free_port,
    make_certificates,
    orthanc,
)
from phantoms import write_series

pytest.importorskip("pynetdicom")

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, StorageCommitmentPushModel

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import NetworkError, StorageError, UsageError
from dicomdl.jobs.network import dimse_archive, fetching
from dicomdl.jobs.network.commitment import Commitment
from dicomdl.jobs.network.fetch import Access
from dicomdl.jobs.network.listening import Listener
from dicomdl.jobs.network.peers import TLS, Timeouts, parse_peer
from dicomdl.jobs.network.receiving import Receiver
from dicomdl.jobs.network.sending import send

pytestmark = pytest.mark.slow
STUDY = "1.2.826.9"
COUNT = 6
QUICK = Timeouts(5.0, 5.0)
Method = Literal["get", "move"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority that the servers do not trust."""
    return make_certificates(tmp_path_factory.mktemp("others"))


@pytest.fixture(scope="module")
def own(made: Certificates) -> TLS:
    return TLS(str(made.ca), str(made.client), str(made.client_key))


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sent")
    write_series(folder, shape=(COUNT, 16, 17), study_uid=STUDY, series_uid="1.2.826.1")
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    """The port of this side, which Orthanc knows."""
    return free_port()


@pytest.fixture(scope="module")
def archive(
    sent: Path, made: Certificates, port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Orthanc]:
    """Orthanc with TLS, as a server and towards this side."""
    folder = tmp_path_factory.mktemp("orthanc")
    with orthanc(folder, move_to={"DICOMDL": port}, tls=made) as server:
        for path in sorted(sent.iterdir()):
            url = f"http://127.0.0.1:{server.http_port}/instances"
            urlopen(Request(url, path.read_bytes())).close()
        yield server


def secured(port: int, title: str = "ORTHANC") -> str:
    return f"dicom+tls://{title}@127.0.0.1:{port}"


def pixels_of(folder: Path) -> dict[str, bytes]:
    """Return {SOP Instance UID: pixel data} of all files below a folder."""
    files = [each for each in folder.rglob("*") if each.is_file() and ".fetch" not in each.parts]
    read = [pydicom.dcmread(path) for path in files]
    return {str(each.SOPInstanceUID): each.PixelData for each in read}


def fetch(address: str, folder: Path, access: Access) -> fetching.Fetched:
    return dicomdl.fetch(address, folder, study=STUDY, access=access, tries=1, progress=False)


@pytest.mark.parametrize("method", ["get", "move"])
def test_orthanc_delivers_over_tls(
    archive: Orthanc, sent: Path, own: TLS, port: int, method: Method, tmp_path: Path
) -> None:
    fetched = fetch(secured(archive.port), tmp_path, Access(own, method=method, port=port))
    assert fetched.ok and fetched.fetched == COUNT, fetched
    assert pixels_of(tmp_path) == pixels_of(sent)


@pytest.mark.parametrize("method", ["get", "move"])
def test_an_archive_whose_certificate_is_not_trusted_is_not_asked(
    archive: Orthanc, made: Certificates, others: Certificates, method: Method, tmp_path: Path
) -> None:
    tls = TLS(str(others.ca), str(made.client), str(made.client_key))
    access = Access(tls, timeouts=QUICK, method=method, port=free_port())
    with pytest.raises(NetworkError, match="its certificate is not trusted"):
        fetch(secured(archive.port), tmp_path, access)
    assert not list(tmp_path.rglob("*.dcm"))


@pytest.mark.parametrize("method", ["get", "move"])
def test_an_archive_that_refuses_the_certificate_of_this_side_delivers_nothing(
    archive: Orthanc, made: Certificates, others: Certificates, method: Method, tmp_path: Path
) -> None:
    tls = TLS(str(made.ca), str(others.client), str(others.client_key))
    access = Access(tls, timeouts=QUICK, method=method, port=free_port())
    with pytest.raises(NetworkError, match="refuses the certificate of this side"):
        fetch(secured(archive.port), tmp_path, access)
    assert not list(tmp_path.rglob("*.dcm"))


def test_a_move_over_tls_without_a_certificate_of_this_side_is_refused_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nothing listens there.
    words = ["fetch", secured(free_port()), str(tmp_path / "got"), "--study", STUDY, "-q"]
    assert main([*words, "--method", "move"]) == 2
    told = capsys.readouterr().err
    assert "--tls-cert" in told and "--tls-key" in told
    assert not (tmp_path / "got").exists()
    with pytest.raises(UsageError, match="needs a certificate and its key"):
        fetch(words[1], tmp_path / "got", Access(method="move"))


def test_an_archive_that_moves_without_tls_is_turned_away_with_a_sentence(
    sent: Path, made: Certificates, own: TLS, tmp_path: Path
) -> None:
    back = free_port()
    known = {"DICOMDL": ["DICOMDL", "127.0.0.1", back]}
    with orthanc(tmp_path / "orthanc", tls=made, DicomModalities=known) as server:
        send(parse_peer(secured(server.port), tls=own), sent, progress=False)
        access = Access(own, timeouts=QUICK, method="move", port=back)
        fetched = fetch(secured(server.port), tmp_path / "got", access)
    assert fetched.fetched == 0 and fetched.failed == COUNT
    assert all("C-MOVE" in why for why in fetched.reasons), fetched.reasons
    assert any("TLS" in why for why in fetched.reasons), fetched.reasons
    assert not list((tmp_path / "got").rglob("*.dcm"))


def test_a_client_that_says_nothing_does_not_stop_a_move(
    archive: Orthanc, own: TLS, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = socket.socket()
    asked = dimse_archive.associated

    def associated(*given: object, **options: object) -> object:
        # The receiver listens by now.
        silent.connect(("127.0.0.1", port))
        return asked(*given, **options)

    monkeypatch.setattr(dimse_archive, "associated", associated)
    with silent:
        access = Access(own, timeouts=QUICK, method="move", port=port)
        fetched = fetch(secured(archive.port), tmp_path, access)
    assert fetched.ok and fetched.fetched == COUNT, fetched


def test_a_port_of_a_move_that_is_in_use_is_named_and_nothing_is_written(
    archive: Orthanc, own: TLS, port: int, tmp_path: Path
) -> None:
    access = Access(own, timeouts=QUICK, method="move", port=port)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(StorageError, match=f"port {port} cannot be listened on"),
    ):
        fetch(secured(archive.port), tmp_path, access)
    assert not list(tmp_path.rglob("*.dcm"))


def test_orthanc_commits_over_tls(archive: Orthanc, sent: Path, own: TLS, port: int) -> None:
    peer = parse_peer(secured(archive.port), tls=own)
    done = send(peer, sent, commit=Commitment(port, 30.0, "127.0.0.1"), progress=False)
    assert done.ok and len(done.committed) == COUNT, done


def test_an_answer_over_tls_comes_on_the_same_association_to_a_side_without_a_certificate(
    sent: Path, made: Certificates
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server, made.server_key)
    with _committing(context, _commit_soon) as port:
        peer = parse_peer(secured(port, "SCP"), tls=TLS(str(made.ca)))
        done = send(peer, sent, commit=Commitment(free_port(), 20.0), progress=False)
    assert done.ok and len(done.committed) == COUNT, done


@contextmanager
def _committing(tls: ssl.SSLContext, act: Callable[[Any], tuple[int, None]]) -> Iterator[int]:
    """A server of pynetdicom with TLS that answers to a request for commitment as told."""
    entity = AE("SCP")
    for each in (MRImageStorage, CTImageStorage, StorageCommitmentPushModel):
        entity.add_supported_context(each)
    handlers = [(evt.EVT_C_STORE, lambda event: 0), (evt.EVT_N_ACTION, act)]
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, ssl_context=tls, evt_handlers=handlers
    )
    try:
        yield server.server_address[1]
    finally:
        entity.shutdown()


def _commit_soon(event: Any) -> tuple[int, None]:
    told = Dataset()
    told.TransactionUID = event.action_information.TransactionUID
    told.ReferencedSOPSequence = event.action_information.ReferencedSOPSequence
    model, instance = StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
    threading.Timer(0.2, event.assoc.send_n_event_report, (told, 1, model, instance)).start()
    return 0, None


def test_files_whose_commitment_cannot_be_answered_over_tls_are_not_committed(
    archive: Orthanc, sent: Path, own: TLS, others: Certificates, port: int, tmp_path: Path
) -> None:
    peer = parse_peer(secured(archive.port), tls=own)
    # Whoever listens at the port of this side has a certificate that Orthanc does not trust.
    wrong = TLS(str(others.ca), str(others.server), str(others.server_key))
    with Receiver(str(tmp_path), Listener(port=port, host="127.0.0.1", tls=wrong)).open():
        done = send(peer, sent, commit=Commitment(0, 2.0), progress=False)
    assert done.stored == COUNT and not done.committed and not done.ok
    assert all("has not answered in time" in why for why in done.not_committed.values())


def test_a_side_without_a_certificate_is_told_why_no_answer_can_come_over_tls(
    made: Certificates, sent: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server, made.server_key)
    with _committing(context, lambda event: (0, None)) as port:
        peer = parse_peer(secured(port, "SCP"), tls=TLS(str(made.ca)))
        done = send(peer, sent, commit=Commitment(free_port(), 0.5), progress=False)
    assert done.stored == COUNT and not done.committed and not done.ok
    assert all("needs a certificate and its key" in why for why in done.not_committed.values())


def test_an_answer_without_tls_is_turned_away_with_a_sentence(
    sent: Path, made: Certificates, own: TLS, tmp_path: Path
) -> None:
    back = free_port()
    known = {"DICOMDL": ["DICOMDL", "127.0.0.1", back]}
    with orthanc(tmp_path / "orthanc", tls=made, DicomModalities=known) as server:
        peer = parse_peer(secured(server.port), tls=own)
        done = send(peer, sent, commit=Commitment(back, 4.0, "127.0.0.1"), progress=False)
    assert done.stored == COUNT and not done.committed and not done.ok
    assert all("failed at TLS" in why for why in done.not_committed.values()), done.not_committed
