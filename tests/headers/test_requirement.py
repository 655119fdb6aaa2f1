"""requirement: an untested older pydicom is refused with the remedy, and a tested one is silent."""

import logging
import threading
import warnings
from collections.abc import Iterator

import pydicom
import pytest

import dicomdl
from dicomdl.errors import MissingExtra
from dicomdl.headers.requirement import quiet, require_pydicom


@pytest.fixture(autouse=True)
def newly_asked() -> Iterator[None]:
    require_pydicom.cache_clear()
    yield
    require_pydicom.cache_clear()


@pytest.mark.parametrize("version", ["2.4.4", "3.0.1", "3.0.1.dev0"])
def test_an_older_pydicom_is_refused_with_both_versions_and_the_command(
    version: str, folder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydicom, "__version__", version)
    with pytest.raises(MissingExtra, match=r"pip install 'pydicom>=3\.0\.2'") as raised:
        dicomdl.scan(folder, progress=False, attributes=["ReceiveCoilName"])
    assert raised.value.found == version
    assert raised.value.expected == "3.0.2"


@pytest.mark.parametrize("version", ["3.0.2", "3.1.0", "4.0.0rc1"])
def test_this_pydicom_and_newer_ones_are_taken(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydicom, "__version__", version)
    require_pydicom()


def test_what_pydicom_logs_and_warns_of_is_dropped_in_one_thread_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def tell(text: str) -> None:
        logging.getLogger("pydicom").warning(text)
        logging.getLogger("pydicom.pixels.decoders.base").error(text)

    with quiet():
        warnings.warn("a value", stacklevel=1)
        tell("within")
        with quiet():
            tell("twice within")
        tell("within again")
        other = threading.Thread(target=tell, args=("another thread",))
        other.start()
        other.join()
    tell("behind")
    assert [each.getMessage() for each in caplog.records] == ["another thread"] * 2 + ["behind"] * 2
