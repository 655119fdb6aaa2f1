"""json_texts: JSON of any content is a value or a known error, for all who read files."""

import json
from collections.abc import Callable
from pathlib import Path

import phantoms
import pytest

import dicomdl
from dicomdl.errors import IndexFolderError, StorageError, UsageError
from dicomdl.storage.json_texts import parsed

DEEP = "[" * 200_000
READERS: list[tuple[Callable[[Path], object], type[Exception]]] = [
    (dicomdl.load_split, UsageError),
    (dicomdl.Fingerprint.load, StorageError),
    (lambda path: dicomdl.open_index(path.parent), IndexFolderError),
]


def test_a_value_is_that_of_json() -> None:
    value = {"a": [1, 2.5, None, "\N{GREEK SMALL LETTER MU}"]}
    assert parsed(json.dumps(value)) == parsed(json.dumps(value).encode()) == value


@pytest.mark.parametrize("text", ["", "{", DEEP, '{"a":' * 100_000, b"\xff", "9" * 10_000])
def test_anything_else_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parsed(text)


@pytest.mark.parametrize(("read", "error"), READERS, ids=["split", "fingerprint", "manifest"])
def test_a_file_that_nests_deeply_is_a_damaged_file(
    read: Callable[[Path], object], error: type[Exception], tmp_path: Path
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(DEEP)
    with pytest.raises(error):
        read(path)


@pytest.mark.slow
def test_a_scan_replaces_a_manifest_that_nests_deeply(folder: Path, tmp_path: Path) -> None:
    phantoms.write_series(folder, shape=(2, 3, 4))
    out = tmp_path / "index"
    dicomdl.scan(folder, out, progress=False)
    (out / "manifest.json").write_text(DEEP)
    assert len(dicomdl.scan(folder, out, progress=False)) == 2
