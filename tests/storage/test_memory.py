"""memory: the caches of a process have one budget, and its shares hold the items used last."""

import gc
import importlib
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pytest
from conftest import index_of
from phantoms_multi import write_mosaic
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless

import dicomdl
from dicomdl.datasets.device import decoder
from dicomdl.errors import UsageError
from dicomdl.storage import memory

MIB = 2**20
posix_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def share_of(limit: int, **options: Any) -> memory.Share[bytes]:
    """A share of some bytes of values, whose items have no overhead."""
    return memory.Share("slices", lambda value: len(value) - 400, limit=lambda: limit, **options)


# --- the budget ---------------------------------------------------------------------------------


def test_all_shares_together_are_no_more_than_the_budget() -> None:
    assert sum(memory.SHARES.values()) <= 1000


@pytest.mark.slow
def test_every_share_has_a_cache_and_is_told_of_in_the_module() -> None:
    for module in pkgutil.walk_packages(dicomdl.__path__, "dicomdl."):
        if not module.name.endswith(("__main__", "interop.lightning")):
            importlib.import_module(module.name)
    registered = memory._registry.shares
    assert set(registered) == set(memory.SHARES)
    assert sum(own._limit() for own in registered.values()) <= memory.budget()
    rows = re.findall(r"^    ([A-Za-z -]+?) +(\d+)   ", memory.__doc__ or "", re.MULTILINE)
    assert {name: int(thousandths) for name, thousandths in rows} == dict(memory.SHARES)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, 256 * MIB),
        ("", 256 * MIB),
        ("1000000", 10**6),
        ("512MiB", 512 * MIB),
        (" 1 GiB ", 1024 * MIB),
        ("1.5gib", 1536 * MIB),
        ("2GB", 2 * 10**9),
    ],
)
def test_the_environment_says_the_budget(
    text: str | None, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is None:
        monkeypatch.delenv("DICOMDL_MEMORY", raising=False)
    else:
        monkeypatch.setenv("DICOMDL_MEMORY", text)
    assert memory.budget() == size


@pytest.mark.parametrize("text", ["much", "-1", "0", "12 parsecs", "1e9", "0x10", "MiB", "1,000"])
def test_a_budget_that_is_none_says_what_is_expected(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMDL_MEMORY", text)
    with pytest.raises(
        UsageError, match=r"DICOMDL_MEMORY.*expected a number of bytes.*512MiB"
    ) as e:
        memory.budget()
    assert e.value.found == text


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_have_the_budget_of_the_environment(method: str) -> None:
    if method != "spawn" and not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    # A process of its own: the server of forkserver keeps the environment that it was started with.
    code = (
        "import multiprocessing, sys\n"
        "from dicomdl.storage import memory\n"
        "with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:\n"
        "    print(pool.apply(memory.budget))\n"
    )
    path = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "DICOMDL_MEMORY": "3MiB", "PYTHONPATH": path}
    command = [sys.executable, "-c", code, method]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(ran.stdout) == 3 * MIB


# --- shares -------------------------------------------------------------------------------------


def test_what_was_used_last_is_kept_in_no_more_than_so_many_bytes() -> None:
    made: list[int] = []
    kept = share_of(10)

    def of(size: int) -> None:
        assert kept.of(size, lambda: (made.append(size), bytes(size))[1]) == bytes(size)

    for size in (4, 5, 4, 3, 4, 5):
        of(size)
    # 5 was used before 4 when 3 came, and 3 before 4 when 5 came.
    assert made == [4, 5, 3, 5] and kept.bytes == 9


def test_many_small_items_stay_within_the_share() -> None:
    kept = share_of(1000)
    for number in range(5000):
        kept.keep(number, bytes(7))
        assert kept.bytes <= 1000
    assert len(kept) > 120 and kept.find(4999) == bytes(7)


def test_an_item_larger_than_its_share_is_kept_alone_and_told_of_once() -> None:
    kept = share_of(10)
    kept.keep("a", bytes(4))
    with pytest.warns(
        memory.MemoryWarning, match=r"slices: an item of 100 .* 10 of .* DICOMDL_MEM"
    ):
        kept.keep("b", bytes(100))
    assert kept.find("a") is None and kept.find("b") == bytes(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.keep("c", bytes(200))
        assert (kept.bytes, len(kept)) == (200, 1)
        kept.keep("d", bytes(3))
    assert (kept.bytes, len(kept)) == (3, 1)


@pytest.mark.slow
def test_caches_hold_no_tables_of_indexes_that_are_no_longer_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("DICOMDL_MEMORY", "32MiB")  # one generation
    memory.clear()
    phantoms.write_series(tmp_path / "data", shape=(2, 4, 4))
    held, opened = [], list[Any]()
    for number in range(4):
        index = dicomdl.scan(tmp_path / "data", tmp_path / f"{number}", progress=False)
        patches = dicomdl.PatchDataset(index, size=(1, 2, 2), spacing=(5.0, 1.0, 1.0))
        assert patches[0]["image"].shape == (1, 1, 2, 2)
        assert dicomdl.read_volume(index.stacks[0]).shape == (2, 4, 4)
        opened.append(weakref.ref(index.stacks[0]._generation))
        held += [patches] * (number == 0)
    del index, patches
    gc.collect()
    assert [each() is not None for each in opened] == [True, False, False, True]
    # A data set that is still used reads on, and what it reads is cached again.
    assert held[0][0]["image"].shape == (1, 1, 2, 2)
    assert memory.report()["stack readers"] > 0
    memory.clear()


def test_what_make_raises_is_raised_and_nothing_is_kept() -> None:
    kept = share_of(10)
    with pytest.raises(ZeroDivisionError):
        kept.of("a", lambda: bytes(1 // 0))
    assert len(kept) == 0


def test_threads_get_one_value_and_leave_the_bytes_right() -> None:
    kept, found = share_of(50), list[bytes]()

    def run() -> None:
        for number in range(400):
            key = number % 7
            # The last one in the list may be that of another thread.
            value = kept.of(key, lambda key=key: bytes([key]) * 10)  # type: ignore[misc]
            assert value == bytes([key]) * 10
            found.append(value)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1600
    assert kept.bytes == sum(item.size for item in kept._items.values()) <= 50


def test_values_can_be_made_by_one_thread_at_a_time() -> None:
    kept, at_once, most = share_of(10, one_at_a_time=True), threading.Semaphore(1), list[bool]()
    begin = threading.Barrier(4)

    def make() -> bytes:
        most.append(at_once.acquire(blocking=False))
        at_once.release()
        return b"x"

    def run() -> None:
        begin.wait()
        assert kept.of("a", make) == b"x"

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The waiting thread found the item.
    assert most == [True]


def test_bytes_are_those_of_all_that_a_value_holds_once() -> None:
    array = np.zeros(1000)
    assert memory.bytes_in(array) == 8000
    assert 16_000 < memory.bytes_in((array, {"a": [array, bytes(8000)]})) < 16_800
    rescale = dicomdl.Rescale(2.0, 1.0)
    assert memory.bytes_in(rescale) > 48


def test_clear_drops_everything_and_reads_the_environment_anew(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    phantoms.write_series(folder, shape=(3, 8, 8), transfer_syntax=JPEGLSLossless)
    dataset = dicomdl.PatchDataset(index_of(folder), (3, 4, 4), sampler="grid")
    assert dataset[0]["image"].shape[1:] == (3, 4, 4)
    decided = memory.decisions()
    decided["a"] = "b"
    assert memory.report()["slices"] > 3 * 8 * 8 and memory.budget() == 256 * MIB
    monkeypatch.setenv("DICOMDL_MEMORY", "1MiB")
    memory.clear()
    assert not any(memory.report().values()) and not decided and memory.budget() == MIB


def test_clear_makes_device_decoders_try_again_what_was_distrusted() -> None:
    distrusted: dict[Any, str] = decoder._distrusted
    distrusted["a kind"] = "its values differ"
    memory.clear()
    assert not distrusted


# --- processes ----------------------------------------------------------------------------------


@posix_only
def test_a_fork_in_the_midst_of_a_locked_region_finds_free_locks_and_its_items() -> None:
    kept = memory._registry.shares.get("header tables") or memory.share(
        "header tables", one_at_a_time=True
    )
    kept.keep("a", bytes(1000))
    holds, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        assert kept._making is not None
        with kept._lock, kept._making:
            # The state after an interruption between the item and the count of bytes.
            kept.bytes += 10**9
            holds.set()
            may_go.wait()
            kept.bytes -= 10**9

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = multiprocessing.get_context("fork").Process(target=_use, args=(kept,))
            child.start()
        child.join(120)
        assert child.exitcode == 0
    finally:
        may_go.set()
        thread.join()
        child.kill()
    assert kept.find("a") == bytes(1000)


def _use(kept: memory.Share[Any]) -> None:
    assert kept.find("a") == bytes(1000)
    assert kept.of("b", lambda: b"made here") == b"made here"
    assert kept.bytes == sum(item.size for item in kept._items.values())
    memory.clear()
    assert kept.bytes == 0


# --- every path ---------------------------------------------------------------------------------


def table_of_its_own(dataset: Dataset, z: int) -> None:
    """A Modality LUT instead of the rescale, a different one in each slice."""
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.add_new("LUTData", "OW", (np.arange(4096, dtype="<u2") + z).tobytes())
    table.ModalityLUTType = "US"
    dataset.ModalityLUTSequence = [table]


def labels(stack: dicomdl.Stack) -> np.ndarray:
    found = np.zeros(stack.shape, np.uint8)
    found[::2] = 1
    return found


def patches(index: dicomdl.Index, sampler: Any) -> Iterator[Any]:
    dataset = dicomdl.PatchDataset(
        index, (2, 8, 8), sampler=sampler, labels=labels, irregular="accept"
    )
    return (dataset[row] for row in range(0, len(dataset), 3))


@pytest.mark.slow
def test_no_share_ever_holds_more_than_fits_but_for_one_item(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMDL_MEMORY", "96KiB")
    most: dict[str, int] = {}
    keep = memory.Share.keep

    def watched(self: memory.Share[Any], key: Any, value: Any) -> Any:
        found = keep(self, key, value)
        assert self.bytes == sum(item.size for item in self._items.values())
        assert self.bytes <= self._limit() or len(self) == 1, self.name
        most[self.name] = max(most.get(self.name, 0), self.bytes)
        return found

    monkeypatch.setattr(memory.Share, "keep", watched)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", memory.MemoryWarning)
        read_every_way(folder)
    assert set(most) >= {
        "slices",
        "label maps",
        "inflated files",
        "label voxels",
        "mosaic bands",
        "stack readers",
        "header tables",
        "body voxels",
        "generations",
        "lookup tables",
        "intensity recipes",
    }
    largest = max(
        item.size for own in memory._registry.shares.values() for item in own._items.values()
    )
    oversize = [own for own in memory._registry.shares.values() if own.bytes > own._limit()]
    assert sum(memory.report().values()) <= memory.budget() + len(oversize) * largest


def read_every_way(folder: Path) -> None:
    """Slices, labels, mosaics, deflated files and tables of many stacks."""
    for number in range(5):
        options = {"seed": number, "shape": (6, 24, 24)}
        phantoms.write_series(folder / f"c{number}", transfer_syntax=JPEGLSLossless, **options)
        phantoms.write_series(
            folder / f"t{number}", slope=None, intercept=None, edit=table_of_its_own, **options
        )
        phantoms.write_multiframe(
            folder / f"d{number}", transfer_syntax=DeflatedExplicitVRLittleEndian, **options
        )
        write_mosaic(folder / f"m{number}", transfer_syntax=RLELossless, origin=(number, 0, 0))
    index = index_of(folder)
    for sampler in ("grid", dicomdl.Foreground(), dicomdl.Balanced()):
        for sample in patches(index, sampler):
            assert sample["image"].shape[-2:] == (8, 8)
    for stack in index.stacks:
        for source in stack.sources:
            dicomdl.read_frame(source)
