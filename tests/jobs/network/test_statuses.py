"""Statuses of DIMSE: their kinds are those of pynetdicom's tables, and sentences name sections."""

import pytest

pytest.importorskip("pynetdicom")

from pynetdicom import status as theirs

from dicomdl.errors import NetworkError, PeerFailure
from dicomdl.jobs.network.statuses import Service, checked, kind_of, sentence

TABLES: dict[Service, dict[int, tuple[str, str]]] = {
    "C-ECHO": theirs.VERIFICATION_SERVICE_CLASS_STATUS,
    "C-STORE": theirs.STORAGE_SERVICE_CLASS_STATUS,
    "C-FIND": theirs.QR_FIND_SERVICE_CLASS_STATUS,
    "C-GET": theirs.QR_GET_SERVICE_CLASS_STATUS,
    "C-MOVE": theirs.QR_MOVE_SERVICE_CLASS_STATUS,
    "N-ACTION": theirs.STORAGE_COMMITMENT_SERVICE_CLASS_STATUS,
}


@pytest.mark.parametrize("service", TABLES)
def test_a_status_is_of_the_kind_that_pynetdicom_says(service: Service) -> None:
    for status, (category, _) in TABLES[service].items():
        assert kind_of(status, service) == category.lower(), hex(status)


def test_a_status_means_something_else_for_another_service() -> None:
    assert "full disk" in sentence(0xA700, "C-STORE") and "B.2.3" in sentence(0xA700, "C-STORE")
    assert "AE title to move to" in sentence(0xA801, "C-MOVE")
    assert "does not define" in sentence(0xA801, "C-STORE")
    assert kind_of(0x1234, "C-STORE") == "failure"


def test_an_answer_without_a_status_is_a_lost_connection() -> None:
    from pydicom import Dataset

    answer = Dataset()
    with pytest.raises(NetworkError, match="gave no answer"):
        checked(answer, "C-STORE", "dicom://A@b:1")
    answer.Status = 0xB000
    assert checked(answer, "C-STORE", "dicom://A@b:1") == 0xB000
    answer.Status = 0xA700
    with pytest.raises(PeerFailure) as caught:
        checked(answer, "C-STORE", "dicom://A@b:1")
    assert caught.value.status == 0xA700 and caught.value.is_transient
