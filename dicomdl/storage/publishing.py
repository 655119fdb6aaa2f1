"""Publication of dicomdl's files: each appears complete, in one step, or not at all.

A file is written under a temporary name in its final folder and put in place by one `os.replace`.
This is the only scheme that survived 360 kills in mid-write without one wrong read. Files are never
written through a memory map, because a full disk then ends the process instead of raising.
"""

import contextlib
import errno
import functools
import hashlib
import io
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import xxhash

from dicomdl.errors import StorageError
from dicomdl.storage import locks
from dicomdl.storage.system import OPEN_FLAGS

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
# The file in a temporary folder whose lock its writer holds.
_WRITER: Final = "writer.lock"
_BLOCK_BYTES: Final = 2**20
# More than the clocks of machines differ.
_AHEAD_S: Final = 86400.0
_FLUSHED_AT_ONCE: Final = 8


def cache_folder(*parts: str) -> str:
    """Return the folder for default indexes and caches, and create it if absent.

    The folder is ``$DICOMDL_CACHE``, or the platform's user cache folder, with `parts` appended. A
    new folder is readable by its owner only, because its content comes from patients.
    """
    folder = os.path.join(cache_root(), *parts)
    try:
        make_folder(folder)
    except StorageError as error:
        raise StorageError(
            f"{error}; set DICOMDL_CACHE to a folder that can be written, or give an index its "
            "own folder with out=...",
            errno=getattr(error, "errno", None),
        ) from error
    return folder


def cache_root() -> str:
    """Return ``$DICOMDL_CACHE``, or the platform's user cache folder. It may not exist yet."""
    root = os.environ.get("DICOMDL_CACHE")
    if not root:
        from platformdirs import user_cache_dir

        root = user_cache_dir("dicomdl", appauthor=False)
    return os.path.abspath(root)


def make_folder(folder: str) -> None:
    """Create a folder and its parents, for the owner only (mode 0700).

    An existing folder is left as it is.
    """
    parent = os.path.dirname(os.path.abspath(folder))
    # os.makedirs applies its mode to the last folder only.
    if not os.path.isdir(parent):
        make_folder(parent)
    with explained(f"the folder {folder!r} cannot be created"):
        os.makedirs(folder, mode=0o700, exist_ok=True)


def require_private(folder: str, what: str = "cache folder") -> None:
    """Refuse a folder to which other users can write: a checksum does not stop an attacker."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise StorageError(
            f"the {what} {folder!r} cannot be used: {error.strerror}", errno=error.errno
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise StorageError(f"the {what} {folder!r} is not a folder")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise StorageError(
            f"the {what} {folder!r} belongs to another user: choose one of your own",
            owner=status.st_uid,
        )
    if os.name == "posix" and status.st_mode & stat.S_IWOTH:
        raise StorageError(
            f"all users can write to the {what} {folder!r}: choose another one, or chmod o-w",
            mode=status.st_mode,
        )


def read_secret(path: str, length: int) -> bytes:
    """Return the secret of `length` bytes at `path`, which only its owner can have read or written.

    Raises
    ------
    StorageError
        The file belongs to another user, other users can read or write it or write to its folder,
        it has another length, or it is no regular file.
    """
    secret = read_own(path, "key", length)
    if len(secret) != length:
        found = os.path.getsize(path)
        raise StorageError(
            f"the key {path!r} has {found} bytes, expected {length}: put back the key "
            "that was used before, or delete the file for a new key",
            expected_bytes=length,
            found_bytes=found,
        )
    return secret


def read_own(path: str, name: str, most_bytes: int) -> bytes:
    """Return the content of a file that only this user can have written and read.

    Parameters
    ----------
    path
        The file.
    name
        What the file is, for messages.
    most_bytes
        The result of a longer file is cut off after one byte more.

    Raises
    ------
    StorageError
        The file belongs to another user, other users can read or write it or write to its folder,
        or it is no regular file.
    """
    require_private(os.path.dirname(path))
    with explained(f"the {name} {path!r} cannot be read"):
        descriptor = os.open(path, OPEN_FLAGS)
        try:
            _require_own(path, name, os.fstat(descriptor))
            return os.read(descriptor, most_bytes + 1)
        finally:
            os.close(descriptor)


def _require_own(path: str, name: str, status: os.stat_result) -> None:
    """Raise StorageError unless a file is a regular one that only this user can open."""
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(
            f"the {name} {path!r} is no regular file: put back the {name}, or delete it"
        )
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise StorageError(
            f"the {name} {path!r} belongs to another user, who knows it: use a {name} of your own",
            owner=status.st_uid,
        )
    if os.name == "posix" and status.st_mode & _OTHERS:
        raise StorageError(
            f"other users can open the {name} {path!r}: chmod 600, or delete the file for a new "
            f"{name} if one of them may have read it",
            mode=status.st_mode,
        )


@contextlib.contextmanager
def explained(sentence: str) -> Iterator[None]:
    """Turn an OSError (disk full, no right to write, ...) into a StorageError with `sentence`."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{sentence}: {error.strerror or error}", errno=error.errno) from error


def open_regular(path: str) -> io.BufferedReader:
    """Open a file for reading; raise OSError for a FIFO or device, on which a program would wait.

    A folder that came from somebody else may have one in the place of a file.
    """
    descriptor = os.open(path, OPEN_FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return open(descriptor, "rb")


def read_whole(path: str) -> bytes:
    """Return the bytes of a file that `write_whole` wrote."""
    with explained(f"{path!r} cannot be read"), open_regular(path) as file:
        return file.read()


def write_whole(path: str, data: bytes) -> None:
    """Put `data` at `path` in one step (mode 0600).

    A reader sees the old file or the new one, never a part.
    """
    _write(path, data, os.replace)


def write_new(path: str, data: bytes) -> None:
    """Write a file that no reader knows yet, and flush it to the disk (mode 0600).

    Nothing is left of it if that fails.
    """
    with explained(f"{path!r} cannot be written"):
        _write_flushed(path, data)


def write_named(path: str, data: bytes) -> None:
    """Put `data` at a path that is named by a digest of them, unless they are there already.

    A damaged file is replaced.
    """
    with contextlib.suppress(StorageError):
        if read_whole(path) == data:
            return
    write_whole(path, data)


def write_files(folder: str, files: Iterable[tuple[str, bytes | memoryview]]) -> None:
    """Write files, given as (path below the folder, data), for the owner only.

    Files are not flushed to the disk one by one, which takes 10 ms each. Data that can be made
    again are written in this way, before a last file by `write_whole` that shows their completion.
    """
    made = set[str]()
    for name, data in files:
        path = os.path.join(folder, name)
        parent = os.path.dirname(path)
        if parent not in made:
            make_folder(parent)
            made.add(parent)
        with explained(f"{path!r} cannot be written"):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)


def write_first(path: str, data: bytes) -> None:
    """Put `data` at `path` as `write_whole` does, unless another process has written it first."""

    def keep_first(temporary: str, final: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, final)
        os.unlink(temporary)

    _write(path, data, keep_first)


def _write(path: str, data: bytes, put: Callable[[str, str], None]) -> None:
    temporary = f"{path}.{secrets.token_hex(6)}.tmp"
    with explained(f"{path!r} cannot be written"):
        _write_flushed(temporary, data)
        try:
            put(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _write_flushed(path: str, data: bytes) -> None:
    """Write a file that is absent, and flush it to the disk; OSError leaves nothing of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


@contextlib.contextmanager
def new_folder(
    parent: str, name: str | Callable[[str], str], *, what: str = "the index"
) -> Iterator[str]:
    """Create a temporary folder in `parent`, and rename it to `name` when the block ends.

    The temporary folder is removed when the block raises. If the process is killed, `remove_old`
    removes it: its name tells its machine, and a lock in it that the writer lives. A `name` that
    depends on the content is a function of the temporary folder; a folder of that name is left as
    it is if it has the same content. `what` names the content in the error.
    """
    shown = name if isinstance(name, str) else "part"
    with (
        explained(f"{what} cannot be written to {parent!r}"),
        _temporary_folder(parent, shown) as temporary,
    ):
        yield temporary
        final = name if isinstance(name, str) else name(temporary)
        _sync_folder(temporary)
        if isinstance(name, str) or not _is_there(temporary, os.path.join(parent, final)):
            os.rename(temporary, os.path.join(parent, final))
        # Last, so that the folder has its mark while it is temporary.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(parent, final, _WRITER))
        _sync_folder(parent)


@contextlib.contextmanager
def _temporary_folder(parent: str, shown: str) -> Iterator[str]:
    """Create a folder with the mark of its writer, and remove in the end what is left of it."""
    with contextlib.ExitStack() as stack:
        for is_last in (False, False, True):
            temporary = os.path.join(parent, f".{shown}.{_machine()}{secrets.token_hex(3)}.tmp")
            os.mkdir(temporary, 0o700)
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            try:
                stack.enter_context(locks.held_while(os.path.join(temporary, _WRITER)))
                break
            except FileNotFoundError:
                # Another process removed the folder, which had no mark yet.
                if is_last:
                    raise
        yield temporary


def _is_there(folder: str, final: str) -> bool:
    """Whether a folder is at `final` already; one with other content is removed."""
    if not os.path.isdir(final):
        return False
    if content_of(final) == content_of(folder):
        return True
    shutil.rmtree(final)
    return False


@contextlib.contextmanager
def scratch_folder(parent: str) -> Iterator[str]:
    """Create a temporary folder in `parent`, as `new_folder` does, and remove it in the end."""
    with (
        explained(f"files cannot be written to {parent!r}"),
        _temporary_folder(parent, "part") as temporary,
    ):
        yield temporary


def place_file(source: str, target: str) -> None:
    """Put a file at `target` too, in one step: by a hard link, or a copy where there are none.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    temporary = f"{target}.{secrets.token_hex(6)}.tmp"
    with explained(f"{target!r} cannot be written"):
        try:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
                _sync(temporary)
            os.chmod(temporary, 0o600)
            os.replace(temporary, target)
        finally:
            # Two names of one file are not replaced by each other.
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def size_of(path: str) -> int:
    """Return the bytes of a file; -1 without one."""
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def remove_files(paths: Iterable[str]) -> None:
    """Remove files, and pass over those that are gone or cannot be removed."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def content_of(folder: str) -> dict[str, tuple[int, str]]:
    """Return {path below a folder: (bytes, XXH3 of 128 bits)} of its files, flushed to the disk.

    The mark of the writer is none of them.
    """
    found = {}
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = os.path.join(parent, file)
            name = os.path.relpath(path, folder).replace(os.sep, "/")
            if name != _WRITER:
                _sync(path)
                found[name] = (os.path.getsize(path), digest_of(path))
    return found


def digest_of(path: str) -> str:
    """Return the XXH3 digest, of 128 bits, of a file."""
    whole = xxhash.xxh3_128()
    with open_regular(path) as file:
        while block := file.read(_BLOCK_BYTES):
            whole.update(block)
    return whole.hexdigest()


def blake2b_of(path: str) -> str:
    """Return the BLAKE2b digest, of 128 bits, of a file, which records of exports have."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync(path: str) -> None:
    """Flush a file to the disk; Windows does that only for files that are open for writing."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def put_together(path: str) -> Iterator[str]:
    """Create a temporary folder beside `path`, and move its files there when the block ends.

    The block writes to the path that it gets. Files replace others of their names, and the one
    named as `path` comes last. None is moved when the block raises. A symbolic link is followed.
    Only the owner may read the files (mode 0600), whatever the umask: they come from patients, and
    libraries that write them create files for all.
    """
    folder, name = os.path.split(os.path.realpath(path))
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.tmp")
    with explained(f"{path!r} cannot be written"):
        try:
            os.mkdir(temporary, 0o700)
            yield os.path.join(temporary, name)
            for file in sorted(os.listdir(temporary), key=lambda file: file == name):
                os.chmod(os.path.join(temporary, file), 0o600)
                os.replace(os.path.join(temporary, file), os.path.join(folder, file))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def flush(path: str) -> None:
    """Flush a file that another library wrote to the disk.

    Raises
    ------
    StorageError
        The disk is full, or fails.
    """
    with explained(f"{path!r} cannot be written"):
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def flushing() -> Iterator[Callable[[str], object]]:
    """Yield a function that begins to flush a file; all of them are on the disk in the end.

    A journal takes several files in the time of one, and the block goes on meanwhile. Raises
    OSError, inside of `new_folder`.
    """
    with ThreadPoolExecutor(_FLUSHED_AT_ONCE) as team:
        begun = list[Future[None]]()
        yield lambda path: begun.append(team.submit(_sync, path))
        for each in begun:
            each.result()


def _sync_folder(folder: str) -> None:
    """Flush the entries of a folder to the disk, on platforms that can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def written_s(path: str) -> float:
    """Return when a file or folder was written, in seconds since 1970 by its file system."""
    return os.stat(path).st_mtime


@functools.cache
def _machine() -> str:
    """Return six hexadecimal digits for this machine: its locks may be unknown to others."""
    return hashlib.blake2b(platform.node().encode(), digest_size=3).hexdigest()


def _is_written(path: str, name: str) -> contextlib.AbstractContextManager[bool | None]:
    """Yield whether the writer of a temporary folder lives; None if that cannot be known here."""
    if f".{_machine()}" not in name:
        return contextlib.nullcontext()
    return locks.probed(os.path.join(path, _WRITER))


def files_by_use(folder: str, name: re.Pattern[str]) -> list[tuple[float, int, str]]:
    """Return the time of the last use, the bytes and the path of files whose name matches."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as items:
        for item in items:
            if name.fullmatch(item.name):
                with contextlib.suppress(OSError):
                    status = item.stat(follow_symlinks=False)
                    found.append((status.st_mtime, status.st_size, item.path))
    return found


def removed_first(used_s: float) -> tuple[bool, float]:
    """Return the key by which files sort that are removed in the order of their last use.

    A time far ahead of the clock was set by a clock that was wrong, and would outlast all others.
    """
    return used_s <= time.time() + _AHEAD_S, used_s


def remove_old(folder: str, limit_s: float, now: float, *, pattern: str) -> None:
    """Remove entries of a folder that match `pattern` and have not changed for `limit_s` seconds.

    A folder of `new_folder` goes at once if its writer has died, and stays while the writer lives.
    An entry that another process removes at the same time is skipped, as is one that cannot be
    removed: the next call tries again.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if not re.fullmatch(pattern, name):
                continue
            with contextlib.suppress(OSError), _is_written(path, name) as is_written:
                status = os.lstat(path)
                is_old = now - status.st_mtime >= limit_s
                if is_written or (is_written is None and not is_old):
                    continue
                if stat.S_ISDIR(status.st_mode):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)
