"""Associations with dcmtk and Orthanc, and what goes wrong, in sentences; `dicomdl echo`."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_servers import (
    Certificates,
    dcmqrscp,
    free_port,
    make_certificates,
    orthanc,
    proxy,
    storescp,
    with_tls,
)
from web_server import Answer, as_json, serving

pytest.importorskip("pynetdicom")

from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification

from dicomdl.cli.main import main
from dicomdl.errors import AssociationRejected, NetworkError, PeerFailure
from dicomdl.jobs.network.associations import (
    Context,
    _Checkpoint,
    associated,
    opened,
    portions,
)
from dicomdl.jobs.network.echoing import echo
from dicomdl.jobs.network.peers import TLS, Service, Timeouts, parse_peer

QUICK = Timeouts(connect_s=5.0, answer_s=1.0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with dcmqrscp(tmp_path_factory.mktemp("archive")) as port:
        yield port


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[str]:
    """A receiver of dcmtk with TLS that asks clients for a certificate."""
    with storescp(tmp_path_factory.mktemp("secured"), *with_tls(certificates)) as port:
        yield f"dicom+tls://ANY@127.0.0.1:{port}"


@pytest.mark.slow
def test_orthanc_and_dcmtk_answer(tmp_path: Path, archive: int) -> None:
    answer = echo(parse_peer(f"dicom://QR@127.0.0.1:{archive}"))
    assert answer.implementation.startswith("OFFIS_DCMTK")
    with orthanc(tmp_path / "orthanc") as server:
        assert echo(parse_peer(server.address)).answer_ms > 0
        assert echo(Service(server.web)).answer_ms > 0


def test_short_messages_are_sent_and_acknowledged_at_once() -> None:
    server = AE("ANY")
    server.add_supported_context(Verification)
    running = server.start_server(("127.0.0.1", 0), block=False)
    peer = parse_peer(f"dicom://ANY@127.0.0.1:{running.server_address[1]}")
    try:
        with associated(peer, [Context(Verification)]) as association:
            link = association.dul.socket.socket
            assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            if hasattr(socket, "TCP_QUICKACK"):
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
                assert association.send_c_echo().Status == 0
                assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)
    finally:
        running.shutdown()


def test_the_thread_of_an_association_takes_no_answer_while_another_one_waits() -> None:
    alive = threading.Event()
    checkpoint = _Checkpoint(lambda: not alive.is_set())
    inside = list[bool]()
    is_paused = [False]

    def run() -> None:
        while not alive.is_set():
            checkpoint.wait()
            inside.append(is_paused[0])

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(300):
        checkpoint.clear()
        is_paused[0] = True
        time.sleep(0)
        is_paused[0] = False
        checkpoint.set()
    alive.set()
    checkpoint.set()
    thread.join()
    # The thread that has ended is not waited for.
    checkpoint.clear()
    assert inside and not any(inside)


def test_a_wrong_title_is_named_with_the_numbers_of_the_rejection(archive: int) -> None:
    with pytest.raises(AssociationRejected, match="its AE title is not OTHER") as caught:
        echo(parse_peer(f"dicom://OTHER@127.0.0.1:{archive}"))
    error = caught.value
    assert (error.result, error.source, error.reason, error.is_transient) == (1, 1, 7, False)


def test_a_server_that_knows_only_others_names_the_own_title() -> None:
    server = AE("PICKY")
    server.add_supported_context(Verification)
    server.require_calling_aet = ["SOMEBODY"]
    running = server.start_server(("127.0.0.1", 0), block=False)
    port = running.server_address[1]
    try:
        with pytest.raises(AssociationRejected, match="the AE title of this side, ME"):
            echo(parse_peer(f"dicom://PICKY@127.0.0.1:{port}", own_title="ME"))
    finally:
        running.shutdown()


def test_a_server_that_takes_no_context_rejects_them(archive: int) -> None:
    with (
        pytest.raises(AssociationRejected, match="none of the SOP classes"),
        associated(parse_peer(f"dicom://QR@127.0.0.1:{archive}"), [Context("1.2.3.4")]),
    ):
        pass


def test_nothing_behind_a_port_and_an_unknown_host_are_told_apart() -> None:
    with pytest.raises(NetworkError, match="nothing listens"):
        echo(parse_peer(f"dicom://QR@127.0.0.1:{free_port()}"))
    with pytest.raises(NetworkError, match="the name of the host is unknown"):
        echo(parse_peer("dicom://QR@no-such-host.invalid"))


@pytest.mark.parametrize("fault", ["cut_after", "stall_after"])
@pytest.mark.parametrize("answered", [0, 20, 200])
def test_a_connection_that_ends_or_stalls_is_an_error_and_no_hang(
    archive: int, fault: str, answered: int
) -> None:
    """200 bytes end behind the answer to the association, in the one to the echo."""
    with (
        proxy(archive, **{fault: answered}) as between,
        pytest.raises(NetworkError) as caught,
    ):
        echo(parse_peer(f"dicom://QR@127.0.0.1:{between.port}"), timeouts=QUICK)
    assert caught.value.is_transient


@pytest.mark.slow
def test_a_rejection_counts_when_the_connection_has_ended_before_it_is_read(archive: int) -> None:
    from pynetdicom import evt

    def wait_for_the_end(event: evt.Event) -> None:
        link = event.assoc.dul
        for _ in range(3000):
            if link.peek_next_pdu() and not link.socket._is_connected:
                break
            time.sleep(0.01)

    with pytest.raises(AssociationRejected) as caught:
        opened(
            parse_peer(f"dicom://OTHER@127.0.0.1:{archive}"),
            [Context(Verification)],
            handlers=[(evt.EVT_REQUESTED, wait_for_the_end)],
        )
    assert (caught.value.result, caught.value.reason) == (1, 7)


@pytest.mark.slow
def test_certificates_of_both_sides_open_an_association(
    secured: str, certificates: Certificates
) -> None:
    tls = TLS(str(certificates.ca), str(certificates.client), str(certificates.client_key))
    assert echo(parse_peer(secured, tls=tls)).implementation.startswith("OFFIS_DCMTK")


@pytest.mark.slow
def test_a_server_whose_certificate_is_not_trusted_is_refused(
    secured: str, certificates: Certificates, tmp_path: Path
) -> None:
    others = make_certificates(tmp_path / "others")
    tls = TLS(str(others.ca), str(certificates.client), str(certificates.client_key))
    with pytest.raises(NetworkError, match="its certificate is not trusted") as caught:
        echo(parse_peer(secured, tls=tls), timeouts=QUICK)
    assert not caught.value.is_transient


@pytest.mark.slow
def test_a_certificate_of_another_host_is_refused(
    certificates: Certificates, tmp_path: Path
) -> None:
    elsewhere = make_certificates(tmp_path / "elsewhere", host="10.1.2.3")
    with storescp(tmp_path / "files", *with_tls(elsewhere)) as port:
        tls = TLS(str(elsewhere.ca), str(elsewhere.client), str(elsewhere.client_key))
        with pytest.raises(NetworkError, match="its certificate is not trusted: IP address"):
            echo(parse_peer(f"dicom+tls://ANY@127.0.0.1:{port}", tls=tls), timeouts=QUICK)


@pytest.mark.slow
def test_a_server_that_asks_for_a_certificate_refuses_a_client_without_one(
    secured: str, certificates: Certificates
) -> None:
    with pytest.raises(NetworkError, match="refuses the certificate of this side"):
        echo(parse_peer(secured, tls=TLS(str(certificates.ca))), timeouts=QUICK)


def test_a_plain_server_is_told_from_one_with_tls(archive: int) -> None:
    with pytest.raises(NetworkError):
        echo(parse_peer(f"dicom+tls://QR@127.0.0.1:{archive}"), timeouts=QUICK)


def test_a_status_of_failure_is_an_error_with_the_status() -> None:
    from pynetdicom import evt

    server = AE("SICK")
    server.add_supported_context(Verification)
    handlers = [(evt.EVT_C_ECHO, lambda event: 0x0122)]
    running = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        with pytest.raises(PeerFailure, match="does not support the SOP class") as caught:
            echo(parse_peer(f"dicom://SICK@127.0.0.1:{running.server_address[1]}"))
    finally:
        running.shutdown()
    assert caught.value.status == 0x0122


def test_contexts_are_proposed_in_portions_of_128() -> None:
    contexts = [Context(CTImageStorage), Context(MRImageStorage)] * 100
    parts = list(portions(contexts))
    assert [len(part) for part in parts] == [128, 72]
    assert [each for part in parts for each in part] == contexts


@pytest.mark.slow
def test_the_command_echo_says_what_is_wrong_and_ends_with_1(
    archive: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["echo", f"dicom://QR@127.0.0.1:{archive}"]) == 0
    assert "answers" in capsys.readouterr().out
    assert main(["echo", f"dicom://OTHER@127.0.0.1:{archive}", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["answers"] and "reason 7" in told["error"]
    assert main(["echo", f"QR@127.0.0.1:{archive}"]) == 2


@pytest.mark.slow
def test_a_dicomweb_service_is_asked_for_one_study_under_the_given_certificates(
    certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.server, certificates.server_key)
    with serving(lambda *_: as_json([]), tls) as server:
        assert main(["echo", server.url]) == 1
        assert "not trusted" in capsys.readouterr().err
        assert main(["echo", server.url, "--tls-ca", str(certificates.ca)]) == 0
        assert capsys.readouterr().out.startswith(f"{server.url} answers")
        assert (server.log[-1].path.endswith("/studies"), server.log[-1].query) == (True, "limit=1")
    with serving(lambda *_: Answer(401)) as server:
        assert main(["echo", server.url, "--json"]) == 1
        told = json.loads(capsys.readouterr().out)
        assert not told["answers"] and "DICOMDL_DICOMWEB" in told["error"]
