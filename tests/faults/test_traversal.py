"""Hostile identifiers and names: nothing is written outside of the folders that were named.

UIDs, PatientIDs, descriptions and file names that are paths go through scan, cache, selections,
splits and exports.
"""

import os
import random
from pathlib import Path

import pytest
from faults.sizes import SEED, sizes
from faults.writing import image_file, text

import dicomdl

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="names of files that POSIX takes"),
]
PARTS = (
    *("../", "..\\", "/", "\\", "\0", "..", ".", "CON", "NUL", "%2e%2e/", "\u202e", "~/", "$HOME/"),
    *("`id`", "a" * 300, " ", "/tmp/evil", "C:\\evil", "file:///", "//host/share/", "1.2.3", "\n"),
)
UIDS = (0x00080018, 0x0020000D, 0x0020000E, 0x00200052)
TEXTS = {0x00100020: b"LO", 0x0008103E: b"LO", 0x00081030: b"LO", 0x00280004: b"CS"}


def hostile(rng: random.Random) -> str:
    return "".join(rng.choices(PARTS, k=rng.randint(1, 5)))


def hostile_file(rng: random.Random) -> bytes:
    """Return an image whose identifiers and texts are paths."""
    changes = {tag: text(hostile(rng), b"UI") for tag in UIDS}
    changes |= {
        tag: text(hostile(rng), vr) for tag, vr in TEXTS.items() if vr == b"LO" or not rng.random()
    }
    return image_file(changes)


def hostile_name(rng: random.Random, number: int) -> str:
    """Return a name that a folder takes."""
    return f"{hostile(rng)}{number}".replace("/", "_").replace("\0", "")[-200:]


def snapshot(root: Path) -> set[tuple[str, int, int]]:
    found = set()
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found.add((path, status.st_size, status.st_mtime_ns))
    return found


@sizes("files", smoke=150, full=2000)
def test_nothing_is_written_outside_of_index_cache_and_outputs(
    files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"DICOMDL_FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    around, root = tmp_path / "around", tmp_path / "around" / "inner" / "data"
    root.mkdir(parents=True)
    for number in range(files):
        (root / hostile_name(rng, number)).write_bytes(hostile_file(rng))
    mine = tmp_path / "mine"
    for name in ("home", "cache", "out"):
        (mine / name).mkdir(parents=True)
    monkeypatch.setenv("DICOMDL_CACHE", str(mine / "cache"))
    monkeypatch.setenv("HOME", str(mine / "home"))
    monkeypatch.chdir(around)
    before = snapshot(around)
    index = dicomdl.scan(root, mine / "index", progress=False, workers=1)
    assert index.ledger["image"] == files
    repr(index), repr(index.check()), index.check()._repr_html_()
    cache = dicomdl.DiskCache(mine / "cache" / "entries")
    volumes = dicomdl.VolumeDataset(index, cache=cache, on_error="skip", irregular="accept")
    for number in range(min(len(volumes), 200)):
        volumes[number]
    index.to_parquet(mine / "out" / "tables")
    train, *_ = parts = index.split((0.5, 0.5))
    parts.save(mine / "out" / "split.json")
    len(train)
    for number, stack in enumerate(index.stacks[:50]):
        dicomdl.read_volume(stack, irregular="accept").save(mine / "out" / f"{number}.nii.gz")
    assert snapshot(around) == before
    assert snapshot(mine / "home") == set()
    assert {each.name for each in mine.iterdir()} == {"home", "cache", "out", "index"}
    assert not [path for path, *_ in snapshot(mine) if os.access(path, os.X_OK)]
