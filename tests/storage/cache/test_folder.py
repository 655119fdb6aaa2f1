"""folder: entries are complete or absent, private, and without leftovers."""

import functools
import os
import random
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from cache_entries import (
    Maker,
    assert_content,
    content,
    entry_file,
    fill,
    flip,
    in_a_fork,
    key_of,
    names,
    never,
    posix_only,
    start,
)

from dicomdl.errors import StorageError
from dicomdl.storage import locks
from dicomdl.storage.cache import folder as cachefolder
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.folder import clear, show, verify


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
    with pytest.raises(StorageError, match="all users can write"):
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
