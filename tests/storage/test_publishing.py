"""publishing: a file or folder appears complete or not at all, for its owner only."""

import math
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dicomdl.errors import StorageError
from dicomdl.storage import locks
from dicomdl.storage import publishing as storage

posix_only = pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_the_cache_folder_is_where_the_environment_says(cache_folder: Path) -> None:
    folder = storage.cache_folder("indexes", "a")
    assert Path(folder) == cache_folder / "indexes" / "a"
    assert os.path.isdir(folder)


def test_without_the_variable_the_platform_chooses_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DICOMDL_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name, appauthor: str(tmp_path / name))
    assert storage.cache_folder() == str(tmp_path / "dicomdl")


@posix_only
def test_files_and_folders_are_their_owners_only_under_a_permissive_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        storage.make_folder(str(tmp_path / "a" / "b"))
        storage.write_whole(str(tmp_path / "a" / "b" / "file"), b"x")
        with storage.new_folder(str(tmp_path / "a"), "made"):
            pass
    finally:
        os.umask(before)
    assert (
        mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == mode(tmp_path / "a" / "made") == 0o700
    )
    assert mode(tmp_path / "a" / "b" / "file") == 0o600


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    storage.write_whole(str(path), b"old")
    storage.write_whole(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_files_of_several_folders_are_written_into_folders_of_their_owner(tmp_path: Path) -> None:
    files = [("a/b/1", b"one"), ("a/b/2", b"two"), ("3", b"three")]
    storage.write_files(str(tmp_path / "new"), iter(files))
    assert all((tmp_path / "new" / name).read_bytes() == data for name, data in files)
    assert mode(tmp_path / "new" / "a") == 0o700 and mode(tmp_path / "new" / "3") == 0o600
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        storage.write_files(str(tmp_path / "file"), files)


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    storage.write_whole(str(path), b"old")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="No space left") as caught:
        storage.write_whole(str(path), b"new")
    monkeypatch.undo()
    assert caught.value.errno == 28
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_folder_whose_block_fails_is_never_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError), storage.new_folder(str(tmp_path), "made") as folder:
        Path(folder, "half").write_bytes(b"x")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_new_folder_appears_with_all_it_holds(tmp_path: Path) -> None:
    with storage.new_folder(str(tmp_path), "made") as folder:
        Path(folder, "file").write_bytes(b"x")
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made" / "file").read_bytes() == b"x"


def test_a_parent_that_is_a_file_is_one_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be created"):
        storage.make_folder(str(tmp_path / "file" / "inside"))


def test_only_old_entries_with_the_suffix_are_removed(tmp_path: Path) -> None:
    for name in ("old.tmp", "new.tmp", "old.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.tmp").mkdir()
    (tmp_path / "folder.tmp" / "inside").write_bytes(b"")
    for name in ("old.tmp", "old.txt", "folder.tmp"):
        os.utime(tmp_path / name, (0, 0))
    storage.remove_old(str(tmp_path), 60, time.time(), pattern=r".*\.tmp")
    assert sorted(os.listdir(tmp_path)) == ["new.tmp", "old.txt"]
    storage.remove_old(str(tmp_path / "absent"), 60, time.time(), pattern=".*")


WRITER = """
import sys, time
from dicomdl.storage.publishing import new_folder
with new_folder(sys.argv[1], "made") as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(locks._fcntl is None, reason="needs flock")
@pytest.mark.slow
@posix_only
def test_a_folder_of_a_killed_writer_goes_at_once_and_that_of_a_living_one_stays(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    temporary = Path(process.stdout.readline().strip())
    # A clock that is years ahead.
    storage.remove_old(str(tmp_path), 60, time.time() + 1e9, pattern=r"\..*\.tmp")
    assert os.listdir(tmp_path) == [temporary.name]
    process.kill()
    process.communicate()
    storage.remove_old(str(tmp_path), math.inf, 0, pattern=r"\..*\.tmp")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(locks._fcntl is None, reason="needs flock")
@pytest.mark.parametrize("make", ["new_folder", "scratch_folder"])
def test_a_folder_that_is_removed_before_its_mark_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    """Another process takes it for that of a writer that was killed."""
    lock, removals = locks._wait_for, iter([True, True])

    def wait(descriptor: int) -> None:
        if next(removals, False):
            storage.remove_old(str(tmp_path), math.inf, 0, pattern=r"\..*\.tmp")
            assert os.listdir(tmp_path) == []
        lock(descriptor)

    monkeypatch.setattr(locks, "_wait_for", wait)
    name = ("made",) if make == "new_folder" else ()
    with getattr(storage, make)(str(tmp_path), *name) as folder:
        storage.remove_old(str(tmp_path), math.inf, 0, pattern=r"\..*\.tmp")
        (Path(folder) / "file").write_bytes(b"whole")
    assert os.listdir(tmp_path) == list(name)


def test_a_folder_of_another_machine_stays_until_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.new_folder(str(tmp_path), "made") as folder:
        monkeypatch.setattr(storage, "_machine", lambda: "another")
        storage.remove_old(str(tmp_path), 60, time.time(), pattern=r"\..*\.tmp")
        assert os.path.isdir(folder)
    assert os.listdir(tmp_path) == ["made"] and os.listdir(tmp_path / "made") == []
    os.mkdir(tmp_path / ".made.old.tmp")
    storage.remove_old(str(tmp_path), 60, time.time() + 61, pattern=r"\..*\.tmp")
    assert os.listdir(tmp_path) == ["made"]


def test_a_reader_beside_a_killed_writer_sees_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    storage.write_whole(str(path), b"a" * 2_000_000)
    program = (
        "import sys\nfrom dicomdl.storage.publishing import write_whole\n"
        "while True:\n    for letter in (b'a', b'b'):\n"
        "        write_whole(sys.argv[1], letter * 2_000_000)\n        print(flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for writes in (1, 4, 9):
        writer = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, env=environment
        )
        assert writer.stdout is not None
        for _ in range(writes):
            assert writer.stdout.readline()
        writer.kill()
        writer.communicate()
        data = path.read_bytes()
        assert len(data) == 2_000_000
        assert len(set(data)) == 1


@posix_only
def test_files_put_together_are_their_owners_only_whatever_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch(0o644)
    before = os.umask(0o022)
    try:
        with storage.put_together(str(tmp_path / "a.txt")) as inside:
            Path(inside).write_text("a")
            Path(inside).with_name("b.txt").write_text("b")
            assert mode(Path(inside).parent) == 0o700
        assert {mode(path) for path in tmp_path.iterdir()} == {0o600}
    finally:
        os.umask(before)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    storage.make_folder(str(folder))
    storage.write_first(str(folder / "key"), b"s" * 32)
    return folder / "key"


def test_a_secret_is_read_back(secret: Path) -> None:
    assert storage.read_secret(str(secret), 32) == b"s" * 32


@pytest.mark.parametrize("length", [0, 1, 31, 33, 5000])
def test_a_secret_of_another_length_is_refused(length: int, secret: Path) -> None:
    secret.write_bytes(b"s" * length)
    with pytest.raises(StorageError, match=f"has {length} bytes, expected 32"):
        storage.read_secret(str(secret), 32)


@posix_only
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_secret_that_others_can_open_is_refused(mode: int, secret: Path) -> None:
    secret.chmod(mode)
    with pytest.raises(StorageError, match=r"other users can open the key .* chmod 600"):
        storage.read_secret(str(secret), 32)


@posix_only
def test_a_secret_in_a_folder_to_which_all_can_write_is_refused(secret: Path) -> None:
    secret.parent.chmod(0o777)
    with pytest.raises(StorageError, match="all users can write"):
        storage.read_secret(str(secret), 32)


@posix_only
@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling"])
def test_a_secret_that_is_no_regular_file_is_refused(kind: str, secret: Path) -> None:
    secret.unlink()
    if kind == "folder":
        secret.mkdir()
    elif kind == "fifo":
        os.mkfifo(secret, 0o600)
    else:
        secret.symlink_to(secret.with_name("absent"))
    with pytest.raises(StorageError, match=r"no regular file|cannot be read"):
        storage.read_secret(str(secret), 32)


@posix_only
def test_a_secret_of_another_user_is_refused(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    # The folder is this user's own; only the file counts as another one's.
    users = iter([owner, owner + 1])
    monkeypatch.setattr(os, "geteuid", lambda: next(users))
    with pytest.raises(StorageError, match="belongs to another user, who knows it"):
        storage.read_secret(str(secret), 32)
