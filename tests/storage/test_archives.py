"""archives: members of zip and tar are sources like files, and change with their archive."""

import itertools
import json
import lzma
import os
import pickle
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomdl.cli.main import main
from dicomdl.errors import FileChanged, PixelError
from dicomdl.storage import archives, copies, memory
from dicomdl.storage.directory import ArchiveLimits
from dicomdl.storage.sources import (
    MovedPath,
    Source,
    as_stream,
    kept_open,
    look_up,
    open_path,
    opened,
    read_range,
)

LIMITS = ArchiveLimits()
FILES = {
    "a.dcm": bytes(range(256)) * 40,
    "s1/b.dcm": b"\0" * 70_000 + b"end",
    "s1/ünïcode name.dcm": os.urandom(5000),
    "s2/empty": b"",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    memory.clear()
    yield
    memory.clear()


def zipped(path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("s1")
        for name, data in FILES.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, mode: str) -> Path:
    folder = path.with_name("to pack")
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, arcname=".")
    return path


MADE: dict[str, Callable[[Path], Path]] = {
    "stored.zip": zipped,
    "deflated.zip": lambda path: zipped(path, zipfile.ZIP_DEFLATED),
    "bzip2.zip": lambda path: zipped(path, zipfile.ZIP_BZIP2),
    "lzma.zip": lambda path: zipped(path, zipfile.ZIP_LZMA),
    "plain.tar": lambda path: tarred(path, "w"),
    "packed.tar.gz": lambda path: tarred(path, "w:gz"),
    "packed.tgz": lambda path: tarred(path, "w:gz"),
    "packed.tar.bz2": lambda path: tarred(path, "w:bz2"),
    "packed.TAR.XZ": lambda path: tarred(path, "w:xz"),
}


@pytest.mark.parametrize("name", MADE)
def test_members_have_the_bytes_of_their_files_and_the_times_of_their_archive(
    tmp_path: Path, name: str
) -> None:
    path = MADE[name](tmp_path / name)
    state, members = archives.list_members(str(path), LIMITS)
    status = path.stat()
    assert state[:3] == (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    names = ["a.dcm", "s1/b.dcm", "s1/ünïcode name.dcm", "s2/empty"]
    assert [(m.name, m.reason) for m in members] == [(f"{path}//{name}", "") for name in names]
    for member in members:
        data = FILES[member.name.partition("//")[2]]
        handle = open_path(member.name)
        assert (handle.size, handle.source) == (
            len(data),
            Source(member.name, len(data), *state[1:]),
        )
        assert as_stream(handle).read() == data
        assert handle.read_at(max(0, len(data) - 3), 100) == data[-3:]
        assert handle.read_at(len(data), 1) == b"" == handle.read_at(len(data) + 5, 1)
        buffer = bytearray(8)
        assert handle.read_into(memoryview(buffer), 2) == len(data[2:10])
        assert buffer[: len(data[2:10])] == data[2:10]
        assert look_up(handle.source) == handle.source
        handle.close()


@pytest.mark.parametrize("cuts", [(), (700,), (700, 5000)])
@pytest.mark.parametrize("padding", [0, 4, 2**20])
def test_an_xz_file_of_several_streams_is_one_tar(
    tmp_path: Path, cuts: tuple[int, ...], padding: int
) -> None:
    whole = tarred(tmp_path / "plain.tar", "w").read_bytes()
    parts = [whole[a:b] for a, b in itertools.pairwise((0, *cuts, len(whole)))]
    path = tmp_path / "several.tar.xz"
    path.write_bytes(b"".join(lzma.compress(part) + bytes(padding) for part in parts) + b"more")
    _, members = archives.list_members(str(path), LIMITS)
    assert len(members) == len(FILES)
    for member in members:
        data = as_stream(open_path(member.name)).read()
        assert data == FILES[member.name.partition("//")[2]]


def test_a_stored_member_opens_no_file_and_reads_only_its_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path / "case.zip")
    source = look_up(Source(f"{path}//s1/b.dcm"))
    opens: list[object] = []
    original = os.open
    monkeypatch.setattr(os, "open", lambda *a, **k: (opens.append(a), original(*a, **k))[1])
    read: list[tuple[int, int]] = []
    preads = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: (read.append((n, at)), preads(fd, n, at))[1])
    for _ in range(3):
        with kept_open(), opened(source) as handle:
            assert read_range(handle, 69_998, 5) == b"\0\0end"
    assert opens == []
    assert [n for n, _ in read] == [5, 5, 5]


def test_members_that_lie_in_archives_of_archives_are_read_once_nested(tmp_path: Path) -> None:
    inner = MADE["deflated.zip"](tmp_path / "inner.zip")
    packed = MADE["packed.tar.gz"](tmp_path / "inner.tar.gz")
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive:
        archive.write(inner, "x/deep.zip")
    outer = tmp_path / "outer.zip"
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (inner, packed, twice):
            archive.write(path, path.name)
    _, members = archives.list_members(str(outer), LIMITS)
    found = {m.name.removeprefix(f"{outer}//"): m.reason for m in members}
    assert found == {
        **{f"inner.zip//{name}": "" for name in FILES},
        **{f"inner.tar.gz//{name}": "" for name in FILES},
        "twice.zip//x/deep.zip": "nested_too_deep",
    }
    memory.clear()
    for place in ("inner.zip", "inner.tar.gz"):
        with opened(Source(f"{outer}//{place}//s1/b.dcm")) as handle:
            assert read_range(handle, 0, handle.size) == FILES["s1/b.dcm"]


@pytest.mark.parametrize("name", ["stored.zip", "deflated.zip", "plain.tar", "packed.tar.gz"])
def test_a_changed_archive_refuses_its_members(tmp_path: Path, name: str) -> None:
    path = MADE[name](tmp_path / name)
    source = look_up(Source(f"{path}//a.dcm"))
    time.sleep(0.02)
    os.utime(path, ns=(1, source.mtime_ns))
    for act in (look_up, lambda source: opened(source).__enter__()):
        with pytest.raises(FileChanged, match="rewritten"):
            act(source)
    moved = tmp_path / "moved" / name
    moved.parent.mkdir()
    os.rename(path, moved)
    with pytest.raises(FileChanged, match="gone"):
        look_up(source)
    # A moved archive has other change times, which are not compared.
    with opened(source._replace(path=MovedPath(f"{moved}//a.dcm"))) as handle:
        assert read_range(handle, 0, 3) == FILES["a.dcm"][:3]
    moved.write_bytes(b"something else")
    with pytest.raises(FileChanged, match="modification time"):
        look_up(source._replace(path=MovedPath(f"{moved}//a.dcm")))


def test_a_member_that_is_absent_is_gone_or_cannot_be_opened(tmp_path: Path) -> None:
    path = zipped(tmp_path / "case.zip")
    state = look_up(Source(f"{path}//a.dcm"))
    with pytest.raises(FileChanged, match="gone"):
        look_up(state._replace(path=f"{path}//absent"))
    with pytest.raises(PixelError, match="No such file"):
        look_up(Source(f"{path}//absent"))
    with pytest.raises(PixelError) as caught:
        look_up(Source(f"{tmp_path / 'cache'}//absent"))
    pickle.loads(pickle.dumps(caught.value))


def test_an_inflated_member_stays_in_its_share_and_a_prefix_does_not(tmp_path: Path) -> None:
    path = MADE["deflated.zip"](tmp_path / "deflated.zip")
    with opened(Source(f"{path}//s1/b.dcm")) as handle:
        assert handle.read_at(0, 100) == bytes(100)
        assert memory.report()["archive members"] == 0
        assert handle.read_at(70_000, 100) == b"end"
    assert memory.report()["archive members"] > 70_000
    assert memory.report()["archives"] > 0


def test_a_long_compressed_member_is_copied_once_and_read_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MOST_IN_MEMORY", 1000)
    path = MADE["deflated.zip"](tmp_path / "deflated.zip")
    for _ in range(2):
        with opened(Source(f"{path}//s1/b.dcm")) as handle:
            assert handle.read_at(0, 10) == bytes(10)
            assert read_range(handle, 69_999, 4) == b"\0end"
    folder = tmp_path / "cache" / "archives"
    (copy,) = folder.iterdir()
    assert copy.name.endswith("-70003.copy")
    if os.name == "posix":
        assert (folder.stat().st_mode & 0o777, copy.stat().st_mode & 0o777) == (0o700, 0o600)
    # A cut copy is none: it is made again.
    copy.write_bytes(b"cut")
    with opened(Source(f"{path}//s1/b.dcm")) as handle:
        assert read_range(handle, 69_999, 4) == b"\0end"


def test_copies_are_removed_where_the_disk_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = copies.copy_of(Source("/a.tar.gz", 1, 2, 3, 4), lambda: [b"a" * 100])
    os.utime(first, (1, 1))
    second = copies.copy_of(Source("/b.tar.gz", 1, 2, 3, 4), lambda: [b"b" * 100])
    usage = copies.shutil.disk_usage(tmp_path)

    def free(_: str) -> object:
        used = sum(os.path.exists(path) for path in (first, second))
        return usage._replace(total=1000, free=300 - 100 * used)

    monkeypatch.setattr(copies.shutil, "disk_usage", free)
    third = copies.copy_of(Source("/c.tar.gz", 1, 2, 3, 4), lambda: [b"c" * 100])
    assert [os.path.exists(path) for path in (first, second, third)] == [False, True, True]
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: usage._replace(total=10, free=0))
    with pytest.raises(Exception, match="nearly full"):
        copies.copy_of(Source("/d.tar.gz", 1, 2, 3, 4), lambda: [b"d"])
    assert [path.suffix for path in (tmp_path / "cache" / "archives").iterdir()] == []


def test_two_processes_may_remove_one_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = copies.copy_of(Source("/a.tar.gz", 1, 2, 3, 4), lambda: [b"a" * 100])
    usage, listed = copies.shutil.disk_usage(tmp_path), copies.used_files

    def free(_: str) -> object:
        return usage._replace(total=1000, free=1000 * (not os.path.exists(first)))

    def removed_meanwhile(folder: str) -> list[tuple[float, int, str]]:
        found = listed(folder)
        os.unlink(first)
        return found

    monkeypatch.setattr(copies.shutil, "disk_usage", free)
    monkeypatch.setattr(copies, "used_files", removed_meanwhile)
    second = copies.copy_of(Source("/b.tar.gz", 1, 2, 3, 4), lambda: [b"b" * 100])
    assert Path(second).read_bytes() == b"b" * 100


def test_the_command_cache_clear_removes_the_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies.copy_of(Source("/a.tar.gz", 1, 2, 3, 4), lambda: [b"a" * 1000])
    (tmp_path / "cache" / "arrays").mkdir(mode=0o700)
    assert main(["cache", "clear"]) == 0
    assert "1,000 bytes removed" in capsys.readouterr().out
    assert list((tmp_path / "cache" / "archives").iterdir()) == []
    assert main(["cache", "clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"][1]["removed_bytes"] == 0


def test_threads_read_one_archive_at_the_same_time(tmp_path: Path) -> None:
    path = MADE["stored.zip"](tmp_path / "stored.zip")
    wrong: list[str] = []

    def read(name: str) -> None:
        for _ in range(200):
            with opened(Source(f"{path}//{name}")) as handle:
                if read_range(handle, 0, handle.size) != FILES[name]:
                    wrong.append(name)

    threads = [threading.Thread(target=read, args=(name,)) for name in FILES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_names_of_zip_are_read_as_utf_8_or_cp437_and_backslashes_divide(tmp_path: Path) -> None:
    path = tmp_path / "names.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bild_ä.dcm", b"utf-8")
        windows = zipfile.ZipInfo("serie_1.dcm")
        windows.create_system = 0
        archive.writestr(windows, b"windows")
    # cp437 without the flag of UTF-8, and a backslash.
    raw = path.read_bytes().replace(b"serie_1.dcm", b"s\\rie_\x84.dcm")
    path.write_bytes(raw)
    _, members = archives.list_members(str(path), LIMITS)
    assert [m.name.partition("//")[2] for m in members] == ["bild_ä.dcm", "s/rie_ä.dcm"]
    with opened(Source(members[1].name)) as handle:
        assert read_range(handle, 0, 7) == b"windows"


@pytest.mark.slow
def test_a_directory_of_a_hundred_thousand_members_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"series/{number % 100}/1.2.840.113619.2.55.3.{number}.dcm", b"")
    archives.list_members(str(path), LIMITS)
    held = memory.report()["archives"]
    assert held / 20_000 < 120 + 20
    assert open_path(f"{path}//series/7/1.2.840.113619.2.55.3.107.dcm").size == 0


# --- copies without compression -------------------------------------------------------------------


def only_copy(tmp_path: Path) -> Path:
    (copy,) = (path for path in (tmp_path / "cache" / "archives").glob("*.copy"))
    return copy


@pytest.mark.parametrize("name", ["deflated.zip", "bzip2.zip", "lzma.zip"])
def test_members_of_a_copied_zip_are_read_in_place_and_keep_their_state(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = MADE[name](tmp_path / name)
    before = {key: look_up(Source(f"{path}//{key}")) for key in FILES}
    assert archives.compressed_bytes(str(path)) == sum(map(len, FILES.values()))
    archives.copy_archive(str(path), LIMITS)
    assert archives.compressed_bytes(str(path)) == 0
    # A process that has not made the copy finds it.
    memory.clear()
    monkeypatch.setattr(archives, "Inflating", None)
    for key, data in FILES.items():
        source = look_up(Source(f"{path}//{key}"))
        assert source == before[key]
        with opened(source) as handle:
            assert read_range(handle, 0, len(data)) == data
    with zipfile.ZipFile(only_copy(tmp_path)) as copy:
        assert copy.testzip() is None
        assert {info.compress_type for info in copy.infolist()} == {zipfile.ZIP_STORED}


def test_a_zip_without_compression_and_a_tar_are_not_copied(tmp_path: Path) -> None:
    for name in ("stored.zip", "plain.tar"):
        archives.copy_archive(str(MADE[name](tmp_path / name)), LIMITS)
    assert not (tmp_path / "cache" / "archives").exists()


def test_a_changed_archive_refuses_although_its_copy_is_there(tmp_path: Path) -> None:
    path = MADE["deflated.zip"](tmp_path / "set.zip")
    source = look_up(Source(f"{path}//a.dcm"))
    archives.copy_archive(str(path), LIMITS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", b"\1" * 10_240)
    with pytest.raises(FileChanged), opened(source):
        pass
    with opened(Source(source.path)) as handle:
        assert read_range(handle, 0, 3) == b"\1\1\1"


def test_without_its_copy_a_zip_is_inflated_again(tmp_path: Path) -> None:
    path = MADE["deflated.zip"](tmp_path / "set.zip")
    archives.copy_archive(str(path), LIMITS)
    copies.clear()
    memory.clear()
    with opened(Source(f"{path}//a.dcm")) as handle:
        assert read_range(handle, 0, 256) == bytes(range(256))


def test_a_damaged_member_stays_in_its_archive(tmp_path: Path) -> None:
    path = MADE["deflated.zip"](tmp_path / "set.zip")
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("a.dcm").header_offset + 40
    data = bytearray(path.read_bytes())
    data[start : start + 20] = bytes(20)
    path.write_bytes(data)
    archives.copy_archive(str(path), LIMITS)
    with zipfile.ZipFile(only_copy(tmp_path)) as copy:
        assert sorted(copy.namelist()) == sorted(FILES.keys() - {"a.dcm"})
    memory.clear()
    with opened(Source(f"{path}//s1/b.dcm")) as handle:
        assert read_range(handle, 69_999, 4) == b"\0end"
    with pytest.raises(PixelError, match="damaged"), opened(Source(f"{path}//a.dcm")) as handle:
        read_range(handle, 0, handle.size)


def test_a_zip_that_inflates_too_far_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(str(number), bytes(2**20))
    with pytest.raises(PixelError, match="are copied: if it is sound"):
        archives.copy_archive(str(path), ArchiveLimits(10, 2**20))
    assert not list((tmp_path / "cache" / "archives").glob("*"))
