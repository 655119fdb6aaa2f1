"""Files reach Orthanc and dcmtk as they are stored; what is refused, lost and committed is told."""

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from network_servers import (
    Orthanc,
    dcmqrscp,
    free_port,
    make_certificates,
    orthanc,
    proxy,
    storescp,
    with_tls,
)
from phantoms import write_series
from phantoms_labels import write_seg
from phantoms_multi import divide
from pydicom.data import get_testdata_file

pytest.importorskip("pynetdicom")

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    SegmentationStorage,
    StorageCommitmentPushModel,
    Verification,
)

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import NetworkError, UsageError
from dicomdl.jobs.network.commitment import Commitment
from dicomdl.jobs.network.peers import TLS, Peer, Timeouts, parse_peer
from dicomdl.jobs.network.sending import send

NAMES = ("CT_small.dcm", "ExplVR_BigEnd.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm")
FILES = [str(get_testdata_file(name)) for name in NAMES]
CT = FILES[0]
QUICK = Timeouts(5.0, 3.0)


@pytest.fixture(scope="module")
def answers_at() -> int:
    """The port at which Orthanc answers to requests for commitment."""
    return free_port()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, answers_at: int) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc"), move_to={"DICOMDL": answers_at}) as server:
        yield server


@contextmanager
def scp(handlers: list[Any], *, title: str = "SCP", maximum: int = 10) -> Iterator[tuple[Peer, AE]]:
    """A server of pynetdicom that stores CT and SEG and commits, as handlers say."""
    entity = AE(title)
    entity.add_supported_context(CTImageStorage)
    entity.add_supported_context(SegmentationStorage)
    entity.add_supported_context(Verification)
    entity.add_supported_context(StorageCommitmentPushModel)
    running = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield Peer("127.0.0.1", running.server_address[1], title), entity
    finally:
        entity.shutdown()


def stored_in(server: Orthanc) -> dict[str, bytes]:
    """{SOP Instance UID: the bytes of the file} in an Orthanc."""
    root = f"http://127.0.0.1:{server.http_port}/instances"
    with urlopen(root) as reply:
        names = json.load(reply)
    found = {}
    for name in names:
        with urlopen(f"{root}/{name}/file") as reply:
            data = reply.read()
        with urlopen(f"{root}/{name}/simplified-tags") as reply:
            found[json.load(reply)["SOPInstanceUID"]] = data
    return found


def body_of(data: bytes) -> bytes:
    """The bytes of a data set behind the file meta information."""
    length = int.from_bytes(data[140:144], "little")
    return data[144 + length :]


@pytest.mark.slow
def test_orthanc_gets_every_transfer_syntax_and_commits_to_the_files(
    archive: Orthanc, answers_at: int, tmp_path: Path
) -> None:
    peer, ledger = parse_peer(archive.address), tmp_path / "sent.jsonl"
    how = Commitment(answers_at, 30.0, "127.0.0.1")
    deflated = tmp_path / "deflated.dcm"
    # The data set of pydicom's file lacks the padding of PS3.5 A.5.
    deflated.write_bytes(Path(get_testdata_file("image_dfl.dcm")).read_bytes() + b"\0")
    files = [*FILES, str(deflated)]
    sent = send(peer, files, commit=how, ledger=ledger, progress=False)
    assert sent.ok and sent.stored == len(files), sent
    assert sorted(sent.committed) == sorted(files)
    there = stored_in(archive)
    for path in files:
        sent_one = dcmread(path)
        # Orthanc writes the lengths of sequences anew.
        got = dcmread(io.BytesIO(there[sent_one.SOPInstanceUID]))
        assert got == sent_one
        assert got.file_meta.TransferSyntaxUID == sent_one.file_meta.TransferSyntaxUID
    again = send(peer, files, commit=how, ledger=ledger, progress=False)
    assert (again.stored, again.present) == (0, len(files)) and again.ok


@pytest.mark.slow
def test_a_dicomweb_service_gets_files_and_names_what_it_refuses(
    archive: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "series")
    sent = send(archive.web, tmp_path / "series", progress=False)
    assert sent.ok and sent.stored == 6
    uids = {dcmread(path).SOPInstanceUID for path in (tmp_path / "series").iterdir()}
    assert uids <= stored_in(archive).keys()
    refused = str(get_testdata_file("JPEGLSNearLossless_08.dcm"))
    assert main(["send", archive.web, refused, CT, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["stored"] == 1 and list(told["failed"]) == [refused]
    with pytest.raises(NetworkError, match="took no files"):
        send(archive.web + "-absent", CT, progress=False)


def test_dcmtk_gets_what_it_takes_and_the_rest_is_told_in_a_sentence(tmp_path: Path) -> None:
    with dcmqrscp(tmp_path, "+B") as port:
        sent = send(Peer("127.0.0.1", port, "QR"), FILES, progress=False)
    assert sent.failed.keys() == set(FILES[2:4])
    assert "takes no MR Image Storage in RLE Lossless" in sent.failed[FILES[3]]
    arrived = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    bodies = {body_of(path.read_bytes()) for path in arrived if path.name != "index.dat"}
    assert {body_of(Path(path).read_bytes()) for path in FILES[:2]} <= bodies


@pytest.mark.slow
def test_an_index_is_sent_with_its_selection_and_annotations(tmp_path: Path) -> None:
    image = write_series(tmp_path / "a", series_uid="1.2.3.1")[0]
    write_series(tmp_path / "b", series_uid="1.2.3.2")
    mask = np.ones((5, 7), np.uint8)
    seg = write_seg(tmp_path / "seg.dcm", image, [(1, (0, 0, 2 * z), mask) for z in range(2)])
    divide(seg, (1, 1))
    index = dicomdl.scan(tmp_path, tmp_path / "index", progress=False)
    with scp([(evt.EVT_C_STORE, lambda event: 0)]) as (peer, _):
        one = send(peer, index.select(series_instance_uid="1.2.3.1"), progress=False)
        both = send(peer, tmp_path / "index", progress=False)
    assert (one.stored, both.stored) == (6 + 2, 12 + 2)


@pytest.mark.slow
def test_files_are_sent_with_tls_to_a_server_that_wants_a_certificate(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "certificates")
    tls = TLS(str(made.ca), str(made.client), str(made.client_key))
    with storescp(tmp_path / "files", *with_tls(made)) as port:
        sent = send(Peer("127.0.0.1", port, "ANY", tls=tls), FILES[:3], progress=False)
    assert sent.ok and len(list((tmp_path / "files").glob("*.*.*"))) == 3


def test_a_folder_is_sent_without_its_other_files_and_a_named_one_is_told(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    with scp([(evt.EVT_C_STORE, lambda event: 0)]) as (peer, _):
        assert send(peer, tmp_path / "in", progress=False).ok
        named = send(peer, tmp_path / "in" / "notes.txt", progress=False)
    assert list(named.failed.values()) == ["it is no DICOM file"]
    with pytest.raises(UsageError, match="does not exist"):
        send(peer, tmp_path / "absent", progress=False)


def test_a_file_of_odd_length_is_not_sent() -> None:
    path = str(get_testdata_file("image_dfl.dcm"))
    with scp([(evt.EVT_C_STORE, lambda event: 0)]) as (peer, _):
        sent = send(peer, path, progress=False)
    assert "an odd number of bytes" in sent.failed[path]


def test_the_uids_of_the_data_set_are_sent_and_its_bytes_stay(tmp_path: Path) -> None:
    """Programs that replace UIDs leave the old ones in the file meta information."""
    data = dcmread(CT)
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    data.save_as(tmp_path / "renamed.dcm")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.write(CT, "a.dcm")
    came = list[tuple[str, bytes]]()

    def store(event: Any) -> int:
        came.append((event.request.AffectedSOPInstanceUID, event.encoded_dataset(False)))
        return 0

    with scp([(evt.EVT_C_STORE, store)]) as (peer, _):
        sent = send(
            peer, [tmp_path / "renamed.dcm", f"{tmp_path}/packed.zip//a.dcm"], progress=False
        )
    assert sent.ok, sent
    want = [body_of((tmp_path / "renamed.dcm").read_bytes()), body_of(Path(CT).read_bytes())]
    assert came == [(data.SOPInstanceUID, body) for body in want]


def test_a_status_of_failure_or_warning_is_told_per_file(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    statuses = iter([0xA700, 0xB000, 0, 0xC123, 0, 0])
    with scp([(evt.EVT_C_STORE, lambda event: next(statuses))]) as (peer, _):
        sent = send(peer, tmp_path / "in", progress=False)
    assert sent.stored == 4 and len(sent.failed) == 2 and not sent.ok
    assert any("full disk" in why for why in sent.failed.values())
    assert any("changed elements" in words for words in sent.warned)


def test_a_lost_association_is_opened_again_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomdl.jobs.network.sending._PAUSE_S", 0.01)
    write_series(tmp_path / "in")
    came = list[str]()

    def store(event: Any) -> int:
        came.append(event.request.AffectedSOPInstanceUID)
        if len(came) in (2, 5):
            event.assoc.abort()
        return 0

    with scp([(evt.EVT_C_STORE, store)]) as (peer, _):
        sent = send(peer, tmp_path / "in", progress=False, timeouts=QUICK)
    assert sent.ok and sent.stored == 6
    assert len(came) == 8 and len(set(came)) == 6


def test_a_file_that_ends_every_association_is_left_out_and_the_rest_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomdl.jobs.network.sending._PAUSE_S", 0.01)
    write_series(tmp_path / "in")
    poison = dcmread(sorted((tmp_path / "in").iterdir())[2]).SOPInstanceUID

    def store(event: Any) -> int:
        if event.request.AffectedSOPInstanceUID == poison:
            event.assoc.abort()
        return 0

    with scp([(evt.EVT_C_STORE, store)]) as (peer, _):
        sent = send(peer, tmp_path / "in", progress=False, timeouts=QUICK)
    assert sent.stored == 5 and len(sent.failed) == 1


@pytest.mark.slow
def test_a_server_that_stalls_is_given_up_and_a_later_call_sends_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomdl.jobs.network.sending._PAUSE_S", 0.01)
    write_series(tmp_path / "in")
    quick, ledger = Timeouts(5.0, 0.5), tmp_path / "sent.jsonl"
    with (
        scp([(evt.EVT_C_STORE, lambda event: 0)]) as (peer, _),
        proxy(peer.port, stall_after=700) as between,
    ):
        stalled = Peer("127.0.0.1", between.port, "SCP")
        sent = send(stalled, tmp_path / "in", progress=False, timeouts=quick, ledger=ledger)
        between.stall_after = None
        rest = send(stalled, tmp_path / "in", progress=False, timeouts=QUICK, ledger=ledger)
    assert sent.stored + len(sent.failed) == 6
    assert rest.ok and (rest.stored, rest.present) == (6 - sent.stored, sent.stored)


def test_a_server_that_is_not_there_is_an_error_and_no_list_of_failures(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="nothing listens"):
        send(Peer("127.0.0.1", free_port(), "SCP"), CT, progress=False)
    assert main(["send", f"dicom://SCP@127.0.0.1:{free_port()}", CT, "-q"]) == 2


def test_nothing_to_send_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no DICOM")
    with pytest.raises(UsageError, match="nothing to send"):
        send(Peer("127.0.0.1", free_port(), "SCP"), tmp_path, progress=False)


def report(association: Any, transaction: str, done: list[Any], failed: list[Any]) -> None:
    """Answer to a request for commitment."""
    told = Dataset()
    told.TransactionUID = transaction
    told.ReferencedSOPSequence = done
    if failed:
        for each in failed:
            each.FailureReason = 0x0112
        told.FailedSOPSequence = failed
    association.send_n_event_report(
        told, 2 if failed else 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
    )


@pytest.mark.slow
def test_an_answer_on_the_same_association_names_what_is_not_committed(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    threads = list[threading.Thread]()

    def act(event: Any) -> tuple[int, None]:
        asked = event.action_information
        items = list(asked.ReferencedSOPSequence)
        given = (event.assoc, asked.TransactionUID, items[:4], items[4:5])
        threads.append(threading.Timer(0.2, report, given))
        threads[-1].start()
        return 0, None

    with scp([(evt.EVT_C_STORE, lambda event: 0), (evt.EVT_N_ACTION, act)]) as (peer, _):
        how = Commitment(port=0, wait_s=20.0)
        sent = send(peer, tmp_path / "in", commit=how, progress=False)
        for thread in threads:
            thread.join()
    assert len(sent.committed) == 4 and not sent.ok
    reasons = sorted(sent.not_committed.values())
    assert len(reasons) == 2 and "no such SOP instance" in reasons[0]
    assert "leaves it out" in reasons[1]


@pytest.mark.slow
def test_an_answer_that_never_comes_or_is_of_another_request_commits_to_nothing() -> None:
    def act(event: Any) -> tuple[int, None]:
        items = list(event.action_information.ReferencedSOPSequence)
        threading.Timer(0.1, report, (event.assoc, "1.2.3.4", items, [])).start()
        return 0, None

    with scp([(evt.EVT_C_STORE, lambda event: 0), (evt.EVT_N_ACTION, act)]) as (peer, _):
        sent = send(peer, CT, commit=Commitment(port=0, wait_s=1.0), progress=False)
    assert sent.stored == 1 and not sent.committed and not sent.ok
    assert "has not answered in time" in sent.not_committed[CT]


def test_a_server_without_commitment_is_told_and_the_files_stay_stored(tmp_path: Path) -> None:
    with dcmqrscp(tmp_path) as port:
        peer = Peer("127.0.0.1", port, "QR")
        sent = send(peer, CT, commit=Commitment(port=0), progress=False)
    assert sent.stored == 1 and "none of the SOP classes" in sent.not_committed[CT]
    with pytest.raises(UsageError, match="no storage commitment"):
        send("https://host/dicom-web", CT, commit=True)
