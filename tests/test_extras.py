"""extras: what is not installed, and what is installed and fails."""

import sys
from pathlib import Path

import pytest

from dicomdl.errors import MissingExtra
from dicomdl.extras import import_extra


def test_an_absent_package_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(
        MissingExtra, match=r"not installed: pip install 'dicomdl\[nice\]'"
    ) as caught:
        import_extra("no_such_package.part", "plot()", "nice")
    assert (caught.value.package, caught.value.extra) == ("no_such_package", "nice")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("raise RuntimeError('built for\\nanother torch')", "RuntimeError: built for"),
        ("raise OSError", "OSError: OSError"),
    ],
)
def test_an_installed_package_that_fails_is_told_apart_with_its_reason(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails_at_import.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra) as caught:
        import_extra("fails_at_import", "plot()", "nice", package="fails")
    assert str(caught.value).endswith(f"fails, which is installed, but its import failed: {words}")
    assert "pip install" not in str(caught.value)
    sys.modules.pop("fails_at_import", None)


def test_an_installed_package_is_returned() -> None:
    assert import_extra("os.path", "plot()", "nice").sep == "/" or sys.platform == "win32"
