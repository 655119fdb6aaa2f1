"""cache: a hit is what would have been computed, whatever happens to files, disks and processes; everything else is a miss."""

import contextlib
import copy
import errno
import functools
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dicomdl.errors import FileChanged, MissingExtra, StorageError, UsageError
from dicomdl.storage import locks
from dicomdl.storage.cache import disk as disk_module
from dicomdl.storage.cache import entries
from dicomdl.storage.cache import folder as cachefolder
from dicomdl.storage.cache import keys as keys_module
from dicomdl.storage.cache import layout as layout_module
from dicomdl.storage.cache import ring as arena
from dicomdl.storage.cache import stored as stored_module
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.entries import Arrays, Entry
from dicomdl.storage.cache.folder import clear, show, verify
from dicomdl.storage.cache.keys import FileState, Key, stack_key
from dicomdl.storage.cache.memory import MemoryCache
from dicomdl.storage.cache.options import as_cache
from dicomdl.storage.cache.stats import CacheWarning

posix_only = pytest.mark.skipif(
    os.name != "posix", reason="locks, modes and signals are those of POSIX"
)
FORMATS = ("raw", "blosc2")
START_METHODS = [
    name
    for name in ("fork", "spawn", "forkserver")
    if name in multiprocessing.get_all_start_methods()
]
fork = (
    multiprocessing.get_context("fork")
    if "fork" in START_METHODS
    else multiprocessing.get_context()
)


def key_of(number: int) -> Key:
    return stack_key([], {"number": str(number)})


def content(number: int, shape: tuple[int, ...] = (3, 40, 50)) -> Arrays:
    """Values and a mask that are a function of the key: whoever reads can tell whether they are right."""
    rng = np.random.default_rng(number)
    return Arrays(rng.integers(-2000, 3000, shape, dtype=np.int16), rng.random(shape) < 0.2)


def never() -> Arrays:
    raise AssertionError("this entry should be there")


class Maker:
    """Makes the content of a number, and counts how often."""

    def __init__(self, number: int = 0, **shape: Any) -> None:
        self.number, self.shape, self.calls = number, shape, 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return content(self.number, **self.shape)


def assert_content(entry: Entry, number: int, **shape: Any) -> None:
    values, mask = content(number, **shape)
    assert np.array_equal(entry.part(), values)
    found = entry.mask_part()
    assert found is not None and np.array_equal(found, mask)


def entry_file(folder: Path, key: Key) -> Path:
    return folder / f"{key.digest}.entry"


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "MRN-123" / "study"
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.dcm" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    return paths


def states(paths: list[Path], frames: tuple[int, ...] = (1,)) -> list[FileState]:
    return [FileState.of(path, f"1.2.840.{number}", frames) for number, path in enumerate(paths)]


OPTIONS = {"intensity": "Rescale()", "dtype": "int16"}


def test_a_key_is_the_same_in_any_order_of_the_options_and_in_another_process(
    sources: list[Path],
) -> None:
    key = stack_key(states(sources), OPTIONS)
    assert key == stack_key(states(sources), dict(reversed(OPTIONS.items())))
    program = (
        "import sys\nfrom dicomdl.storage.cache.keys import FileState, stack_key\n"
        "files = [FileState.of(path, f'1.2.840.{number}') for number, path in enumerate(sys.argv[1:])]\n"
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
    time.sleep(0.02)  # a change time is as fine as the kernel's clock
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
        stack_key([FileState.of(path, "1.2.3") for path in sources], OPTIONS),
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
        FileState.of(sources[0])
    assert stack_key(files, OPTIONS)
    with pytest.raises(ValueError, match="cannot be read"):
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


# --- entries ------------------------------------------------------------------------------------------------------

KINDS = ("raw", "blosc2", "raw on a network", "blosc2 on a network", "memory")


@contextlib.contextmanager
def cache_of(kind: str, folder: Path, max_bytes: int = 2**24) -> Iterator[DiskCache | MemoryCache]:
    if kind == "memory":
        yield MemoryCache(max_bytes)
        return
    may_be_mapped = cachefolder.may_be_mapped
    try:
        if "network" in kind:
            cachefolder.may_be_mapped = lambda folder: False
        yield DiskCache(
            folder / kind.replace(" ", "-"), format=kind.split()[0], max_bytes=max_bytes
        )  # type: ignore[arg-type]
    finally:
        cachefolder.may_be_mapped = may_be_mapped


shapes = st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 70)) | st.tuples(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(3, 4)
)
bounds = st.none() | st.integers(-80, 80)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_part_of_an_entry_is_that_part_of_the_array(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    shape = data.draw(shapes)
    dtype = data.draw(st.sampled_from(["int16", "int32", "uint8", "float32", "uint16"]))
    values = data.draw(
        npst.arrays(
            dtype,
            shape,
            elements=npst.from_dtype(np.dtype(dtype), allow_nan=False),
            fill=st.nothing(),
        )
        | st.just(np.random.default_rng(len(shape)).integers(0, 255, shape).astype(dtype))
    )
    mask = data.draw(st.none() | st.just(np.random.default_rng(1).random(shape[:3]) < 0.3))
    where = tuple(
        slice(*data.draw(st.tuples(bounds, bounds))) for _ in range(data.draw(st.integers(0, 3)))
    )
    with cache_of(kind, tmp_path) as made:
        key = Key(os.urandom(32).hex())
        for expected in ("made", "kept"):
            entry = made.get(key, (lambda: Arrays(values, mask)) if expected == "made" else never)
            assert (entry.shape, entry.dtype, entry.has_mask) == (
                values.shape,
                values.dtype,
                mask is not None,
            )
            part, masked = entry.part(*where), entry.mask_part(*where)
            assert part.dtype == values.dtype and part.flags.writeable and part.flags.c_contiguous
            assert np.array_equal(part, values[where])
            assert (
                masked is None
                if mask is None
                else masked is not None and np.array_equal(masked, mask[where])
            )
            part[...] = 0
            assert np.array_equal(entry.part(), values)


def test_large_entries_with_many_blocks_are_whole(tmp_path: Path) -> None:
    shape = (40, 300, 257)
    for kind in KINDS:
        with cache_of(kind, tmp_path) as made:
            maker = Maker(3, shape=shape)
            for _ in range(2):
                entry = made.get(key_of(3), maker)
                assert_content(entry, 3, shape=shape)
                inner = slice(5, 38), slice(60, 250), slice(31, 255)
                assert np.array_equal(entry.part(*inner), content(3, shape)[0][inner])
            assert maker.calls == 1


def test_parts_have_no_steps_and_three_axes(tmp_path: Path) -> None:
    entry = DiskCache(tmp_path / "c").get(key_of(0), Maker())
    with pytest.raises(UsageError, match="step"):
        entry.part(slice(0, 3, 2))
    with pytest.raises(UsageError, match="at most 3"):
        entry.part(*[slice(None)] * 4)


@pytest.mark.parametrize(
    "arrays",
    [
        Arrays(np.zeros((3, 3), np.int16)),
        Arrays(np.zeros((0, 3, 3), np.int16)),
        Arrays(np.zeros((1, 3, 3), np.float64)),
        Arrays(np.zeros((1, 3, 3), object)),
        Arrays(np.zeros((1, 3, 3), ">i2")),
        Arrays(np.zeros((1, 3, 3, 17), np.uint8)),
        Arrays(np.zeros((1, 3, 3), np.int16), np.zeros((1, 3, 2), bool)),
        Arrays(np.zeros((1, 3, 3), np.int16), np.zeros((1, 3, 3), np.uint8)),
    ],
)
def test_what_a_cache_cannot_hold_is_a_usage_error(arrays: Arrays, tmp_path: Path) -> None:
    for kind in ("raw", "memory"):
        with cache_of(kind, tmp_path) as made, pytest.raises(UsageError, match="found"):
            made.get(key_of(0), lambda: arrays)


def test_an_array_that_is_not_contiguous_is_kept_as_its_values(tmp_path: Path) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(6, 5, 4).T
    for kind in KINDS:
        with cache_of(kind, tmp_path) as made:
            made.get(key_of(0), lambda: Arrays(values, values > 7))
            entry = made.get(key_of(0), never)
            assert np.array_equal(entry.part(), values) and np.array_equal(
                entry.mask_part(), values > 7
            )


@pytest.mark.parametrize("kind", KINDS)
def test_what_make_raises_reaches_the_caller_and_nothing_is_kept(kind: str, tmp_path: Path) -> None:
    def fail() -> Arrays:
        raise FileChanged("gone")

    with cache_of(kind, tmp_path) as made:
        for _ in range(2):
            with pytest.raises(FileChanged, match="gone"):
                made.get(key_of(0), fail)
        assert_content(made.get(key_of(0), Maker()), 0)
        assert_content(made.get(key_of(0), never), 0)


# --- options ------------------------------------------------------------------------------------------------------


def test_an_option_becomes_a_cache(tmp_path: Path, cache_folder: Path) -> None:
    assert as_cache(None) is None
    assert isinstance(as_cache("memory"), MemoryCache)
    assert as_cache(2**20).max_bytes == 2**20  # type: ignore[union-attr]
    assert as_cache("disk").folder == str(cache_folder / "arrays")  # type: ignore[union-attr]
    assert as_cache(tmp_path / "c").folder == str(tmp_path / "c")  # type: ignore[union-attr]
    own = MemoryCache(1000)
    assert as_cache(own) is own


@pytest.mark.parametrize("option", ["tape", True, 1.5, 0, -1])
def test_another_option_is_a_usage_error(option: Any) -> None:
    with pytest.raises(UsageError, match="expected"):
        as_cache(option)


def test_a_format_that_is_unknown_or_not_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="format"):
        DiskCache(tmp_path / "c", format="zip")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingExtra, match="pip install"):
        DiskCache(tmp_path / "c", format="blosc2")


def test_without_libdeflate_the_checksums_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = layout_module.checksum_of()
    layout_module.checksum_of.cache_clear()
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    slow = layout_module.checksum_of()
    layout_module.checksum_of.cache_clear()
    data = np.random.default_rng(0).integers(0, 255, 70001).astype(np.uint8)
    assert fast(data) == slow(data)


def test_caches_pickle_small_and_a_pickled_memory_cache_is_empty(tmp_path: Path) -> None:
    disk, memory = (
        DiskCache(tmp_path / "c", max_bytes=10**6, format="blosc2", strict=True),
        MemoryCache(10**6, strict=True),
    )
    for made in (disk, memory):
        made.get(key_of(0), Maker())
        data = pickle.dumps(made)
        assert len(data) < 600
        again = pickle.loads(data)  # our own, a line above
        assert repr(again) == repr(made)
        assert again.strict is True
    maker = Maker()
    assert_content(again.get(key_of(0), maker), 0)
    assert maker.calls == 1
    assert copy.deepcopy(memory) is memory


@posix_only
def test_a_disk_cache_has_nothing_open_until_it_is_used(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    made = DiskCache(tmp_path / "c")
    assert not before or len(os.listdir("/proc/self/fd")) == before
    for number in range(disk_module.OPEN_ENTRIES + 20):
        made.get(key_of(number), functools.partial(content, number, (1, 2, 2)))
        made.get(key_of(number), never)
    assert not before or len(os.listdir("/proc/self/fd")) <= before + disk_module.OPEN_ENTRIES
    assert_content(made.get(key_of(0), never), 0, shape=(1, 2, 2))


def test_a_block_is_verified_once_a_process_even_when_its_entry_was_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DiskCache(tmp_path / "c").get(key_of(0), Maker(shape=(4, 300, 300)))
    checked: list[int] = []
    function = layout_module.checksum_of()
    monkeypatch.setattr(
        stored_module,
        "checksum_of",
        lambda: lambda data: checked.append(len(data)) or function(data),
    )
    made = DiskCache(tmp_path / "c")
    made.get(key_of(0), never).part(slice(0, 1), slice(0, 5))
    assert len(checked) == 1
    monkeypatch.setattr(disk_module, "OPEN_ENTRIES", 1)
    for number in (0, 1, 0):
        made.get(key_of(number), functools.partial(content, number))
        made.get(key_of(number), never).part(slice(0, 1), slice(0, 5))
    assert sum(1 for length in checked if length > 50_000) == 1
    entry = made.get(key_of(0), never)
    entry.part()
    before = len(checked)
    entry.part()
    assert len(checked) == before


# --- the folder ---------------------------------------------------------------------------------------------------


@posix_only
def test_entries_are_their_owners_only_and_another_process_finds_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        DiskCache(tmp_path / "deep" / "c").get(key_of(0), Maker())
    finally:
        os.umask(before)
    folder = tmp_path / "deep" / "c"
    assert names(folder) == [f"{key_of(0).digest}.entry"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry_file(folder, key_of(0)).stat().st_mode) == 0o600
    moved = tmp_path / "moved"
    os.rename(folder, moved)
    assert_content(DiskCache(moved).get(key_of(0), never), 0)


@posix_only
def test_a_folder_that_others_can_write_to_or_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(StorageError, match="everybody can write"):
        DiskCache(tmp_path / "open")
    (tmp_path / "others").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StorageError, match="another user"):
        DiskCache(tmp_path / "others")


def test_folder_reports_are_for_people_and_machines_and_clear_leaves_what_is_not_ours(
    tmp_path: Path,
) -> None:
    made = DiskCache(tmp_path / "c")
    for number in range(3):
        made.get(key_of(number), functools.partial(content, number))
    (tmp_path / "c" / "notes.txt").write_text("mine")
    damaged = entry_file(tmp_path / "c", key_of(1))
    flip(damaged, 5000, 3)
    report = verify(tmp_path / "c")
    assert (report.entries, report.foreign, report.damaged) == (3, 1, (damaged.name,))
    assert report.size_bytes == sum(
        path.stat().st_size for path in (tmp_path / "c").glob("*.entry")
    )
    assert "1 damaged" in str(report) and report.as_dict()["damaged"] == [damaged.name]
    assert show(tmp_path / "c").verified is False
    assert clear(tmp_path / "c").removed == 3
    assert names(tmp_path / "c") == ["notes.txt"]
    assert "0 entries" in str(show(tmp_path / "c"))
    with pytest.raises(StorageError, match="no cache folder"):
        show(tmp_path / "absent")
    maker = Maker()
    made._opened.clear()
    assert_content(made.get(key_of(0), maker), 0)
    assert maker.calls == 1


# --- damage -------------------------------------------------------------------------------------------------------


def flip(path: Path, byte: int, bit: int) -> None:
    """As a disk does it: the file's times stay."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ (1 << bit)]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def assert_made_again(folder: Path, number: int, **shape: Any) -> None:
    """A new process's cache gives the right values, has made them once, says so, and has mended the entry."""
    made, maker = DiskCache(folder), Maker(number, **shape)
    assert_content(made.get(key_of(number), maker), number, **shape)
    assert (maker.calls, made.stats().damaged, made.stats().made) == (1, 1, 1)
    assert_content(DiskCache(folder).get(key_of(number), never), number, **shape)


@pytest.mark.parametrize("format", FORMATS)
def test_every_flipped_bit_is_found_and_made_again(format: Any, tmp_path: Path) -> None:
    DiskCache(tmp_path / "c", format=format).get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    whole = path.read_bytes()
    rng = random.Random(f"flips of {format}")
    bytes_of_header = [(byte, rng.randrange(8)) for byte in range(0, 140)]
    for byte, bit in [
        *bytes_of_header,
        *((rng.randrange(len(whole)), rng.randrange(8)) for _ in range(150)),
    ]:
        path.write_bytes(whole)
        flip(path, byte, bit)
        assert_made_again(tmp_path / "c", 0)


@pytest.mark.parametrize("format", FORMATS)
def test_every_truncation_and_every_tail_is_found(format: Any, tmp_path: Path) -> None:
    DiskCache(tmp_path / "c", format=format).get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    whole = path.read_bytes()
    rng = random.Random(1)
    for length in [
        0,
        1,
        127,
        128,
        4095,
        4096,
        len(whole) - 1,
        *(rng.randrange(len(whole)) for _ in range(40)),
    ]:
        path.write_bytes(whole[:length])
        assert_made_again(tmp_path / "c", 0)
    path.write_bytes(whole + b"\0")
    assert_made_again(tmp_path / "c", 0)
    path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))  # what a power cut leaves
    assert_made_again(tmp_path / "c", 0)


def test_the_entry_of_another_key_is_not_taken(tmp_path: Path) -> None:
    made = DiskCache(tmp_path / "c")
    for number in (0, 1):
        made.get(key_of(number), functools.partial(content, number))
    a, b = (entry_file(tmp_path / "c", key_of(number)) for number in (0, 1))
    for source, target in ((a, tmp_path / "aside"), (b, a), (tmp_path / "aside", b)):
        os.replace(source, target)
    for number in (0, 1):
        assert_made_again(tmp_path / "c", number)


def test_another_version_byte_order_or_format_is_a_miss(tmp_path: Path) -> None:
    DiskCache(tmp_path / "c").get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    whole = path.read_bytes()
    for offset, new in (
        (8, struct.pack("<I", 0)),
        (8, struct.pack("<I", 2)),
        (56, b">i2\0"),
        (56, b"|O8\0"),
        (64, b"zfp\0"),
        (72, b"\x09"),
    ):
        changed = bytearray(whole)
        changed[offset : offset + len(new)] = new
        sealed(changed)
        path.write_bytes(changed)
        assert_made_again(tmp_path / "c", 0)


def sealed(header: bytearray) -> None:
    """Give a changed header the checksum that belongs to it."""
    import zlib

    header[12:16] = bytes(4)
    header[12:16] = struct.pack("<I", zlib.crc32(header[:4096]))


def test_headers_with_true_checksums_and_absurd_sizes_are_misses_that_allocate_nothing(
    tmp_path: Path,
) -> None:
    DiskCache(tmp_path / "c").get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    whole = path.read_bytes()
    rng = random.Random(2)
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(72, 128) // 4 * 4
            changed[at : at + 4] = struct.pack(
                "<I", rng.choice([0, 1, 2, 40, 50, 2**16, 2**31 - 1, 2**32 - 1])
            )
        sealed(changed)
        path.write_bytes(changed)
        made = DiskCache(tmp_path / "c")
        assert (
            made._find(key_of(0).digest) is None or made.get(key_of(0), never).shape
        )  # whole by chance, or none


def test_whatever_has_an_entrys_name_is_a_miss_and_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    DiskCache(folder)
    path = entry_file(folder, key_of(0))
    outside = tmp_path / "outside"
    DiskCache(tmp_path / "other").get(key_of(0), Maker())
    os.rename(entry_file(tmp_path / "other", key_of(0)), outside)
    before = outside.read_bytes()

    def pickled() -> None:
        path.write_bytes(pickle.dumps(content(0)))

    def npy() -> None:
        with open(path, "wb") as file:
            np.save(file, np.array([{}], object), allow_pickle=True)

    for put in (
        lambda: path.symlink_to(outside),
        lambda: os.mkfifo(path),
        lambda: path.write_bytes(layout_module.MAGIC * 999),
        pickled,
        npy,
    ):
        put()
        assert_made_again(folder, 0)
        path.unlink()
    assert outside.read_bytes() == before
    path.mkdir()
    with pytest.warns(CacheWarning, match="cannot store"):
        assert_content(DiskCache(folder).get(key_of(0), Maker()), 0)


@posix_only
def test_hostile_files_run_no_code(tmp_path: Path) -> None:
    DiskCache(tmp_path / "c").get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    whole = path.read_bytes()
    bad = (
        "pickle.find_class",
        "os.system",
        "os.exec",
        "subprocess.Popen",
        "exec",
        "compile",
        "marshal.loads",
        "import",
    )

    def child() -> None:
        rng = random.Random(3)
        armed = True

        def hook(event: str, _: Any) -> None:
            if armed and event in bad:
                os._exit(1)

        assert_content(DiskCache(tmp_path / "c").get(key_of(0), never), 0)
        DiskCache(tmp_path / "c").get(key_of(1), Maker(1))  # imports what locks need
        sys.addaudithook(hook)
        for _ in range(150):
            data = bytearray(rng.choice([whole, pickle.dumps(print), rng.randbytes(5000)]))
            for _ in range(rng.randrange(20)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(data)
            assert_content(
                DiskCache(tmp_path / "c").get(key_of(0), functools.partial(content, 0)), 0
            )

    assert in_a_fork(child) == 0


def test_an_entry_that_is_damaged_while_it_is_open_is_made_again(tmp_path: Path) -> None:
    for kind in KINDS[:4]:
        with cache_of(kind, tmp_path) as made:
            maker = Maker(0, shape=(4, 300, 300))
            made.get(key_of(0), maker)
            entry = made.get(key_of(0), maker)
            path = entry_file(Path(made.folder), key_of(0))  # type: ignore[union-attr]
            flip(path, path.stat().st_size // 3, 0)
            assert_content(entry, 0, shape=(4, 300, 300))
            assert (maker.calls, made.stats().damaged) == (2, 1)
            assert_content(made.get(key_of(0), never), 0, shape=(4, 300, 300))


def test_an_entry_whose_damage_comes_back_each_time_is_delivered_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, maker = DiskCache(tmp_path / "c"), Maker()
    made.get(key_of(0), maker)
    entry = made.get(key_of(0), maker)

    def lost(*_: Any) -> Any:
        raise entries.Lost

    monkeypatch.setattr(stored_module.StoredEntry, "_block", lost)
    monkeypatch.setattr(
        made,
        "_fill",
        lambda *_: (
            made._find(key_of(0).digest) or cachefolder.open_entry(again, key_of(0).digest, True)
        ),
    )
    again = str(tmp_path / "again")
    shutil.copy(entry_file(tmp_path / "c", key_of(0)), again)
    assert_content(entry, 0)
    assert maker.calls == 2


# --- kills --------------------------------------------------------------------------------------------------------


def in_a_fork(task: Callable[[], object]) -> int:
    """The exit code of a child that runs the task; negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            task()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fill(folder: Path, seed: int, numbers: int, log: Path | None = None, **shape: Any) -> None:
    """Ask for all entries in an order of its own; what is made is written down."""
    order = list(range(numbers))
    random.Random(seed).shuffle(order)
    made = DiskCache(folder)

    def make(number: int) -> Arrays:
        if log is not None:
            with open(log, "ab", buffering=0) as file:
                file.write(bytes([number]))
        return content(number, **shape)

    for number in order:
        assert_content(made.get(key_of(number), functools.partial(make, number)), number, **shape)


def start(task: Callable[..., object], *arguments: Any) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            task(*arguments)
            code = 0
        os._exit(code)
    return child


@pytest.mark.slow
@posix_only
def test_killed_writers_leave_no_wrong_entry_and_no_rubbish(tmp_path: Path) -> None:
    rng = random.Random(4)
    folder, shape = tmp_path / "c", (4, 200, 200)
    for kill in range(20):
        children = [
            start(functools.partial(fill, shape=shape), folder, kill * 7 + number, 8)
            for number in range(3)
        ]
        time.sleep(rng.random() * 0.06)
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        made = DiskCache(folder)
        assert all(name.endswith(".entry") for name in names(folder)), names(folder)
        assert verify(folder).damaged == ()
        for number in range(8):
            if entry_file(folder, key_of(number)).exists():
                assert_content(made.get(key_of(number), never), number, shape=shape)
        clear(folder)


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize("call", ["open", "write", "replace", "unlink", "close"])
@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_system_call_leaves_the_entry_whole_or_absent(
    call: str, which: int, after: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    DiskCache(folder)

    def child() -> None:
        made, original, count = DiskCache(folder), getattr(os, call), 0

        def dies(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == which and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **options)
            if count == which and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(os, call, dies)
        made.get(key_of(0), Maker())

    in_a_fork(child)
    made, maker = DiskCache(folder), Maker()
    assert [name for name in names(folder) if not name.endswith(".entry")] == []
    assert_content(made.get(key_of(0), maker), 0)
    assert maker.calls <= 1 and made.stats().damaged == 0
    assert names(folder) == [f"{key_of(0).digest}.entry"]


def test_the_files_of_a_writer_that_lives_are_left_alone_and_those_of_a_dead_one_removed(
    tmp_path: Path,
) -> None:
    folder, digest = tmp_path / "c", key_of(0).digest
    DiskCache(folder)
    temporary = folder / f"{digest}.{'0' * 12}.tmp"
    temporary.write_bytes(b"half an entry")
    with locks.alone(cachefolder.lock_path(str(folder), digest)) as held:
        assert held
        DiskCache(folder)
        assert names(folder) == [temporary.name, f"{digest}.lock"]
    DiskCache(folder)
    assert names(folder) == []


# --- once only ----------------------------------------------------------------------------------------------------


@posix_only
def test_many_processes_compute_each_entry_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = [start(fill, tmp_path / "c", seed, 16, log) for seed in range(8)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert sorted(log.read_bytes()) == list(range(16))
    assert len(names(tmp_path / "c")) == 16


@posix_only
def test_with_kills_no_more_is_computed_than_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = [
        start(functools.partial(fill, shape=(4, 300, 300)), tmp_path / "c", seed, 12, log)
        for seed in range(8)
    ]
    rng = random.Random(5)
    for child in children[:4]:
        time.sleep(rng.random() * 0.05)
        os.kill(child, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes[4:] == [0] * 4
    assert set(log.read_bytes()) == set(range(12))
    assert len(log.read_bytes()) <= 12 + 4


@posix_only
def test_threads_compute_each_entry_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    for kind in ("raw", "memory"):
        with cache_of(kind, tmp_path) as made:
            maker = Maker(1, shape=(8, 200, 200))
            ask_for_it = functools.partial(made.get, key_of(1), maker)
            with ThreadPoolExecutor(8) as threads:
                for running in [threads.submit(ask_for_it) for _ in range(32)]:
                    assert_content(running.result(), 1, shape=(8, 200, 200))
            assert maker.calls == 1


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOLCK) -> None:
    """What a network file system without locks does."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)


@posix_only
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EACCES])
def test_without_locks_the_results_are_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks(monkeypatch, number)
    log = tmp_path / "log"
    children = [start(fill, tmp_path / "c", seed, 8, log) for seed in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert set(log.read_bytes()) == set(range(8))
    assert verify(tmp_path / "c").damaged == ()
    assert show(tmp_path / "c").leftovers == 0


def test_without_locks_only_files_a_day_old_are_orphans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "c"
    DiskCache(folder)
    old, new = (folder / f"{key_of(number).digest}.{'0' * 12}.tmp" for number in (0, 1))
    for path in (old, new):
        path.write_bytes(b"half an entry")
    os.utime(old, (1000, 1000))
    refuse_locks(monkeypatch)
    DiskCache(folder)
    assert names(folder) == [new.name]


def test_a_process_that_waits_too_long_computes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_WAIT_S", 0.1)
    made = DiskCache(tmp_path / "c")
    with locks.alone(cachefolder.lock_path(str(tmp_path / "c"), key_of(0).digest)):
        assert_content(made.get(key_of(0), Maker()), 0)
    assert_content(made.get(key_of(0), never), 0)


# --- eviction -----------------------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    DiskCache(folder).get(key_of(0), Maker())
    size = entry_file(folder, key_of(0)).stat().st_size
    made = DiskCache(folder, max_bytes=int(5.4 * size))
    for number in range(5):
        made.get(key_of(number), functools.partial(content, number))
    for number in range(5):
        os.utime(entry_file(folder, key_of(number)), (1000 * (number + 1),) * 2)
    fresh = DiskCache(folder, max_bytes=int(5.4 * size))
    fresh.get(key_of(0), never)  # used: now it is the youngest
    fresh.get(key_of(5), functools.partial(content, 5))
    left = {number for number in range(6) if entry_file(folder, key_of(number)).exists()}
    assert left == {0, 2, 3, 4, 5}
    assert fresh.stats().evicted == 1


@posix_only
def test_a_folder_stays_within_its_bytes_while_many_write_and_evicted_entries_stay_readable(
    tmp_path: Path,
) -> None:
    folder, shape = tmp_path / "c", (2, 100, 100)
    probe = DiskCache(tmp_path / "probe")
    probe.get(key_of(0), Maker(shape=shape))
    size = entry_file(tmp_path / "probe", key_of(0)).stat().st_size
    limit = 10 * size

    def writer(seed: int) -> None:
        made = DiskCache(folder, max_bytes=limit)
        rng, held = random.Random(seed), []
        for _ in range(60):
            number = rng.randrange(40)
            held.append(
                (number, made.get(key_of(number), functools.partial(content, number, shape)))
            )
            old, entry = rng.choice(held)
            assert_content(entry, old, shape=shape)

    children = [start(writer, seed) for seed in range(4)]
    most = 0
    while children:
        most = max(most, show(folder).size_bytes if folder.is_dir() else 0)
        done, status = os.waitpid(-1, os.WNOHANG)
        if done:
            children.remove(done)
            assert status == 0
        time.sleep(0.002)
    assert most <= limit + 4 * size  # an entry each, at the worst
    assert verify(folder).damaged == ()


def test_an_entry_larger_than_the_cache_is_delivered_and_not_kept(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("raw", "memory"):
            with cache_of(kind, tmp_path, max_bytes=5000) as made:
                maker = Maker()
                for _ in range(2):
                    assert_content(made.get(key_of(0), maker), 0)
                assert maker.calls == 2


def test_a_process_lets_go_of_files_that_others_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = DiskCache(tmp_path / "c")
    for number in (0, 1):
        made.get(key_of(number), functools.partial(content, number))
        made.get(key_of(number), never)
    clear(tmp_path / "c")
    monkeypatch.setattr(disk_module, "TOUCH_S", -1.0)
    maker = Maker()
    assert_content(made.get(key_of(0), maker), 0)
    assert maker.calls == 1
    assert key_of(1).digest not in made._opened


def test_using_an_entry_marks_its_file_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DiskCache(tmp_path / "c").get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    os.utime(path, (1000, 1000))
    made = DiskCache(tmp_path / "c")
    made.get(key_of(0), never)
    assert path.stat().st_mtime > 1e9
    os.utime(path, (1000, 1000))
    made.get(key_of(0), never)
    assert path.stat().st_mtime == 1000
    monkeypatch.setattr(disk_module, "TOUCH_S", -1.0)
    made.get(key_of(0), never)
    assert path.stat().st_mtime > 1e9


# --- disks that are full or closed --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["write", "replace", "open"])
def test_a_disk_that_refuses_costs_the_entry_not_the_value(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, original = DiskCache(tmp_path / "c"), getattr(os, call)
    for which in range(1, 5):
        count = 0

        def refuses(*arguments: Any, which: int = which, **options: Any) -> Any:
            nonlocal count
            if call != "open" or arguments[1] & os.O_CREAT:
                count += 1
                if count >= which:
                    raise OSError(number, os.strerror(number))
            return original(*arguments, **options)

        monkeypatch.setattr(os, call, refuses)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert_content(made.get(key_of(which), functools.partial(content, which)), which)
        monkeypatch.undo()
        assert all(name.endswith(".entry") for name in names(tmp_path / "c"))
        if which == 1:
            assert [one.category for one in told] == [CacheWarning]
            assert os.strerror(number) in str(told[0].message)
        else:
            assert told == []
    assert made.stats().failed >= 1
    maker = Maker(9)
    made.get(key_of(9), maker)
    assert_content(made.get(key_of(9), never), 9)  # the disk has room again


@posix_only
def test_a_limit_of_file_size_is_a_full_disk(tmp_path: Path) -> None:
    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        made = DiskCache(tmp_path / "c")
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for number in range(3):
                assert_content(made.get(key_of(number), functools.partial(content, number)), number)
        assert len(told) == 1 and made.stats().failed == 3
        assert names(tmp_path / "c") == []
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        made.get(key_of(0), Maker())
        assert_content(made.get(key_of(0), never), 0)

    assert in_a_fork(child) == 0


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.warns(CacheWarning) as told:
        made = DiskCache(tmp_path / "file" / "c")
        for number in range(2):
            assert_content(made.get(key_of(number), functools.partial(content, number)), number)
    assert len(told) == 1
    (tmp_path / "file").unlink()
    made.get(key_of(0), Maker())
    assert_content(made.get(key_of(0), never), 0)


def test_a_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    made = DiskCache(tmp_path / "c")
    shutil.rmtree(tmp_path / "c")
    made.get(key_of(0), Maker())
    assert_content(made.get(key_of(0), never), 0)


# --- memory -------------------------------------------------------------------------------------------------------


def ask(made: DiskCache | MemoryCache, numbers: list[int], results: Any) -> None:
    """What a worker does: the digest of what it reads, and how much of it it had to make."""
    sums = []
    for number in numbers:
        entry = made.get(key_of(number), functools.partial(content, number))
        masked = entry.mask_part()
        assert masked is not None
        sums.append((number, int(entry.part().astype(np.int64).sum()), int(masked.sum())))
    results.put((sums, made.stats().made))


@posix_only
@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("kind", ["raw", "memory"])
def test_workers_of_every_start_method_share_a_cache(
    method: str, kind: str, tmp_path: Path
) -> None:
    started = multiprocessing.get_context(method)
    results = started.SimpleQueue()
    with cache_of(kind, tmp_path) as made:
        made.get(key_of(0), functools.partial(content, 0))
        workers = [
            started.Process(target=ask, args=(made, order, results))
            for order in ([0, 1, 2, 3], [3, 2, 1, 0])
        ]
        for worker in workers:
            worker.start()
        told = [results.get() for _ in workers]
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0]
        truth = [
            (n, int(content(n)[0].astype(np.int64).sum()), int(content(n)[1].sum()))
            for n in range(4)
        ]  # type: ignore[union-attr]
        assert all(sorted(sums) == truth for sums, _ in told)
        assert sum(number for _, number in told) == 3
        for number in range(4):
            assert_content(made.get(key_of(number), never), number)


@pytest.mark.slow
@posix_only
def test_the_workers_of_a_data_loader_share_a_memory_cache(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    made = MemoryCache(2**22)
    log = tmp_path / "log"

    class Stacks(torch.utils.data.Dataset):  # type: ignore[misc,name-defined]
        def __len__(self) -> int:
            return 24

        def __getitem__(self, number: int) -> Any:
            def make() -> Arrays:
                with open(log, "ab", buffering=0) as file:
                    file.write(b"x")
                return content(number % 6)

            return made.get(key_of(number % 6), make).part(slice(0, 1), slice(0, 4), slice(0, 4))

    for _ in range(2):
        loader = torch.utils.data.DataLoader(
            Stacks(), batch_size=2, num_workers=2, multiprocessing_context="fork"
        )
        found = np.concatenate([batch.numpy() for batch in loader])
        assert all(
            np.array_equal(found[number], content(number % 6)[0][:1, :4, :4])
            for number in range(24)
        )
    assert log.read_bytes() == b"x" * 6


def test_new_entries_take_the_place_of_the_oldest_and_what_was_got_is_still_right() -> None:
    shape = (2, 100, 100)
    made = MemoryCache(200_000)
    got = [
        (number, made.get(key_of(number), functools.partial(content, number, shape)))
        for number in range(3)
    ]
    assert made.stats().made == 3
    got = [
        (number, made.get(key_of(number), functools.partial(content, number, shape)))
        for number, _ in got
    ]
    assert made.stats().made == 3
    for number in range(3, 60):
        made.get(key_of(number), functools.partial(content, number, shape))
        for recent in range(number - 2, number + 1):
            assert_content(made.get(key_of(recent), never), recent, shape=shape)
    maker = Maker(0, shape=shape)
    made.get(key_of(0), maker)
    assert maker.calls == 1
    for number, entry in got:
        assert_content(entry, number, shape=shape)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 3), st.integers(1, 60), st.booleans()),
        max_size=60,
    )
)
def test_a_ring_of_entries_of_any_sizes_never_gives_another_ones_values(
    asked: list[tuple[int, int, int, bool]],
) -> None:
    made = MemoryCache(12_000)
    for number, slices, rows, has_mask in asked:
        shape = (slices, rows, 1 + number)
        values, mask = content(number, shape)
        key = stack_key([], {"key": repr((shape, has_mask))})
        for _ in range(2):
            entry = made.get(
                key,
                lambda values=values, mask=mask, has_mask=has_mask: Arrays(
                    values, mask if has_mask else None
                ),
            )
            assert np.array_equal(entry.part(), values)
            assert not has_mask or np.array_equal(entry.mask_part(), mask)


@posix_only
def test_a_reader_never_sees_an_entry_that_is_being_overwritten() -> None:
    made = MemoryCache(400_000)

    def plain(number: int) -> Arrays:
        return Arrays(np.full((1, 200, 200), number, np.int16))

    def writer(seed: int) -> None:
        rng, end = random.Random(seed), time.monotonic() + 1.0
        while time.monotonic() < end:
            number = rng.randrange(20)
            found = made.get(key_of(number), functools.partial(plain, number)).part()
            assert (found == number).all()

    children = [start(writer, seed) for seed in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3


@posix_only
def test_a_worker_that_dies_with_a_lock_or_in_mid_write_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = MemoryCache(2**20)
    for call in ("pwrite", "making"):

        def child(call: str = call, made: MemoryCache = made) -> None:
            def dies(*_: Any) -> Any:
                os.kill(os.getpid(), signal.SIGKILL)

            if call == "pwrite":
                os.pwrite = dies  # type: ignore[assignment]
            made.get(key_of(0), dies if call == "making" else Maker())

        assert in_a_fork(child) == -signal.SIGKILL
        begin = time.monotonic()
        maker = Maker()
        assert_content(made.get(key_of(0), maker), 0)
        assert time.monotonic() - begin < 3
        assert_content(made.get(key_of(0), never), 0)
        made = MemoryCache(2**20)
    # One that is stopped, not dead: the others wait for their while, then go without.
    monkeypatch.setattr(locks, "LOCK_WAIT_S", 0.2)
    monkeypatch.setattr(arena, "STORE_WAIT_S", 0.2)
    sleeper = start(made.get, key_of(0), lambda: time.sleep(20))
    time.sleep(0.1)
    assert_content(made.get(key_of(0), Maker()), 0)
    os.kill(sleeper, signal.SIGKILL)
    os.waitpid(sleeper, 0)


@posix_only
def test_memory_that_is_out_costs_the_entry_not_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MemoryCache(2**20)

    def out(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", out)
    with pytest.warns(CacheWarning) as told:
        for number in range(3):
            assert_content(made.get(key_of(number), functools.partial(content, number)), number)
    assert len(told) == 1
    monkeypatch.undo()
    made.get(key_of(0), Maker())
    assert_content(made.get(key_of(0), never), 0)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="where Linux keeps named shared memory")
def test_memory_has_no_name_and_is_taken_only_as_it_is_filled() -> None:
    before = names(Path("/dev/shm"))
    made = MemoryCache(2**34)
    made.get(key_of(0), Maker())
    assert set(names(Path("/dev/shm"))) <= set(before)
    taken = os.fstat(made._ring.descriptor).st_blocks * 512
    assert taken < 20 * 2**20
    number = made._ring.descriptor
    del made
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
