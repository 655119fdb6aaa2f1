"""Reads ahead of a loop on slow file systems, and the rule that tells these from fast ones."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_entries import in_a_fork, posix_only
from conftest import TIME_OF_A_READ
from phantoms import write_series
from phantoms_labels import write_structure_set
from pydicom.uid import RLELossless

import dicomdl
from dicomdl.errors import FileChanged, PixelError, UntrustedRoot
from dicomdl.storage import _files, _plans, _requests, _slow, ahead, object_heads
from dicomdl.storage.ahead import Span, each_of, reading_ahead
from dicomdl.storage.handles import LocalFile, Source
from dicomdl.storage.paths import UnacceptedPath
from dicomdl.storage.sources import look_up, opened, read_range
from dicomdl.volumes.blocks import voxels_of

AT_ONCE = 8
SHAPE = (3 * AT_ONCE, 16, 12)
TABLES = ("files", "frames", "stacks", "problems", "annotations")


class Meeting(LocalFile):
    """A file that opens when `AT_ONCE` of them are being opened."""

    __slots__ = ()
    barrier: threading.Barrier

    def __init__(self, path: str, expected: Source | None = None, *flags: int) -> None:
        self.barrier.wait(timeout=30)
        super().__init__(path, expected, *flags)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system on which opening and reading take 20 ms."""
    _slow._verdict_on.cache_clear()
    monkeypatch.setattr(_slow, "_time", lambda path, offset: 0.02)


@pytest.fixture
def meeting(slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow file system whose files open together, or never."""
    monkeypatch.setattr(Meeting, "barrier", threading.Barrier(AT_ONCE), raising=False)
    monkeypatch.setattr(_files, "LocalFile", Meeting)
    monkeypatch.setattr(object_heads, "LocalFile", Meeting)


def scan(folder: Path, name: str) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / name, progress=False)


def sources(folder: Path, count: int = 3 * AT_ONCE) -> list[Source]:
    paths = [folder / str(number) for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    return [look_up(Source(str(path))) for path in paths]


@pytest.fixture(autouse=True)
def no_verdict_before() -> Iterator[None]:
    """No test finds what another one has measured, and leaves nothing."""
    _slow._verdict_on.cache_clear()
    yield
    _slow._verdict_on.cache_clear()


# --- the rule -------------------------------------------------------------------------------------


class Clock:
    """A clock that opening a file moves by some delay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, delays_s: Callable[[int], float]) -> None:
        self.now, self.opened = 0.0, 0

        class Delayed(LocalFile):
            __slots__ = ()

            def __init__(delayed, path: str) -> None:
                self.now += delays_s(self.opened)
                self.opened += 1
                super().__init__(path)

        monkeypatch.setattr(_slow, "_time", TIME_OF_A_READ)
        _slow._verdict_on.cache_clear()
        monkeypatch.setattr(_slow, "LocalFile", Delayed)
        monkeypatch.setattr(_slow, "clock", lambda: self.now)


def is_slow(folder: Path) -> bool:
    places = [(each.path, 500) for each in sources(folder, 20)]
    return _slow.is_slow(places[0][0], lambda: places)


@pytest.mark.parametrize(("delay_s", "slow"), [(0.0005, False), (0.002, True)])
def test_a_file_system_is_slow_from_a_millisecond_per_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, delay_s: float, slow: bool
) -> None:
    clock = Clock(monkeypatch, lambda number: delay_s)
    assert is_slow(folder) == slow
    assert clock.opened == 3


def test_one_file_that_waits_makes_no_slow_file_system(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch, lambda number: 0.5 if number == 1 else 0.0)
    assert not is_slow(folder)


def test_a_verdict_holds_ten_seconds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, lambda number: 0.002 if number < 3 else 0.0)
    assert [is_slow(folder), is_slow(folder)] == [True, True]
    assert clock.opened == 3
    clock.now += 11
    assert not is_slow(folder)
    assert clock.opened == 6


def test_a_file_that_cannot_be_opened_leaves_the_rule_to_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch, lambda number: 0.002)
    absent = str(folder / "absent")
    assert _slow.is_slow(absent, lambda: [(absent, 0)])
    assert not _slow.is_slow(str(folder / "no" / "absent"), list)


# --- what is read at once -------------------------------------------------------------------------


@pytest.mark.slow
def test_headers_of_a_slow_file_system_are_read_at_once(
    folder: Path, request: pytest.FixtureRequest
) -> None:
    files = write_series(folder / "ct", shape=(3 * AT_ONCE - 3, 16, 12))
    write_structure_set(folder / "rois.dcm", files[0], {"one": []})
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "cut.dcm").write_bytes(files[1].read_bytes()[:700])
    before = scan(folder, "fast")
    request.getfixturevalue("meeting")
    after = scan(folder, "slow")
    assert len(before.to_pandas("files")) == 3 * AT_ONCE
    for name in TABLES:
        assert before.to_pandas(name).equals(after.to_pandas(name)), name


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_patches_and_volumes_of_a_slow_file_system_are_read_at_once(
    folder: Path, request: pytest.FixtureRequest, syntax: str | None
) -> None:
    more = {} if syntax is None else {"transfer_syntax": syntax}
    write_series(folder, shape=SHAPE, **more)  # type: ignore[arg-type]
    index = scan(folder, "index")
    stack = index.stacks[0]
    whole = dicomdl.read_volume(stack).array
    request.getfixturevalue("meeting")
    assert np.array_equal(dicomdl.read_volume(stack).array, whole)
    block = voxels_of(stack).read((0, 2, 3), (SHAPE[0], 10, 9)).array
    assert np.array_equal(block, whole[:, 2:10, 3:9])


def test_annotations_are_read_at_once_and_in_order(meeting: None, folder: Path) -> None:
    here = sources(folder)
    barrier = threading.Barrier(AT_ONCE)

    def work(source: Source) -> str:
        barrier.wait(timeout=30)
        return source.path

    assert list(each_of(work, here)) == [source.path for source in here]


def test_nothing_is_read_by_threads_where_the_file_system_is_fast(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(*_: Any) -> None:
        raise AssertionError("a thread was asked")

    for module in (_requests, ahead, object_heads):
        monkeypatch.setattr(module, "submit", submit)
    monkeypatch.setattr(object_heads, "HeadWalker", submit)
    files = write_series(folder / "ct", shape=SHAPE)
    write_structure_set(folder / "rois.dcm", files[0], {"one": []})
    write_structure_set(folder / "more.dcm", files[0], {"one": []})
    stack = scan(folder, "index").stacks[0]
    assert dicomdl.read_volume(stack).array.shape == SHAPE
    assert list(each_of(len, sources(folder, 3))) == [6, 6, 6]


# --- faults ---------------------------------------------------------------------------------------


def test_files_that_change_or_vanish_are_refused_where_they_are_read(folder: Path) -> None:
    here = sources(folder, 5)
    Path(here[1].path).write_bytes(b"longer" * 1000)
    os.unlink(here[2].path)
    Path(here[3].path).write_bytes(b"")
    found: list[Any] = []
    with reading_ahead([Span(source, 10, 500) for source in here]):
        for source in here:
            try:
                with opened(source) as handle:
                    found.append(read_range(handle, 10, 500))
            except PixelError as error:
                found.append(type(error))
    assert found == [bytes([0]) * 500, FileChanged, FileChanged, FileChanged, bytes([4]) * 500]


def test_ranges_that_were_not_declared_are_read_from_the_file(folder: Path) -> None:
    here = sources(folder, 3)
    with reading_ahead([Span(source, 10, 500) for source in here]), opened(here[1]) as handle:
        assert handle.size == 1000 and handle.source == here[1]
        handle.check(here[1])
        with pytest.raises(FileChanged):
            handle.check(here[1]._replace(size=7))
        assert handle.read_at(400, 300) == bytes([1]) * 300
        assert handle.read_at(900, 300) == bytes([1]) * 100
        assert handle.read_at(100, 7) == bytes([1]) * 7


def test_a_path_that_the_user_has_not_accepted_is_not_read(folder: Path) -> None:
    here = [source._replace(path=UnacceptedPath(source.path)) for source in sources(folder, 3)]
    others = sources(folder, 3)
    with (
        reading_ahead([Span(source, 10, 500) for source in (*here, *others)]),
        pytest.raises(UntrustedRoot),
        opened(here[0]),
    ):
        pass


@posix_only
def test_a_fork_while_another_thread_begins_a_loop_leaves_the_child_free() -> None:
    def begins_one() -> None:
        assert _plans.loops._lock.acquire(timeout=5)

    # The fork sees a lock that is held, as by another thread.
    with _plans.loops._lock:
        assert in_a_fork(begins_one) == os.EX_OK


def test_a_range_whose_loop_ends_in_another_thread_is_read_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ended(Future[memoryview]):
        def result(self, timeout: float | None = None) -> memoryview:
            plan.cancel()
            return super().result(timeout)

    monkeypatch.setattr(_plans, "submit", lambda *_: Ended())
    plan = _plans.Plan([Span(Source("/a", 1, 2, 3, 4), 0, 10)], lambda _: memoryview(b""))
    assert plan.take("/a", 0, 10, may_ask=True) is None
