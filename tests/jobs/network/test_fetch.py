"""Fetch from a DICOMweb archive: whole files, resumed, refused and failed ones, and the index."""

import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from fake_archive import FakeArchive, archive_of, cut
from network_servers import make_certificates
from phantoms import write_series
from web_server import Answer, Asked, multipart, serving

pytest.importorskip("urllib3")
pytest.importorskip("pynetdicom")

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import NetworkError, StorageError, UsageError
from dicomdl.jobs.fetch_ledger import Ledger
from dicomdl.jobs.network import fetching
from dicomdl.jobs.network.fetch import Access
from dicomdl.jobs.network.peers import TLS, Timeouts
from dicomdl.storage import publishing


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series of one patient, in two transfer syntaxes."""
    folder = tmp_path_factory.mktemp("sent")
    for number, syntax in enumerate(("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5")):
        write_series(
            folder / str(number),
            shape=(5, 6, 7),
            transfer_syntax=syntax,
            series_uid=f"1.2.826.{number}",
            study_uid="1.2.826.9",
            seed=number,
        )
    return folder


@pytest.fixture
def archive(sent: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeArchive]:
    monkeypatch.setattr(fetching, "_PAUSE_S", 0.0)
    monkeypatch.setattr("dicomdl.storage.dicomweb.time.sleep", lambda seconds: None)
    with archive_of(sent) as archive:
        yield archive


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.rglob("*.dcm")}


def fetch(archive: FakeArchive, folder: Path, **options: object) -> fetching.Fetched:
    asked = {"study": "1.2.826.9", "progress": False, **options}
    return dicomdl.fetch(archive.url, folder, **asked)  # type: ignore[arg-type]


def test_every_file_comes_whole_into_a_folder_by_uids_and_a_second_call_asks_for_none(
    archive: FakeArchive, tmp_path: Path
) -> None:
    fetched = fetch(archive, tmp_path)
    assert fetched.ok and (fetched.fetched, fetched.present, fetched.series) == (10, 0, 2)
    for header, data in archive.files:
        place = f"1.2.826.9/{header.SeriesInstanceUID}/{header.SOPInstanceUID}.dcm"
        assert (tmp_path / place).read_bytes() == data
    asked = len(archive.retrieved())
    again = fetch(archive, tmp_path)
    assert again.ok and (again.fetched, again.present) == (0, 10)
    assert len(archive.retrieved()) == asked
    assert archive.server is not None
    wanted = [each for each in archive.server.log if "/series/" in each.path]
    assert all("transfer-syntax=*" in each.headers["accept"] for each in wanted)


@pytest.mark.slow
def test_the_index_of_what_was_fetched_is_that_of_the_folder_it_came_from(
    archive: FakeArchive, sent: Path, tmp_path: Path
) -> None:
    fetched = fetch(archive, tmp_path / "got", index=tmp_path / "got.index")
    original = dicomdl.scan(sent, tmp_path / "sent.index", progress=False)
    index = fetched.index
    assert index is not None and not len(index.problems)
    assert index.ledger == original.ledger
    for mine, other in zip(index.stacks, original.stacks, strict=True):
        assert mine.series_instance_uid == other.series_instance_uid
        assert (mine.verdict, mine.shape, mine.spacing) == (
            other.verdict,
            other.shape,
            other.spacing,
        )
        assert (dicomdl.read_volume(mine).array == dicomdl.read_volume(other).array).all()


def test_an_answer_that_is_cut_costs_only_what_did_not_come(
    archive: FakeArchive, tmp_path: Path
) -> None:
    cuts = iter([0.5])

    def fault(asked: Asked) -> Answer | None:
        share = next(cuts, None) if asked.path.endswith("series/1.2.826.0") else None
        files = [data for each, data in archive.files if each.SeriesInstanceUID == "1.2.826.0"]
        answer = multipart(*files, kind="application/dicom")
        return None if share is None else cut(answer, int(len(answer.body) * share))

    archive.fault = fault
    fetched = fetch(archive, tmp_path, jobs=1)
    assert fetched.ok and fetched.fetched == 10
    assert bytes_of(tmp_path) == {f"{e.SOPInstanceUID}.dcm": data for e, data in archive.files}
    assert not list(tmp_path.glob(".part*"))


@pytest.mark.slow
def test_what_does_not_come_is_in_ledger_index_and_check_and_a_later_fetch_mends_it(
    archive: FakeArchive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = archive.files[0][0].SOPInstanceUID
    others = [data for each, data in archive.files[1:5]]

    def without_one(asked: Asked) -> Answer | None:
        if asked.path.endswith("series/1.2.826.0"):
            return multipart(*others, kind="application/dicom")
        return Answer(500) if asked.path.endswith(lost) else None

    archive.fault = without_one
    words = ["fetch", archive.url, str(tmp_path / "got"), "--study", "1.2.826.9", "-q"]
    assert main([*words, "--tries", "2", "--index", str(tmp_path / "index")]) == 1
    told = capsys.readouterr().out
    assert "not delivered 1 of 10" in told and "fails with status 500" in told
    index = dicomdl.open_index(tmp_path / "index")
    (problem,) = index.problems
    assert problem.reason == "not_delivered" and lost in problem.path
    assert "1 of these an archive promised and did not deliver" in index.check().text()
    archive.fault = lambda asked: None
    fetched = fetch(archive, tmp_path / "got", index=tmp_path / "index")
    assert fetched.ok and (fetched.fetched, fetched.present) == (1, 9)
    assert fetched.index is not None and not len(fetched.index.problems)


def test_a_folder_whose_fetch_was_killed_says_how_many_are_missing(
    archive: FakeArchive, tmp_path: Path
) -> None:
    fetch(archive, tmp_path)
    ledger = Path(Ledger(str(tmp_path)).path)
    lines = ledger.read_text().splitlines()
    fetched = [each for each in lines if '"fetched"' in each]
    # The last line is cut, as by a full disk.
    kept = [each for each in lines if each not in fetched[6:]]
    ledger.write_text("\n".join(kept) + fetched[6][:20])
    for each in fetched[6:]:
        (tmp_path / json.loads(each)["path"]).unlink()
    index = dicomdl.scan(tmp_path, tmp_path / "index", progress=False)
    assert sum(int(each.detail.split()[0]) for each in index.problems) == 4
    again = fetch(archive, tmp_path)
    assert again.ok and (again.fetched, again.present) == (4, 6)


def test_a_file_that_has_another_size_than_recorded_is_told_and_fetched_beside_it(
    archive: FakeArchive, tmp_path: Path
) -> None:
    fetch(archive, tmp_path)
    damaged = next(tmp_path.rglob("*.dcm"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    again = fetch(archive, tmp_path)
    assert again.fetched == 1 and again.twice == 1 and not again.ok


def test_instances_of_other_studies_and_what_is_no_dicom_are_refused_and_counted(
    archive: FakeArchive, sent: Path, tmp_path: Path
) -> None:
    own = [data for each, data in archive.files if each.SeriesInstanceUID == "1.2.826.0"]
    other = archive.files[-1][1]

    def fault(asked: Asked) -> Answer | None:
        wrong = multipart(*own, other, b"<html>", own[0], kind="application/dicom")
        return wrong if asked.path.endswith("1.2.826.0") else None

    archive.fault = fault
    fetched = fetch(archive, tmp_path, series="1.2.826.0")
    assert (fetched.fetched, fetched.failed, sum(fetched.refused.values())) == (5, 0, 2)
    assert not fetched.ok and len(bytes_of(tmp_path)) == 5


def test_studies_of_an_archive_that_ignores_the_key_are_left_out(
    archive: FakeArchive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive.narrows = False
    found = dicomdl.find_series(archive.url, study="1.2.826.8")
    assert (len(found), found.other_studies) == (0, 1)
    with pytest.raises(UsageError, match="no series that meets"):
        fetch(archive, tmp_path, study="1.2.826.8")


def searches(archive: FakeArchive) -> list[str]:
    assert archive.server is not None
    paths = (asked.path.removeprefix("/dicom-web") for asked in archive.server.log)
    return [path for path in paths if path.endswith(("/studies", "/series"))]


def test_a_series_is_found_by_its_uid_without_a_listing_of_studies(archive: FakeArchive) -> None:
    found = dicomdl.find_series(archive.url, series=["1.2.826.1", "1.2.826.7"])
    assert [(each.study, each.series, each.instances) for each in found.series] == [
        ("1.2.826.9", "1.2.826.1", 5)
    ]
    assert searches(archive) == ["/series", "/series"]
    assert not len(dicomdl.find_series(archive.url, series="1.2.826.1", modality="NM"))


@pytest.mark.parametrize("status", [400, 404, 501])
def test_a_server_that_finds_no_series_without_a_study_is_asked_for_its_studies(
    archive: FakeArchive, status: int, tmp_path: Path
) -> None:
    archive.fault = lambda asked: Answer(status) if asked.path == "/dicom-web/series" else None
    fetched = fetch(archive, tmp_path, study=(), series=["1.2.826.0", "1.2.826.7"])
    assert fetched.ok and (fetched.series, fetched.fetched) == (1, 5)
    assert searches(archive) == ["/series", "/studies", "/studies/1.2.826.9/series"]


def test_a_server_that_ignores_the_uid_of_a_series_gives_no_other_one(
    archive: FakeArchive, tmp_path: Path
) -> None:
    archive.narrows = False
    fetched = fetch(archive, tmp_path, study=(), series="1.2.826.0")
    assert (fetched.series, fetched.fetched) == (1, 5)
    assert searches(archive) == ["/series", "/studies", "/studies/1.2.826.9/series"]


def test_a_series_of_a_study_that_is_named_is_looked_for_in_it(archive: FakeArchive) -> None:
    found = dicomdl.find_series(archive.url, study="1.2.826.9", series="1.2.826.0")
    assert len(found) == 1
    assert searches(archive) == ["/studies", "/studies/1.2.826.9/series"]


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_status_of_failure_is_a_sentence_without_the_query(
    archive: FakeArchive, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive.fault = lambda asked: Answer(
        status, b"<html>SECRET</html>", {"Content-Type": "text/html"}
    )
    code = main(["fetch", archive.url, str(tmp_path), "--patient", "SECRET", "-q"])
    told = capsys.readouterr().err
    assert code == 2 and str(status) in told and "SECRET" not in told


def test_an_overloaded_archive_is_asked_again(archive: FakeArchive, tmp_path: Path) -> None:
    busy = iter([429, 503, 503])

    def fault(asked: Asked) -> Answer | None:
        status = next(busy, None) if "/series/" in asked.path else None
        return None if status is None else Answer(status, b"", {"Retry-After": "0"})

    archive.fault = fault
    assert fetch(archive, tmp_path, jobs=1).ok


def test_a_page_in_place_of_data_is_an_error(archive: FakeArchive, tmp_path: Path) -> None:
    page = Answer(200, b"<html>log in</html>", {"Content-Type": "text/html"})
    archive.fault = lambda asked: page
    with pytest.raises(NetworkError, match="login page"):
        fetch(archive, tmp_path)
    archive.fault = lambda asked: page if asked.path.endswith(("826.0", "826.1")) else None
    fetched = fetch(archive, tmp_path)
    assert fetched.failed == 10 and "a page where data" in next(iter(fetched.reasons))


def test_a_full_disk_ends_the_fetch_and_leaves_whole_files(
    archive: FakeArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = publishing.write_new, iter(range(3))

    def full(path: str, data: bytes) -> None:
        if next(left, None) is None:
            raise StorageError(f"{path!r} cannot be written: No space left on device", errno=28)
        write(path, data)

    monkeypatch.setattr(publishing, "write_new", full)
    with pytest.raises(StorageError, match="No space left"):
        fetch(archive, tmp_path, jobs=1)
    assert len(bytes_of(tmp_path)) == 3
    monkeypatch.setattr(publishing, "write_new", write)
    again = fetch(archive, tmp_path)
    assert again.ok and (again.fetched, again.present) == (7, 3)


def test_hostile_uids_stay_in_the_folder(tmp_path: Path) -> None:
    def edit(dataset: pydicom.Dataset, _: int) -> None:
        dataset.SeriesInstanceUID = "../../outside"

    write_series(tmp_path / "sent", shape=(2, 3, 4), study_uid="1.2.826.9", edit=edit)
    with archive_of(tmp_path / "sent") as archive:
        fetch(archive, tmp_path / "got")
    assert {each.name for each in tmp_path.iterdir()} <= {"got", "sent"}
    names = {each.name for each in (tmp_path / "got").rglob("*")}
    assert not any("outside" in name for name in names)


def test_a_count_that_is_too_high_is_corrected_by_the_list_of_instances(
    archive: FakeArchive, tmp_path: Path
) -> None:
    archive.promised = 3
    assert fetch(archive, tmp_path).ok


@pytest.mark.slow
def test_certificates_are_verified_and_a_file_names_those_that_are_trusted(
    sent: Path, tmp_path: Path
) -> None:
    made = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server, made.server_key)
    with archive_of(sent, tls=context) as archive:
        with pytest.raises(NetworkError, match="is not trusted"):
            dicomdl.find_series(archive.url, study="1.2.826.9")
        access = Access(tls=TLS(ca_file=str(made.ca)))
        assert fetch(archive, tmp_path / "got", access=access).ok


def test_credentials_are_sent_and_stand_in_no_file_and_no_message(
    archive: FakeArchive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DICOMDL_DICOMWEB_TOKEN", "SECRET")
    words = ["fetch", archive.url, str(tmp_path / "got"), "--study", "1.2.826.9", "--json"]
    assert main([*words, "--index", str(tmp_path / "index")]) == 0
    assert archive.server is not None
    assert {e.headers["authorization"] for e in archive.server.log} == {"Bearer SECRET"}
    told = "".join(capsys.readouterr())
    assert "SECRET" not in told and json.loads(told)["fetched"] == 10
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()
    assert main(["fetch", "https://me:SECRET@host/dicom-web", "--list", "--modality", "CT"]) == 2
    assert "SECRET" not in capsys.readouterr().err


def test_the_time_limits_of_this_side_hold_for_dicomweb_too(
    sent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_over, silent = threading.Event(), "was silent for 0.2 s"
    timeouts = Timeouts(5.0, 0.2)
    with serving(lambda *_: Answer() if is_over.wait(60) else None) as server:
        try:
            with pytest.raises(NetworkError, match=silent):
                access = Access(timeouts=timeouts)
                dicomdl.fetch(server.url, tmp_path, study="1.2", access=access, progress=False)
            with pytest.raises(NetworkError, match=silent):
                dicomdl.send(server.url, sent, timeouts=timeouts, progress=False)
            assert main(["echo", server.url, "--timeout", "0.2"]) == 1
            told = capsys.readouterr()
            assert silent in told.out + told.err
        finally:
            is_over.set()


@pytest.mark.parametrize("words", ["0", "-1", "nan"])
def test_a_time_limit_is_above_0(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["echo", "http://127.0.0.1:1", "--timeout", words]) == 2
    assert "expected a number above 0" in capsys.readouterr().err


def test_a_list_prints_no_identity(
    archive: FakeArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--json"]):
        assert main(["fetch", archive.url, "--list", "--patient", "RAMP-1", *more]) == 0
        told = capsys.readouterr().out
        assert "1.2.826.0" in told and not any(e in told for e in ("RAMP-1", "PHANTOM", "20200101"))


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no condition"):
        dicomdl.fetch("https://host/dicom-web", tmp_path)
    with pytest.raises(UsageError, match="name is no condition"):
        dicomdl.find_series("https://host/dicom-web", name="X")
    with pytest.raises(UsageError, match="no address of a server"):
        dicomdl.find_series("ftp://host", modality="CT")
    with pytest.raises(UsageError, match="jobs is 1 to 16"):
        dicomdl.fetch("https://host/dicom-web", tmp_path, jobs=0, modality="CT")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        dicomdl.fetch("https://host/dicom-web", tmp_path / "file", modality="CT")


def test_a_series_that_is_asked_for_anew_replaces_and_doubles_nothing(
    archive: FakeArchive, tmp_path: Path
) -> None:
    fetch(archive, tmp_path, series="1.2.826.0")
    kept, *others = sorted((tmp_path / "1.2.826.9" / "1.2.826.0").iterdir())
    for path in others:
        path.unlink()
    # As another protocol would send it: the same data set behind another preamble.
    archive.files = [(each, b"\x01" * 128 + data[128:]) for each, data in archive.files]
    before = kept.read_bytes()
    again = fetch(archive, tmp_path, series="1.2.826.0")
    assert again.ok and (again.fetched, again.present) == (4, 1)
    assert kept.read_bytes() == before and len(bytes_of(tmp_path)) == 5
