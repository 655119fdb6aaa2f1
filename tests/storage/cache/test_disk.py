"""disk: a hit equals the computed values, whatever happens to processes and disks."""

import errno
import functools
import os
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from cache_entries import (
    KINDS,
    Maker,
    assert_content,
    cache_of,
    content,
    entry_file,
    fill,
    flip,
    in_a_fork,
    key_of,
    names,
    never,
    posix_only,
    refuse_locks,
    start,
)
from descriptors import HAS_PROC, open_below

from dicomdl.errors import MissingExtra, UsageError
from dicomdl.storage import locks
from dicomdl.storage.cache import _layout as layout_module
from dicomdl.storage.cache import _stored as stored_module
from dicomdl.storage.cache import disk as disk_module
from dicomdl.storage.cache import entries
from dicomdl.storage.cache import folder as cachefolder
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.folder import clear, show, verify
from dicomdl.storage.cache.stats import CacheWarning


def test_a_format_that_is_unknown_or_not_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="format"):
        DiskCache(tmp_path / "c", format="zip")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingExtra, match="pip install"):
        DiskCache(tmp_path / "c", format="blosc2")


@posix_only
def test_a_disk_cache_has_nothing_open_until_it_is_used(tmp_path: Path) -> None:
    made = DiskCache(tmp_path / "c")
    assert open_below(tmp_path) == 0
    for number in range(disk_module.OPEN_ENTRIES + 20):
        made.get(key_of(number), functools.partial(content, number, (1, 2, 2)))
        made.get(key_of(number), never)
    assert not HAS_PROC or 0 < open_below(tmp_path) <= disk_module.OPEN_ENTRIES
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


@posix_only
def test_many_processes_compute_each_entry_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = [start(fill, tmp_path / "c", seed, 16, log) for seed in range(8)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert sorted(log.read_bytes()) == list(range(16))
    assert len(names(tmp_path / "c")) == 16


@pytest.mark.slow
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
    # The entry was used, so it is the youngest now.
    fresh.get(key_of(0), never)
    fresh.get(key_of(5), functools.partial(content, 5))
    left = {number for number in range(6) if entry_file(folder, key_of(number)).exists()}
    assert left == {0, 2, 3, 4, 5}
    assert fresh.stats().evicted == 1


def test_entries_of_a_clock_that_was_ahead_make_room_first(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    DiskCache(folder).get(key_of(0), Maker())
    limit = int(5.4 * entry_file(folder, key_of(0)).stat().st_size)
    made = DiskCache(folder, max_bytes=limit)
    for number in range(5):
        made.get(key_of(number), functools.partial(content, number))
        os.utime(entry_file(folder, key_of(number)), (time.time() + 3e7,) * 2)
    fresh = DiskCache(folder, max_bytes=limit)
    for number in (5, 6, 7):
        fresh.get(key_of(number), functools.partial(content, number))
    for number in (5, 6, 7):
        fresh.get(key_of(number), never)


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
    # In the worst case each of the processes exceeds the limit by one entry.
    assert most <= limit + 4 * size
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
    # The disk has room again.
    assert_content(made.get(key_of(9), never), 9)


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


@pytest.mark.parametrize("remove", [clear, shutil.rmtree])
@pytest.mark.filterwarnings("error")
def test_a_folder_that_is_cleared_during_a_write_costs_the_entry_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: Any
) -> None:
    made, write = DiskCache(tmp_path / "c"), cachefolder.write_pieces

    def removed_meanwhile(descriptor: int, pieces: Any) -> None:
        write(descriptor, pieces)
        remove(tmp_path / "c")

    with monkeypatch.context() as patch:
        patch.setattr(cachefolder, "write_pieces", removed_meanwhile)
        assert_content(made.get(key_of(0), Maker()), 0)
    assert (made.stats().stored, made.stats().failed) == (0, 0)
    assert_content(made.get(key_of(0), Maker()), 0)
    assert_content(made.get(key_of(0), never), 0)
