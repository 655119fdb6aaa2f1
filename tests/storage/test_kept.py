"""What reading leaves in the user's cache folder, as `dicomdl cache` shows and removes it."""

import json
from pathlib import Path

import pytest

from dicomdl.cli.main import main
from dicomdl.storage import copies, kept
from dicomdl.storage._byte_cache import ByteCache, byte_cache, digest_of
from dicomdl.storage.handles import Source


@pytest.fixture
def ranges(cache_folder: Path) -> Path:
    """The folder of the byte cache, with two ranges of one object and one of another."""
    cache = byte_cache()
    assert isinstance(cache, ByteCache)
    for name, offset in (("a", 0), ("a", 500), ("b", 0)):
        cache.add(digest_of(f"s3://b/{name}", 1000, 1, "etag"), offset, bytes(300))
    return cache_folder / "bytes"


def test_the_ranges_of_stores_and_their_bound_are_shown(
    ranges: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "2G")
    copies.copy_of(Source("/a.tar.gz", 1, 2, 3, 4), lambda: [b"a" * 1000])
    assert main(["cache", "show"]) == 0
    shown = capsys.readouterr().out
    assert f"{ranges}\n  ranges of objects: 2 files, 0.0 MiB; at most 2 GiB" in shown
    assert "copies of archives: 1 files" in shown
    assert main(["cache", "show", "--json"]) == 0
    first, second, third = json.loads(capsys.readouterr().out)["kept"]
    assert (first["files"], first["limit_bytes"]) == (2, 2 * 2**30)
    assert first["size_bytes"] == sum(path.stat().st_size for path in ranges.iterdir())
    assert (second["files"], second["size_bytes"], second["limit_bytes"]) == (1, 1000, None)
    assert (third["content"], third["files"]) == ("pictures of reports", 0)
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "0")
    assert "switched off" in str(kept.show_kept()[0])


def test_a_damaged_range_is_named(ranges: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "verify"]) == 0
    path = sorted(ranges.iterdir())[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    capsys.readouterr()
    assert main(["cache", "verify"]) == 1
    assert f"1 damaged, which will be asked for again:\n    {path.name}" in capsys.readouterr().out
    data[3] ^= 1
    path.write_bytes(data)
    assert kept.verify_kept()[0].damaged == (path.name,)


def test_all_of_it_can_be_removed(ranges: Path) -> None:
    copies.copy_of(Source("/a.tar.gz", 1, 2, 3, 4), lambda: [b"a" * 1000])
    size = sum(path.stat().st_size for path in ranges.iterdir())
    pictures = ranges.with_name(kept.PICTURES) / "generation"
    pictures.mkdir(parents=True)
    (pictures / "1-a.bin").write_bytes(bytes(70))
    assert [each.files for each in kept.show_kept()] == [2, 1, 1]
    assert [each.removed_bytes for each in kept.clear_kept()] == [size, 1000, 70]
    assert [each.files for each in kept.show_kept()] == [0, 0, 0]
    assert not pictures.exists()
    assert list(ranges.iterdir()) == []


def test_another_folder_shows_its_entries_alone(
    ranges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "decoded"
    folder.mkdir()
    assert main(["cache", "clear", str(folder)]) == 0
    assert "ranges" not in capsys.readouterr().out
    assert len(list(ranges.iterdir())) == 2
