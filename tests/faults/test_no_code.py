"""Hostile index folders and cache entries: an audit hook sees no pickle, no program, no import."""

import io
import multiprocessing
import os
import pickle
import random
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from faults.sizes import SEED, sizes
from phantoms import write_series

import dicomdl
from dicomdl.errors import DicomdlError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the attacked process is forked"),
]
FORBIDDEN = (
    *("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"),
    *("marshal.loads", "ctypes.dlopen"),
)


class Evil:
    """An object whose pickle touches a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def hostile(rng: random.Random, good: bytes, evil: Evil) -> bytes:
    """Return the bytes of a pickle, of an array or an archive with one, or of a damaged file."""
    npy = io.BytesIO()
    np.save(npy, np.array([evil], dtype=object), allow_pickle=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(evil))
    flipped = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return rng.choice(
        [
            *(pickle.dumps(evil), npy.getvalue(), packed.getvalue(), bytes(flipped)),
            *(good + pickle.dumps(evil), good[: rng.randrange(len(good))], rng.randbytes(2000)),
            b"",
        ]
    )


def put(path: Path, raw: bytes) -> None:
    """Put another file in its place: one that shrinks under a map ends the process by SIGBUS."""
    path.with_name("put").write_bytes(raw)
    os.replace(path.with_name("put"), path)


def attack(index_folder: Path, cache_folder: Path, canary: Path, count: int) -> dict[str, Any]:
    """Use an index and a cache with one hostile file at a time; return what the hook has seen.

    An audit hook cannot be removed: this process is to end behind.
    """
    warnings.simplefilter("ignore")
    index = dicomdl.open_index(index_folder)

    def use() -> None:
        found = dicomdl.open_index(index_folder)
        repr(found), repr(found.check())
        dicomdl.read_volume(found.stacks[0])

    def cached() -> None:
        _ = dicomdl.VolumeDataset(index, cache=dicomdl.DiskCache(cache_folder))[0]

    # pyarrow and others import parts of themselves at first use, which is here.
    use(), cached()
    files = [
        path
        for folder in (index_folder, cache_folder)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    ]
    seen: list[str] = []
    active = False

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event in FORBIDDEN:
            seen.append(event)

    sys.addaudithook(watch)
    outcomes: Counter[str] = Counter()
    rng = random.Random(SEED)
    for _ in range(count):
        target = rng.choice(files)
        good = target.read_bytes()
        put(target, hostile(rng, good or b"{}", Evil(canary)))
        active = True
        for step in (use, cached):
            try:
                step()
                outcomes["fine"] += 1
            except DicomdlError as error:
                outcomes[type(error).__name__] += 1
            except Exception as error:
                outcomes[f"ESCAPE {type(error).__name__}: {error}"] += 1
        active = False
        put(target, good)
    return {"seen": seen, "outcomes": outcomes, "canary": canary.exists()}


@sizes("count", smoke=30, full=2000)
def test_nothing_in_an_index_or_a_cache_is_run(count: int, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_series(tmp_path / "dicom", transfer_syntax="1.2.840.10008.1.2.4.80")
    index_of(tmp_path / "dicom")
    folders = tmp_path / "dicom.index", tmp_path / "cache"
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as process:
        found = process.submit(attack, *folders, tmp_path / "canary", count).result(timeout=800)
    print(f"DICOMDL_FUZZ_SEED={SEED}: {found}")
    assert (found["seen"], found["canary"]) == ([], False)
    assert not [word for word in found["outcomes"] if word.startswith("ESCAPE")]
