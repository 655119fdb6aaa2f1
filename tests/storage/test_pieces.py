"""Pieces of many files in one block: both loops on the same files, whole, damaged and replaced."""

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from descriptors import HAS_PROC, open_below
from hypothesis import given
from hypothesis import strategies as st

from dicomdl._kernels import both
from dicomdl.errors import FileChanged, PixelError, TruncatedPixels, UntrustedRoot
from dicomdl.storage import _descriptors, _slow, pieces
from dicomdl.storage.handles import MovedPath, Source, state_of
from dicomdl.storage.paths import RootedPath, UnacceptedPath
from dicomdl.storage.pieces import Pieces, Window
from dicomdl.storage.sources import KeptFiles, kept_open
from dicomdl.storage.system import CAN_SHARE

LOOPS = both(pieces.pure_fill_block) or (pieces.pure_fill_block,)
ROWS, ROW_BYTES, HEAD, FILES = 6, 20, 7, 5
Bytes = Any


@pytest.fixture(params=LOOPS, ids=lambda loop: getattr(loop, "__module__", None) or "compiled")
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Each loop in turn, as the one that `Pieces` uses."""
    monkeypatch.setattr(pieces, "fill_block", request.param)
    return request.param  # type: ignore[no-any-return]


def written(
    folder: Path, files: int = FILES, row_bytes: int = ROW_BYTES
) -> tuple[Bytes, list[Path]]:
    content = np.random.default_rng(0).integers(0, 256, (files, ROWS, row_bytes), np.uint8)
    paths = [folder / f"{number}.bin" for number in range(files)]
    for path, part in zip(paths, content, strict=True):
        path.write_bytes(bytes(HEAD) + part.tobytes())
    return content, paths


def scanned(path: Any) -> Source:
    return Source(path, *state_of(os.stat(path)))


def noted(error: PixelError, number: int) -> None:
    error.add_note(f"piece {number}")


def of(paths: list[Path], kind: Callable[[str], str] = str) -> Pieces:
    sources = [scanned(kind(str(path))) for path in paths]
    return Pieces(sources, np.full(len(paths), HEAD, np.int64), noted)


def read(made: Pieces, first: int, count: int, window: Window) -> Bytes:
    out = np.zeros((count, window.rows, window.width), np.uint8)
    made.read(first, window, out)
    return out


WHOLE = Window(0, ROWS, ROW_BYTES, 0, ROW_BYTES)
PART = Window(2 * ROW_BYTES, 3, ROW_BYTES, 4, 10)


needs_loop = pytest.mark.skipif(not CAN_SHARE, reason="this system reads by handles alone")
needs_proc = pytest.mark.skipif(not HAS_PROC, reason="this system has no /proc")


def test_rows_and_columns_of_pieces_are_those_of_the_files(loop: Any, folder: Path) -> None:
    content, paths = written(folder)
    made = of(paths)
    assert np.array_equal(read(made, 0, FILES, WHOLE), content)
    assert np.array_equal(read(made, 1, 3, PART), content[1:4, 2:5, 4:14])
    with kept_open():
        for _ in range(2):
            assert np.array_equal(read(made, 2, 2, PART), content[2:4, 2:5, 4:14])


@needs_loop
@needs_proc
@pytest.mark.parametrize("order", ["aaabb", "abbba", "ababa", "aabaa"])
def test_pieces_of_several_folders_are_read_and_no_folder_stays_open(
    loop: Any, folder: Path, order: str
) -> None:
    content, paths = written(folder)
    for number, name in enumerate(order):
        (folder / name).mkdir(exist_ok=True)
        paths[number] = paths[number].rename(folder / name / paths[number].name)
    made = of(paths)
    assert np.array_equal(read(made, 0, FILES, WHOLE), content)
    assert np.array_equal(read(made, 1, 3, PART), content[1:4, 2:5, 4:14])
    assert open_below(folder) == 0
    paths[3].unlink()
    with pytest.raises(FileChanged, match="gone"):
        read(made, 0, FILES, WHOLE)
    assert open_below(folder) == 0


def test_wide_rows_are_read_row_by_row(loop: Any, folder: Path) -> None:
    wide = 10_000
    content, paths = written(folder, 2, wide)
    window = Window(wide, 2, wide, 9_900, 100)
    assert np.array_equal(read(of(paths), 0, 2, window), content[:, 1:3, 9_900:])


@needs_loop
@given(st.data())
def test_both_loops_fill_the_same_bytes(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "pieces"
    folder.mkdir(exist_ok=True)
    if not (folder / "0.bin").exists():
        written(folder)
    made = of([folder / f"{number}.bin" for number in range(FILES)])
    first, rows = data.draw(st.integers(0, FILES - 1)), data.draw(st.integers(1, ROWS))
    lead = data.draw(st.integers(0, ROW_BYTES - 1))
    width = data.draw(st.integers(1, ROW_BYTES - lead))
    # Also beyond the end of the file, where both end before the piece.
    begin = data.draw(st.integers(0, (ROWS - rows + 1) * ROW_BYTES + HEAD))
    window = Window(begin, rows, ROW_BYTES, lead, width)
    count = data.draw(st.integers(1, FILES - first))
    results = []
    for loop in LOOPS:
        out = np.zeros((count, window.size), np.uint8)
        assert made._places is not None
        complete, found = loop(made._places, first, window, out, None, None, ())
        results.append((complete, found, out[:complete].tobytes()))
    assert all(each == results[0] for each in results)


@needs_proc
def test_a_file_in_another_state_is_named_and_no_descriptor_stays(loop: Any, folder: Path) -> None:
    content, paths = written(folder)
    made = of(paths)
    os.utime(paths[3], ns=(1, 1))
    with pytest.raises(FileChanged, match="modification time") as caught:
        read(made, 1, 4, PART)
    assert caught.value.__notes__ == ["piece 3"]
    assert np.array_equal(read(made, 0, 3, WHOLE), content[:3])
    paths[0].unlink()
    with pytest.raises(FileChanged, match="gone"):
        read(made, 0, 1, WHOLE)
    assert open_below(folder) == 0


def test_a_file_that_was_copied_over_with_its_times_is_refused(loop: Any, folder: Path) -> None:
    _, paths = written(folder)
    made = of(paths)
    status = paths[1].stat()
    paths[1].write_bytes(bytes(status.st_size))
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(FileChanged, match="rewritten"):
        read(made, 0, 2, WHOLE)
    assert read(of(paths, MovedPath), 1, 1, WHOLE).max() == 0


def test_a_change_time_is_not_compared_where_the_index_does_not(loop: Any, folder: Path) -> None:
    content, paths = written(folder)
    moved = of(paths, MovedPath)
    for path in paths:
        os.chmod(path, 0o600)
    assert np.array_equal(read(moved, 0, FILES, WHOLE), content)
    unknown = Pieces([Source(str(path)) for path in paths], np.full(FILES, HEAD), noted)
    assert np.array_equal(read(unknown, 0, FILES, WHOLE), content)


def test_a_file_that_ends_too_early_is_an_error(loop: Any, folder: Path) -> None:
    _, paths = written(folder)
    os.truncate(paths[2], HEAD + 4 * ROW_BYTES + 14)
    with pytest.raises(TruncatedPixels) as caught:
        read(of(paths), 0, FILES, PART)
    assert caught.value.__notes__ == ["piece 2"]


def test_a_folder_in_the_place_of_a_file_is_an_error_by_its_handle(loop: Any, folder: Path) -> None:
    _, paths = written(folder)
    made = of(paths)
    paths[1].unlink()
    paths[1].mkdir()
    with pytest.raises(PixelError):
        read(made, 0, 2, WHOLE)


def test_links_out_of_an_untrusted_root_are_refused(loop: Any, folder: Path) -> None:
    content, paths = written(folder)
    made = of(paths, lambda path: RootedPath(path, str(folder), str(folder)))
    assert np.array_equal(read(made, 0, FILES, PART), content[:, 2:5, 4:14])
    inside = folder / "inside.bin"
    paths[1].rename(inside)
    paths[1].symlink_to(inside)
    linked = of(paths, lambda path: RootedPath(path, str(folder), str(folder)))
    assert np.array_equal(read(linked, 0, 2, WHOLE), content[:2])
    outside = folder.parent / "outside.bin"
    inside.rename(outside)
    paths[1].unlink()
    paths[1].symlink_to(outside)
    with pytest.raises(UntrustedRoot):
        read(linked, 0, 2, WHOLE)
    with pytest.raises(UntrustedRoot):
        read(of(paths, UnacceptedPath), 0, 1, WHOLE)


@needs_loop
@needs_proc
def test_descriptors_stay_for_the_next_batch_and_see_a_replaced_file(
    loop: Any, folder: Path
) -> None:
    content, paths = written(folder)
    made, kept = of(paths, MovedPath), KeptFiles()
    with kept_open(kept):
        read(made, 0, 3, WHOLE)
    assert open_below(folder) == 3
    status = paths[1].stat()
    beside = folder / "beside.bin"
    beside.write_bytes(bytes(status.st_size))
    os.utime(beside, ns=(status.st_atime_ns, status.st_mtime_ns))
    beside.replace(paths[1])
    with kept_open(kept):
        found = read(made, 0, 3, WHOLE)
    assert np.array_equal(found[::2], content[:3:2]) and found[1].max() == 0
    assert open_below(folder) == 3
    del kept
    assert open_below(folder) == 0


@needs_loop
@needs_proc
def test_the_files_used_last_stay_open_up_to_the_bound(
    loop: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, paths = written(folder)
    held = _descriptors.OpenPieces()
    held._most = 4
    monkeypatch.setattr(pieces, "kept_descriptors", held.of)
    one, other = of(paths), of(paths)
    for made, first, count, expected in (
        *((one, 0, 3, 3), (one, 1, 3, 4), (other, 0, 3, 3), (other, 2, 2, 4)),
        *((one, 0, 2, 2), (one, 0, 5, 2)),
    ):
        assert np.array_equal(read(made, first, count, WHOLE), content[first : first + count])
        assert open_below(folder) == expected
    beside = _descriptors.OpenPieces()
    beside._most = 4
    monkeypatch.setattr(pieces, "kept_descriptors", beside.of)
    for count, expected in ((3, 2), (2, 4), (1, 4)):
        assert np.array_equal(read(one, 0, count, WHOLE), content[:count])
        assert open_below(folder) == expected
    del held, beside
    monkeypatch.undo()
    assert open_below(folder) == 0


@needs_loop
@needs_proc
def test_each_thread_keeps_its_own_descriptors_which_end_with_it(folder: Path) -> None:
    content, paths = written(folder)
    made, kept = of(paths), KeptFiles()

    def work(kept: KeptFiles) -> None:
        with kept_open(kept):
            assert np.array_equal(read(made, 0, FILES, WHOLE), content)
        counts.append(open_below(folder))

    counts: list[int] = []
    work(kept)
    thread = threading.Thread(target=work, args=(kept,))
    thread.start()
    thread.join()
    assert counts == [FILES, 2 * FILES]
    assert open_below(folder) == FILES
    copy = pickle.loads(pickle.dumps(kept))
    del kept, thread
    assert open_below(folder) == 0
    with kept_open(copy):
        read(made, 0, 1, WHOLE)
    assert open_below(folder) == 1


def test_the_bound_is_a_part_of_what_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for allowed, expected in (
        (256, 32),
        (1024, 128),
        (1 << 20, 512),
        (resource.RLIM_INFINITY, 512),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, allowed=allowed: (allowed, allowed))
        assert _descriptors.most_open() == expected


def test_a_lack_of_descriptors_closes_those_that_stay(
    loop: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, paths = written(folder)
    made = of(paths)
    monkeypatch.setattr(pieces, "fill_block", lambda *a: (0, 0))
    with kept_open():
        assert np.array_equal(read(made, 0, FILES, PART), content[:, 2:5, 4:14])


def test_files_of_a_slow_file_system_are_read_by_their_handles(
    loop: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, paths = written(folder)

    def never(*a: Any) -> int:
        raise AssertionError("the loop waits for each file")

    monkeypatch.setattr(pieces, "fill_block", never)
    monkeypatch.setattr(_slow, "_time", lambda path, offset: 1.0)
    _slow._verdict_on.cache_clear()
    try:
        assert np.array_equal(read(of(paths), 0, FILES, WHOLE), content)
    finally:
        _slow._verdict_on.cache_clear()


@needs_loop
def test_a_thread_that_the_system_lacks_is_done_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        asked.append(thread)
        raise RuntimeError("can't start new thread")

    asked: list[threading.Thread] = []
    content, paths = written(folder)
    places = of(paths)._places
    assert places is not None
    monkeypatch.setattr(threading.Thread, "start", start)
    out = np.zeros(content.shape, content.dtype)
    parts = out.reshape(FILES, -1).view(np.uint8)
    assert pieces.pure_fill_block(places, 0, WHOLE, parts, None, None, (), 3) == (FILES, 0)
    assert np.array_equal(out, content)
    assert len(asked) == 2


def test_threads_read_the_same_pieces_at_once(loop: Any, folder: Path) -> None:
    content, paths = written(folder)
    made, kept, wrong = of(paths), KeptFiles(), []

    def work() -> None:
        for number in range(60):
            first = number % 3
            with kept_open(kept if number % 2 == 0 else None):
                if not np.array_equal(read(made, first, 3, WHOLE), content[first : first + 3]):
                    wrong.append(number)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_child_reads_through_descriptors_that_it_inherits(loop: Any, folder: Path) -> None:
    content, paths = written(folder)
    made, kept = of(paths), KeptFiles()
    with kept_open(kept):
        read(made, 0, FILES, WHOLE)
    child = os.fork()
    if child == 0:
        with kept_open(kept):
            fine = np.array_equal(read(made, 0, FILES, PART), content[:, 2:5, 4:14])
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with kept_open(kept):
        assert np.array_equal(read(made, 0, FILES, WHOLE), content)


@pytest.fixture
def placed(folder: Path) -> Iterator[Any]:
    """The places of some pieces."""
    made = of(written(folder)[1])
    yield made._places


@pytest.mark.parametrize(
    ("first", "window", "room"),
    [
        (0, WHOLE, 6 * WHOLE.size),
        (-1, WHOLE, WHOLE.size),
        (5, WHOLE, WHOLE.size),
        (0, WHOLE, WHOLE.size - 1),
        (0, PART._replace(lead=11), PART.size),
        (0, PART._replace(lead=-1), PART.size),
        (0, PART._replace(begin=-1), PART.size),
        (0, PART._replace(rows=0), PART.size),
        (0, PART._replace(width=0), PART.size),
        (0, PART._replace(rows=1 << 60, row_bytes=1 << 60), PART.size),
        (0, PART._replace(begin=(1 << 63) - 1), PART.size),
    ],
)
def test_numbers_that_exceed_the_memory_are_refused_by_the_compiled_loop(
    placed: Any, first: int, window: Window, room: int
) -> None:
    compiled = both(pieces.pure_fill_block)
    if compiled is None:
        pytest.skip("there is no compiled module")
    out = np.zeros(max(0, room), np.uint8)
    with pytest.raises(ValueError, match="exceed"):
        compiled[0](placed, first, window, out, None, None, ())
    whole = np.zeros(WHOLE.size, np.uint8)
    with pytest.raises(ValueError, match="exceed"):
        compiled[0](placed, 0, WHOLE, whole, None, np.zeros(4, np.int32), ())
    with pytest.raises((TypeError, ValueError)):
        compiled[0](placed._replace(paths=("a",) * FILES), 0, WHOLE, whole, None, None, ())
