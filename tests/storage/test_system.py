"""system: the cores that a process may use."""

import pytest

from dicomdl.storage.system import available_cores, share_cores


def test_a_variable_lowers_the_number_of_cores_and_never_raises_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DICOMDL_CORES", raising=False)
    every = available_cores()
    for text, expected in (("1", 1), ("100000", every), ("0", every), ("many", every), ("", every)):
        monkeypatch.setenv("DICOMDL_CORES", text)
        assert available_cores() == expected
    share_cores(1)
    assert available_cores() == 1
