"""keys: a key changes with everything that the values depend on, and reveals nothing."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cache_entries import entry_file, names

from dicomdl.errors import FileChanged, UsageError
from dicomdl.storage.cache import keys as keys_module
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.entries import Arrays
from dicomdl.storage.cache.keys import Key, KeyFile, stack_key
from dicomdl.storage.sources import Source, look_up


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "MRN-123" / "study"
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.dcm" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    return paths


def key_file(path: Path, uid: str, frames: tuple[int, ...] = (1,)) -> KeyFile:
    return KeyFile(look_up(Source(str(path))), uid, frames)


def states(paths: list[Path], frames: tuple[int, ...] = (1,)) -> list[KeyFile]:
    return [key_file(path, f"1.2.840.{number}", frames) for number, path in enumerate(paths)]


OPTIONS = {"intensity": "Rescale()", "dtype": "int16"}


@pytest.mark.slow
def test_a_key_is_the_same_in_any_order_of_the_options_and_in_another_process(
    sources: list[Path],
) -> None:
    key = stack_key(states(sources), OPTIONS)
    assert key == stack_key(states(sources), dict(reversed(OPTIONS.items())))
    program = (
        "import sys\nfrom dicomdl.storage.cache.keys import KeyFile, stack_key\n"
        "from dicomdl.storage.sources import Source, look_up\n"
        "files = [KeyFile(look_up(Source(path)), f'1.2.840.{number}')\n"
        "         for number, path in enumerate(sys.argv[1:])]\n"
        f"print(stack_key(files, {OPTIONS!r}).digest)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *map(str, sources)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == key.digest


def rewrite_with_its_times(path: Path) -> None:
    before = os.stat(path)
    # The resolution of a change time is that of the kernel's clock.
    time.sleep(0.02)
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_with_its_times(path: Path) -> None:
    other = path.with_suffix(".new")
    shutil.copy2(path, other)
    os.replace(other, path)


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    "change",
    [rewrite_with_its_times, replace_with_its_times, grow, lambda path: os.utime(path, (1, 1))],
)
def test_a_source_file_that_changes_changes_the_key(
    sources: list[Path], change: Callable[[Path], None]
) -> None:
    before = stack_key(states(sources), OPTIONS)
    change(sources[1])
    assert stack_key(states(sources), OPTIONS) != before


def test_slices_their_order_frames_instances_options_and_versions_each_change_the_key(
    sources: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = states(sources)
    keys = [
        stack_key(files, OPTIONS),
        stack_key(files[:2], OPTIONS),
        stack_key(files[::-1], OPTIONS),
        stack_key(states(sources, (2,)), OPTIONS),
        stack_key(states(sources, (1, 2)), OPTIONS),
        stack_key([key_file(path, "1.2.3") for path in sources], OPTIONS),
        stack_key(files, {**OPTIONS, "dtype": "int32"}),
        stack_key(files, {**OPTIONS, "reduce": "1"}),
        stack_key(files, {}),
        stack_key(files, OPTIONS, strict=True),
    ]
    for name, value in (("__version__", "999"), ("VALUES_VERSION", 999), ("FORMAT_VERSION", 999)):
        monkeypatch.setattr(keys_module, name, value)
        keys.append(stack_key(files, OPTIONS))
        monkeypatch.undo()
    assert len(set(keys)) == len(keys)


def test_a_strict_key_is_of_contents_whatever_their_place_and_times(
    sources: list[Path], tmp_path: Path
) -> None:
    key = stack_key(states(sources), OPTIONS, strict=True)
    moved = [Path(shutil.copy(path, tmp_path / path.name)) for path in sources]
    os.utime(moved[0], (5, 5))
    assert stack_key(states(moved), OPTIONS, strict=True) == key
    rewrite_with_its_times(moved[1])
    assert stack_key(states(moved), OPTIONS, strict=True) != key


def test_a_source_file_that_is_gone_is_a_changed_file(sources: list[Path]) -> None:
    files = states(sources)
    sources[0].unlink()
    with pytest.raises(FileChanged, match="scan again"):
        look_up(files[0].file)
    assert stack_key(files, OPTIONS)
    with pytest.raises(FileChanged, match="scan again"):
        stack_key(files, OPTIONS, strict=True)


def test_nothing_of_a_patient_is_in_names_or_bytes_of_a_cache(
    sources: list[Path], tmp_path: Path
) -> None:
    key = stack_key(states(sources), {"path": "MRN-123"})
    DiskCache(tmp_path / "c").get(key, lambda: Arrays(np.zeros((1, 2, 2), np.int16)))
    told = "".join(names(tmp_path / "c")).encode() + entry_file(tmp_path / "c", key).read_bytes()
    assert b"MRN" not in told and b"1.2.840" not in told and b"study" not in told


@pytest.mark.parametrize("digest", ["", "../../evil", "A" * 64, "0" * 63 + "\n", "0" * 65])
def test_only_hexadecimal_digits_can_be_a_key(digest: str) -> None:
    with pytest.raises(UsageError, match="hexadecimal"):
        Key(digest)
