"""Files that dcmtk sends come into a folder and an index, with the bytes that were sent."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from network_servers import free_port, make_certificates, program, wait_for
from phantoms import write_series
from pydicom.data import get_testdata_file

pytest.importorskip("pynetdicom")

from pydicom import dcmread
from pynetdicom.sop_class import CTImageStorage

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import AssociationRejected, NetworkError, StorageError, UsageError
from dicomdl.jobs.network.associations import Context, associated
from dicomdl.jobs.network.echoing import echo
from dicomdl.jobs.network.listening import Listener
from dicomdl.jobs.network.peers import TLS, Peer, Timeouts
from dicomdl.jobs.network.placing import Placing
from dicomdl.jobs.network.receiving import Receiver, receive
from dicomdl.storage import publishing

CT = get_testdata_file("CT_small.dcm")
# Files, and how dcmtk's storescu proposes their transfer syntax in a context of its own.
KINDS = {
    "CT_small.dcm": "-xe",
    "JPEGLSNearLossless_08.dcm": "-xu",
    "JPEG2000.dcm": "-xw",
    "MR_small_RLE.dcm": "-xr",
    "rtplan.dcm": "-xi",
}
AS_STORED = [*list(KINDS)[:-1], "ExplVR_BigEnd.dcm", "image_dfl.dcm"]


@contextmanager
def receiving(folder: Path, **options: Any) -> Iterator[Receiver]:
    """A receiver on a free port of loopback."""
    limits = {name: options.pop(name) for name in ("most_bytes", "tell") if name in options}
    listener = Listener(**{"port": 0, "host": "127.0.0.1", **options})
    with Receiver(str(folder), listener, **limits).open() as receiver:
        yield receiver


def peer_of(receiver: Receiver, **facts: Any) -> Peer:
    return Peer("127.0.0.1", receiver.port, "DICOMDL", **facts)


def body_of(path: Path | str) -> bytes:
    """The bytes of a data set behind the file meta information."""
    whole = Path(path).read_bytes()
    meta = dcmread(path, stop_before_pixels=True).file_meta
    return whole[144 + meta.FileMetaInformationGroupLength :]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.dcm") if ".part." not in str(path))


def store(receiver: Receiver, change: Callable[[Any], None], **facts: Any) -> int:
    """The status of the answer to a C-STORE of a changed file."""
    data = dcmread(CT)
    change(data)
    context = Context(CTImageStorage, (data.file_meta.TransferSyntaxUID,))
    with associated(peer_of(receiver, **facts), [context]) as association:
        answer = association.send_c_store(data)
    return int(answer.Status) if "Status" in answer else -1


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_dcmtk_sends_every_kind_of_file_and_its_bytes_arrive(name: str, tmp_path: Path) -> None:
    source = get_testdata_file(name)
    with receiving(tmp_path / "in") as receiver:
        command = [program("storescu"), KINDS[name], "127.0.0.1", str(receiver.port), str(source)]
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert ran.returncode == 0, ran.stderr
    (arrived,) = files_of(tmp_path / "in")
    sent, got = dcmread(source), dcmread(arrived)
    assert got.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert (got.SOPInstanceUID, got.file_meta.MediaStorageSOPClassUID) == (
        sent.SOPInstanceUID,
        sent.SOPClassUID,
    )
    if "PixelData" in sent:
        assert got.PixelData == sent.PixelData
    assert oct(arrived.stat().st_mode)[-3:] == "600"


@pytest.mark.slow
def test_the_bytes_of_a_data_set_are_written_as_they_came(tmp_path: Path) -> None:
    from pynetdicom import _config

    with receiving(tmp_path / "in") as receiver, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
        for name in AS_STORED:
            path = get_testdata_file(name)
            facts = dcmread(path, stop_before_pixels=True)
            context = Context(facts.SOPClassUID, (facts.file_meta.TransferSyntaxUID,))
            with associated(peer_of(receiver), [context]) as association:
                assert association.send_c_store(path).Status == 0
    arrived = {dcmread(each).SOPInstanceUID: body_of(each) for each in files_of(tmp_path / "in")}
    for name in AS_STORED:
        path = get_testdata_file(name)
        assert arrived[dcmread(path).SOPInstanceUID] == body_of(path), name


@pytest.mark.slow
def test_an_object_of_a_retired_class_is_taken(tmp_path: Path) -> None:
    retired = "1.2.840.10008.5.1.4.1.1.6"
    data = dcmread(CT)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = retired
    with receiving(tmp_path / "in") as receiver:
        context = Context(retired, (data.file_meta.TransferSyntaxUID,))
        with associated(peer_of(receiver), [context]) as association:
            assert association.send_c_store(data).Status == 0
    assert len(files_of(tmp_path / "in")) == 1


def test_an_index_follows_the_associations_and_equals_that_of_the_source(tmp_path: Path) -> None:
    write_series(tmp_path / "source")
    stop, port, told = threading.Event(), free_port(), list[str]()
    taken = list[Any]()

    def run() -> None:
        listener = Listener(port=port, host="127.0.0.1")
        taken.append(
            receive(
                tmp_path / "in",
                index=tmp_path / "index",
                listener=listener,
                stop=stop,
                tell=told.append,
            )
        )

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(port)
    command = [program("storescu"), "+sd", "127.0.0.1", str(port), str(tmp_path / "source")]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    stop.set()
    thread.join()
    assert taken[0].to_dict() == {
        **{"new": 6, "present": 0, "differs": 0, "refused": {}, "associations": 1},
    }
    there = dicomdl.open_index(tmp_path / "index")
    here = dicomdl.scan(tmp_path / "source", tmp_path / "source.index", progress=False)
    assert [s.verdict for s in there.stacks] == [s.verdict for s in here.stacks]
    assert len(there) == len(here) == 6
    assert any("sent 6 instances" in line for line in told)


@pytest.mark.slow
def test_duplicates_are_kept_once_and_other_bytes_beside_them(tmp_path: Path) -> None:
    with receiving(tmp_path / "in") as receiver:
        assert store(receiver, lambda data: None) == 0
        assert store(receiver, lambda data: None) == 0
        assert store(receiver, lambda data: setattr(data, "InstanceNumber", 77)) == 0
        counts = receiver.counts
    assert (counts.new, counts.present, counts.differs) == (1, 1, 1)
    assert len(files_of(tmp_path / "in")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("uid", ["../../x", "", "9" * 200, "..", "a/b"])
def test_hostile_uids_stay_in_the_folder(uid: str, tmp_path: Path) -> None:
    def change(data: Any) -> None:
        data.StudyInstanceUID = data.SeriesInstanceUID = uid

    with receiving(tmp_path / "in" / "deep") as receiver:
        assert store(receiver, change) == 0
    (arrived,) = files_of(tmp_path)
    assert arrived.is_relative_to(tmp_path / "in" / "deep")


def test_a_data_set_of_another_instance_than_the_request_is_refused(tmp_path: Path) -> None:
    data = dcmread(CT)
    context = Context(CTImageStorage, (data.file_meta.TransferSyntaxUID,))
    with receiving(tmp_path) as receiver, associated(peer_of(receiver), [context]) as association:

        def lie(message: Any, context_id: int) -> None:
            message.AffectedSOPInstanceUID = "1.2.3.4"
            send(message, context_id)

        send, association.dimse.send_msg = association.dimse.send_msg, lie
        assert association.send_c_store(data).Status == 0xA900
    assert dict(receiver.counts.refused) == {"other_uids": 1} and not files_of(tmp_path)


@pytest.mark.slow
def test_a_full_disk_is_told_by_its_status_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with receiving(tmp_path / "in") as receiver:
        monkeypatch.setattr(publishing.os, "fsync", full)
        assert store(receiver, lambda data: None) == 0xA700
        monkeypatch.setattr(publishing.os, "fsync", lambda descriptor: None)
        assert not list((tmp_path / "in").rglob("*.dcm"))
        assert store(receiver, lambda data: None) == 0
    assert dict(receiver.counts.refused) == {"disk_full": 1} and receiver.counts.new == 1


@pytest.mark.slow
def test_an_unforeseen_error_refuses_one_instance_and_the_next_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> None:
        raise RuntimeError("no")

    with receiving(tmp_path / "in") as receiver:
        with monkeypatch.context() as patch:
            patch.setattr(Placing, "put", broken)
            assert store(receiver, lambda data: None) == 0x0110
        assert store(receiver, lambda data: None) == 0


@pytest.mark.slow
def test_an_instance_beyond_the_limit_ends_its_association(tmp_path: Path) -> None:
    told = list[str]()
    with receiving(tmp_path / "in", most_bytes=4096, tell=told.append) as receiver:
        assert store(receiver, lambda data: None) in (-1, 0xA700)

        def grow(data: Any) -> None:
            data.PixelData = bytes(2**20)

        assert store(receiver, grow) == -1
    assert dict(receiver.counts.refused)["too_large"] >= 1 and not files_of(tmp_path / "in")


def test_only_allowed_titles_may_send(tmp_path: Path) -> None:
    told = list[str]()
    with receiving(tmp_path, allowed=("SCANNER",), tell=told.append) as receiver:
        with pytest.raises(AssociationRejected, match="does not know the AE title") as caught:
            echo(peer_of(receiver, own_title="SOMEBODY"))
        echo(peer_of(receiver, own_title="SCANNER"))
    assert caught.value.reason == 3
    assert any("SOMEBODY" in line and "rejected" in line for line in told)


def test_an_association_that_names_another_title_is_rejected_if_asked_for(tmp_path: Path) -> None:
    with receiving(tmp_path, by_its_title_alone=True) as receiver:
        echo(Peer("127.0.0.1", receiver.port, "DICOMDL"))
        with pytest.raises(AssociationRejected, match="its AE title is not OTHER"):
            echo(Peer("127.0.0.1", receiver.port, "OTHER"))


@pytest.mark.slow
def test_a_client_without_the_right_certificate_is_refused(tmp_path: Path) -> None:
    made, others = make_certificates(tmp_path / "a"), make_certificates(tmp_path / "b")
    tls = TLS(str(made.ca), str(made.server), str(made.server_key))
    own = TLS(str(made.ca), str(made.client), str(made.client_key))
    quick = Timeouts(5.0, 2.0)
    with receiving(tmp_path / "in", tls=tls) as receiver:
        assert store(receiver, lambda data: None, tls=own) == 0
        command = [
            *(program("storescu"), "+tls", str(made.client_key), str(made.client)),
            *("+cf", str(made.ca), "127.0.0.1", str(receiver.port), CT),
        ]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        stranger = TLS(str(made.ca), str(others.client), str(others.client_key))
        for tls in (TLS(str(made.ca)), stranger, None):
            with pytest.raises(NetworkError):
                echo(peer_of(receiver, tls=tls), timeouts=quick)
    counts = receiver.counts
    assert counts.new + counts.present + counts.differs == 2


@pytest.mark.slow
def test_a_client_that_says_nothing_keeps_no_other_out(tmp_path: Path) -> None:
    import socket

    made = make_certificates(tmp_path / "a")
    tls = TLS(str(made.ca), str(made.server), str(made.server_key))
    own = TLS(str(made.ca), str(made.client), str(made.client_key))
    with (
        receiving(tmp_path / "in", tls=tls) as receiver,
        socket.create_connection(("127.0.0.1", receiver.port)),
    ):
        assert echo(peer_of(receiver, tls=own))


def test_a_sender_that_is_cut_leaves_nothing(tmp_path: Path) -> None:
    from network_servers import proxy

    with (
        receiving(tmp_path / "in", idle_s=1.0) as receiver,
        proxy(receiver.port) as between,
    ):
        data = dcmread(CT)
        context = Context(CTImageStorage, (data.file_meta.TransferSyntaxUID,))
        peer = Peer("127.0.0.1", between.port, "DICOMDL")
        with associated(peer, [context]) as association:
            association.dul.socket.socket.sendall(b"\x04\x00\x00\x00\x40\x00\x00\x00\x10")
            association.dul.socket.socket.close()
    assert not files_of(tmp_path / "in")
    assert not [each for each in (tmp_path / "in").iterdir() if each.name.startswith(".part")]


@pytest.mark.slow
def test_a_port_in_use_and_wrong_options_are_errors(tmp_path: Path) -> None:
    with (
        receiving(tmp_path) as receiver,
        pytest.raises(StorageError, match="cannot be listened on"),
        receiving(tmp_path / "b", port=receiver.port),
    ):
        pass
    for options in ({"title": "A" * 17}, {"port": 70000}, {"allowed": ("",)}, {"tls": TLS()}):
        with pytest.raises(UsageError), receiving(tmp_path, **options):
            pass
    with pytest.raises(UsageError, match="at least 1"):
        receive(tmp_path, most_bytes=0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_cleanly_by_a_signal(number: int, tmp_path: Path) -> None:
    port = free_port()
    command = [
        *(sys.executable, "-m", "dicomdl", "receive", "-o", str(tmp_path / "in"), "--json"),
        *("--index", str(tmp_path / "index"), "--port", str(port), "--host", "127.0.0.1"),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_for(port, lambda: process.poll() is None)
        sent = [program("storescu"), "127.0.0.1", str(port), CT]
        subprocess.run(sent, stdin=subprocess.DEVNULL, check=True)
        process.send_signal(number)
        printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert json.loads(printed)["new"] == 1
    assert len(dicomdl.open_index(tmp_path / "index")) == 1


def test_the_command_refuses_wrong_use(tmp_path: Path) -> None:
    assert main(["receive", "-o", str(tmp_path), "--port", "99999"]) == 2
    assert main(["receive", "-o", str(tmp_path), "--tls-ca", str(tmp_path / "none.pem")]) == 2
