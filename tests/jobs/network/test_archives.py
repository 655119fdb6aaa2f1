"""Fetch from Orthanc and from dcmtk's archive: C-GET, C-MOVE, WADO, kills, and the same index."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from network_servers import Orthanc, dcmqrscp, free_port, orthanc, program, proxy
from phantoms import write_series

pytest.importorskip("urllib3")
pytest.importorskip("pynetdicom")

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import NetworkError, PeerFailure
from dicomdl.jobs.fetch_ledger import Ledger
from dicomdl.jobs.network import fetching
from dicomdl.jobs.network.dimse_archive import DimseArchive
from dicomdl.jobs.network.fetch import Access
from dicomdl.jobs.network.peers import Timeouts
from dicomdl.jobs.network.query import Keys
from dicomdl.jobs.network.web_archive import WebArchive

pytestmark = pytest.mark.slow
STUDY = "1.2.826.9"
SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90")
COUNT = 24


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three series in three transfer syntaxes."""
    folder = tmp_path_factory.mktemp("sent")
    for number, syntax in enumerate(SYNTAXES):
        write_series(
            folder / str(number),
            shape=(8, 32, 33),
            transfer_syntax=syntax,
            study_uid=STUDY,
            series_uid=f"1.2.826.{number}",
            modality="MR" if number == 1 else "CT",
            seed=number,
        )
    return folder


@pytest.fixture(scope="module")
def server(sent: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as found:
        _post(sent, found)
        yield found


def _post(folder: Path, server: Orthanc) -> None:
    import urllib.request

    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        url = f"http://127.0.0.1:{server.http_port}/instances"
        urllib.request.urlopen(urllib.request.Request(url, path.read_bytes())).close()


def data_of(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return {SOP Instance UID: (transfer syntax, pixel data)}."""
    found = {}
    for path in (each for each in folder.glob("*/**/*") if each.is_file()):
        if ".fetch" in path.parts:
            continue
        read = pydicom.dcmread(path)
        found[str(read.SOPInstanceUID)] = str(read.file_meta.TransferSyntaxUID), read.PixelData
    return found


@pytest.mark.parametrize("protocol", ["web", "address"])
def test_files_come_as_they_are_stored_and_give_the_same_index(
    server: Orthanc, sent: Path, protocol: str, tmp_path: Path
) -> None:
    fetched = dicomdl.fetch(
        getattr(server, protocol),
        tmp_path / "got",
        study=STUDY,
        progress=False,
        jobs=2,
        index=tmp_path / "index",
    )
    assert fetched.ok and fetched.fetched == COUNT
    assert data_of(tmp_path / "got") == data_of(sent)
    original = dicomdl.scan(sent, tmp_path / "sent.index", progress=False)
    assert fetched.index is not None
    assert fetched.index.ledger == original.ledger
    mine, other = (
        [(s.series_instance_uid, s.verdict, s.shape, str(s.affine)) for s in index.stacks]
        for index in (fetched.index, original)
    )
    assert sorted(mine) == sorted(other)


@pytest.mark.parametrize("protocol", ["web", "address"])
def test_orthanc_finds_a_series_by_its_uid_without_a_listing_of_studies(
    server: Orthanc, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = WebArchive if protocol == "web" else DimseArchive
    monkeypatch.setattr(kind, "studies", None)
    found = dicomdl.find_series(getattr(server, protocol), series=["1.2.826.0", "1.2.826.2"])
    assert [(each.study, each.series, each.instances) for each in found.series] == [
        (STUDY, "1.2.826.0", 8),
        (STUDY, "1.2.826.2", 8),
    ]


@pytest.mark.parametrize("method", ["get", "move"])
def test_the_archive_of_dcmtk_is_asked_in_the_same_way(
    sent: Path, method: str, tmp_path: Path
) -> None:
    port = free_port()
    with dcmqrscp(tmp_path / "qr", move_to={"DICOMDL": port}) as archive:
        subprocess.run(
            [program("storescu"), "+sd", "-aec", "QR", "localhost", str(archive), sent / "0"],
            check=True,
        )
        address = f"dicom://QR@127.0.0.1:{archive}"
        access = Access(method=method, port=port)  # type: ignore[arg-type]
        fetched = dicomdl.fetch(
            address, tmp_path / "got", study=STUDY, access=access, progress=False
        )
        assert fetched.ok and fetched.fetched == 8
        lost = next((tmp_path / "got").rglob("*.dcm"))
        lost.unlink()
        again = dicomdl.fetch(address, tmp_path / "got", study=STUDY, access=access, progress=False)
        assert (again.fetched, again.present) == (1, 7)
    original = {k: v for k, v in data_of(sent).items() if v[0] == SYNTAXES[0]}
    # dcmtk's archive stores and sends native pixels in the syntax that it prefers.
    pixels = {uid: data for uid, (_, data) in data_of(tmp_path / "got").items()}
    assert pixels == {uid: data for uid, (_, data) in original.items()}


@pytest.mark.parametrize("answer", ["an error", "nothing", "another series"])
def test_an_archive_of_dimse_that_finds_no_series_without_a_study_is_asked_for_its_studies(
    server: Orthanc, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = DimseArchive._find

    def strict(self: DimseArchive, level: str, keys: Keys) -> Iterator[pydicom.Dataset]:
        if level == "SERIES" and not keys["StudyInstanceUID"]:
            if answer == "an error":
                raise PeerFailure("the identifier does not match", status=0xA900)
            keys = {**keys, "SeriesInstanceUID": "1.2" if answer == "nothing" else "1.2.826.1"}
        yield from find(self, level, keys)

    monkeypatch.setattr(DimseArchive, "_find", strict)
    found = dicomdl.find_series(server.address, series="1.2.826.0")
    assert [each.series for each in found.series] == ["1.2.826.0"]


def test_a_move_to_a_title_that_the_archive_does_not_know_is_a_sentence_with_its_status(
    server: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fetch", server.address, str(tmp_path), "--study", STUDY, "-q", "--tries", "1"]
    assert main([*words, "--method", "move", "--port", str(free_port())]) == 1
    told = capsys.readouterr().out
    assert "status 0x" in told and "C-MOVE" in told
    assert not list(tmp_path.rglob("*.dcm"))


def test_a_connection_that_is_cut_or_stalls_costs_only_what_did_not_come(
    server: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_PAUSE_S", 0.0)
    access = Access(timeouts=Timeouts(5.0, 1.0))
    for number, fault in enumerate(({"cut_after": 12_000}, {"stall_after": 12_000})):
        folder = tmp_path / str(number)
        with proxy(server.port, **fault) as between:
            address = f"dicom://ORTHANC@127.0.0.1:{between.port}"
            try:
                fetched = dicomdl.fetch(
                    address, folder, study=STUDY, access=access, tries=2, progress=False
                )
                assert fetched.failed == COUNT - fetched.fetched
            except NetworkError:
                pass
        again = dicomdl.fetch(server.address, folder, study=STUDY, progress=False)
        assert again.ok and again.fetched + again.present == COUNT
        assert len(list(folder.rglob("*.dcm"))) == COUNT


KILLED = """
import sys, dicomdl
dicomdl.fetch(sys.argv[1], sys.argv[2], study=sys.argv[3], progress=False, jobs=2)
"""


@pytest.mark.parametrize(
    "times", [pytest.param(3, id="3"), pytest.param(20, marks=pytest.mark.full, id="20")]
)
def test_a_fetch_that_is_killed_and_started_again_has_every_file_once(
    server: Orthanc, sent: Path, times: int, tmp_path: Path
) -> None:
    folder = tmp_path / "got"
    # Hidden folders come and go while files are written.
    placed = f"{STUDY}/*/*.dcm"
    for number in range(times):
        wanted = (number + 1) * COUNT // (times + 1)
        address = server.web if number % 2 else server.address
        words = [sys.executable, "-c", KILLED, address, str(folder), STUDY]
        child = subprocess.Popen(words)
        while child.poll() is None and len(list(folder.glob(placed))) < wanted:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        child.wait()
    fetched = dicomdl.fetch(server.web, folder, study=STUDY, progress=False)
    assert fetched.ok and fetched.fetched + fetched.present == COUNT
    assert not list(folder.glob(".part*"))
    files = list(folder.rglob("*.dcm"))
    assert len(files) == COUNT and data_of(folder) == data_of(sent)
    names = [json.loads(line)["path"] for line in _fetched_lines(folder)]
    assert {os.fspath(each.relative_to(folder)) for each in files} == set(names)


def _fetched_lines(folder: Path) -> list[str]:
    text = Path(Ledger(str(folder)).path).read_text()
    return [line for line in text.splitlines() if '"event":"fetched"' in line and line[-1] == "}"]
