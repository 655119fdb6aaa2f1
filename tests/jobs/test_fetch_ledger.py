from pathlib import Path

import pytest

from dicomdl.jobs.fetch_ledger import Ledger, SeriesFound, undelivered, unrecorded

SERIES = SeriesFound("1.2", "1.2.3", "CT", "", 2)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Return the ledger of a folder in which a series was found."""
    (tmp_path / "1.2" / "1.2.3").mkdir(parents=True)
    ledger = Ledger(str(tmp_path))
    ledger.begin("dicom://ARCHIVE@127.0.0.1:104", {})
    ledger.add_found(SERIES, "1.2/1.2.3")
    return ledger


@pytest.mark.parametrize("uid", ["../../1.2.3.4", "/1.2.3.4", "..", "1\n2", "4" * 100])
def test_what_is_missing_under_a_hostile_uid_has_a_path_in_the_folder_of_its_series(
    ledger: Ledger, uid: str
) -> None:
    ledger.add_failed(SERIES, uid, "the archive stopped")
    ledger.close()
    [path, rest] = [Path(each.path) for each in undelivered(ledger.folder)]
    assert path.parent == rest.parent == Path("1.2/1.2.3")
    assert path.name.startswith("instance-")


def test_a_missing_instance_has_the_path_at_which_its_file_would_lie(ledger: Ledger) -> None:
    ledger.add_failed(SERIES, "1.2.3.4", "the archive stopped")
    ledger.close()
    assert [each.path for each in undelivered(ledger.folder)] == [
        "1.2/1.2.3/1.2.3.4.dcm",
        "1.2/1.2.3/not-delivered",
    ]


def test_a_placed_file_that_a_killed_fetch_did_not_record_is_found(ledger: Ledger) -> None:
    place = Path(ledger.folder, "1.2", "1.2.3")
    for name in ("1.2.3.4.dcm", "1.2.3.5.dcm", "notes.txt", "1.2.3.6.dcm.tmp"):
        (place / name).write_bytes(b"12345")
    ledger.add_fetched(SERIES, {"1.2.3.5": ("1.2/1.2.3/1.2.3.5.dcm", 5)})
    ledger.close()
    state = ledger.states()[SERIES.series]
    assert unrecorded(ledger.folder, state) == {"1.2.3.4": ("1.2/1.2.3/1.2.3.4.dcm", 5)}
