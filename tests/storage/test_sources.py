"""sources: the state of a file is checked, and every reader checks it."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from conftest import index_of
from phantoms import ramp, write_multiframe, write_series
from phantoms_multi import write_mosaic

import dicomdl
from dicomdl.errors import FileChanged, PixelError, TruncatedPixels
from dicomdl.headers.frame import Frame
from dicomdl.headers.reader import read_frames
from dicomdl.pixels.read import read_frame, read_rows
from dicomdl.pixels.tiles import read_tiles
from dicomdl.storage import handles as handles_module
from dicomdl.storage.sources import (
    Source,
    as_stream,
    kept_open,
    look_up,
    opened,
    read_exactly,
    read_pieces,
    read_range,
    state_of,
)
from dicomdl.values._lookup_reading import modality_lut
from dicomdl.volumes.blocks import StackVoxels

DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
SHAPE = (6, 9, 14)


def rewrite(path: str | Path) -> None:
    """Overwrite the file with as many other bytes, and set the modification time back."""
    before = os.stat(path)
    # The resolution of a change time is that of the kernel's clock.
    time.sleep(0.02)
    with open(path, "r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"rewrite!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(path)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replace(path: str | Path) -> None:
    """Replace the file by another one of the same size and modification time."""
    before, data = os.stat(path), Path(path).read_bytes()
    time.sleep(0.02)
    other = Path(path).with_name("other")
    other.write_bytes(data[:-8] + b"replaced")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def test_a_file_of_the_same_size_and_another_time_is_told_by_its_time(tmp_path: Path) -> None:
    stack = series(tmp_path)
    os.utime(stack.paths[0], ns=(0, 0))
    with pytest.raises(FileChanged, match="another modification time"):
        dicomdl.read_volume(stack)


# --- every reader ---------------------------------------------------------------------------------


def series(folder: Path, **options: Any) -> dicomdl.Stack:
    write_series(folder, shape=SHAPE, **options)
    (stack,) = index_of(folder).stacks
    return stack


def plain(folder: Path) -> tuple[str, Callable[[], Any]]:
    source = series(folder).source(2)
    return source.path, lambda: read_frame(source)


def of_frame(folder: Path) -> tuple[str, Callable[[], Any]]:
    frame = series(folder).frame(2)
    return frame.path, lambda: read_frame(frame)


def rows(folder: Path) -> tuple[str, Callable[[], Any]]:
    source = series(folder).source(2)
    return source.path, lambda: read_rows(source, 1, 3)


def coded(folder: Path) -> tuple[str, Callable[[], Any]]:
    source = series(folder, transfer_syntax=RLE).source(2)
    return source.path, lambda: read_frame(source)


def deflated(folder: Path) -> tuple[str, Callable[[], Any]]:
    path = write_multiframe(folder / "a", transfer_syntax=DEFLATED, order=range(6))
    frames = read_frames(path)
    read_frame(frames[3])
    return str(path), lambda: read_frame(frames[4])


def volume(folder: Path) -> tuple[str, Callable[[], Any]]:
    stack = series(folder)
    return stack.source(4).path, lambda: dicomdl.read_volume(stack)


def patch(folder: Path) -> tuple[str, Callable[[], Any]]:
    stack = series(folder)
    voxels = StackVoxels(stack)
    voxels.read((0, 0, 0), (2, 3, 3))
    return stack.source(1).path, lambda: voxels.read((0, 0, 0), (2, 3, 3))


def cached_patch(folder: Path) -> tuple[str, Callable[[], Any]]:
    stack = series(folder / "dicom", transfer_syntax=RLE)
    cache = dicomdl.DiskCache(folder / "cache")
    return stack.source(1).path, lambda: StackVoxels(stack, cache=cache).read((0, 0, 0), (2, 3, 3))


def tile(folder: Path) -> tuple[str, Callable[[], Any]]:
    frames = mosaic(folder)
    read_frame(frames[0])
    return frames[0].path, lambda: read_frame(frames[1])


def tiles(folder: Path) -> tuple[str, Callable[[], Any]]:
    frames = mosaic(folder)
    return frames[0].path, lambda: read_tiles(frames, np.empty((7, 6, 8), np.uint16))


def mosaic(folder: Path) -> list[Frame]:
    return read_frames(write_mosaic(folder / "m.dcm", shape=(7, 6, 8)))


def rare_table(folder: Path) -> tuple[str, Callable[[], Any]]:
    frame = with_modality_lut(folder / "a.dcm")
    modality_lut(frame.file)
    return frame.path, lambda: modality_lut(frame.file)


def with_modality_lut(path: Path) -> Frame:
    (written, *_) = write_series(path.parent, shape=(1, 4, 4))
    dataset = pydicom.dcmread(written)
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.LUTData = [4, 0, 16], [1, 2, 3, 4]
    lut["LUTDescriptor"].VR = "US"
    lut["LUTData"].VR = "US"
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.ModalityLUTSequence = [lut]
    dataset.save_as(path)
    return read_frames(path)[0]


READERS = [
    *(plain, of_frame, rows, coded, deflated, volume, patch, cached_patch, tile, tiles, rare_table),
]


@pytest.mark.quick(4)
@pytest.mark.parametrize("change", [rewrite, replace])
@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_the_same_size_and_time_that_was_rewritten_is_refused(
    reader: Callable[[Path], tuple[str, Callable[[], Any]]],
    change: Callable[[str], None],
    tmp_path: Path,
) -> None:
    path, read = reader(tmp_path)
    read()
    change(path)
    with pytest.raises(FileChanged, match="scan again"):
        read()


def test_a_patch_through_a_dataset_refuses_it_as_well(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    stack = series(tmp_path / "dicom")
    index = dicomdl.open_index(tmp_path / "dicom.index")
    patches = dicomdl.PatchDataset(index, (6, 4, 4), intensity="modality")
    assert patches[0]["image"].shape == (1, 6, 4, 4)
    rewrite(stack.source(3).path)
    with pytest.raises(FileChanged):
        patches[0]


@pytest.mark.slow
def test_the_next_scan_reads_just_the_file_whose_change_time_moved(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom", shape=SHAPE)
    before = dicomdl.scan(tmp_path / "dicom", tmp_path / "index", progress=False)
    (stack,) = before.stacks
    os.chmod(stack.source(2).path, 0o600)
    with pytest.raises(FileChanged, match="permissions"):
        read_frame(stack.source(2))
    (again,) = dicomdl.scan(tmp_path / "dicom", tmp_path / "index", progress=False).stacks
    assert np.array_equal(read_frame(again.source(2)), ramp(SHAPE)[2])


# --- the check itself -----------------------------------------------------------------------------


def status_of(state: tuple[int, int, int, int]) -> os.stat_result:
    """The result that `os.stat` would give for such a file."""
    size, mtime_ns, ctime_ns, inode = state
    numbers = (0o100600, inode, 1, 1, 0, 0, size, 0, 0, 0)
    named = {"st_mtime_ns": mtime_ns, "st_ctime_ns": ctime_ns}
    return os.stat_result(numbers, named)


STATE = (10, 2000, 3000, 77)


def test_a_source_says_whether_a_file_is_the_one_that_was_scanned() -> None:
    source = Source("a", *STATE)
    assert state_of(status_of(STATE)) == (*STATE, "")
    source.check(status_of(STATE))
    for place in range(3):
        changed = tuple(value + (place == number) for number, value in enumerate(STATE))
        with pytest.raises(FileChanged) as caught:
            source.check(status_of(changed))  # type: ignore[arg-type]
        assert caught.value.expected_bytes == 10
    Source("a").check(status_of(STATE))
    Source("a", *STATE[:2]).check(status_of(STATE))
    with pytest.raises(FileChanged):
        Source("a", *STATE[:2]).check(status_of((11, *STATE[1:])))


def test_files_dated_before_1970_are_compared_as_well() -> None:
    with pytest.raises(FileChanged):
        Source("a", 10, -5_000, 3000).check(status_of((10, -6_000, 3000, 0)))


def test_a_file_dated_after_2262_is_indexed_and_read_and_its_changes_are_seen(
    tmp_path: Path,
) -> None:
    """Such a time in ns takes more than 63 bits: ext4 stores times up to 2446."""
    folder = tmp_path / "data"
    paths = write_series(folder, shape=SHAPE)
    expected = dicomdl.read_volume(index_of(folder).stacks[0]).array
    far = 2**63 + 5 * 10**9
    os.utime(paths[2], ns=(0, far))
    index = index_of(folder)
    assert len(index) == SHAPE[0] and not index.problems
    again = index_of(folder)
    assert again.generation == index.generation
    for row in range(len(again)):
        assert dicomdl.read_frame(again.frame(row)).shape == SHAPE[1:]
    assert np.array_equal(dicomdl.read_volume(again.stacks[0]).array, expected)
    os.utime(paths[2], ns=(0, far + 10**9))
    with pytest.raises(FileChanged, match="another modification time"):
        dicomdl.read_volume(again.stacks[0])


@pytest.mark.parametrize("time_ns", [2**63 - 1, 2**63, 2**64 - 7, -(2**63) - 1, 2**65 + 3])
def test_times_beyond_64_bits_wrap_around(time_ns: int) -> None:
    state = state_of(status_of((10, time_ns, time_ns, 77)))
    assert -(2**63) <= state[1] < 2**63 and (state[1] - time_ns) % 2**64 == 0
    Source("a", *state).check(status_of((10, time_ns, time_ns, 77)))
    with pytest.raises(FileChanged):
        Source("a", *state).check(status_of((10, time_ns + 1, time_ns, 77)))


def test_inodes_count_where_change_times_do_not_and_only_where_they_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = status_of((*STATE[:3], 78))
    Source("a", *STATE).check(other)
    monkeypatch.setattr(handles_module, "COMPARED", 4)
    with pytest.raises(FileChanged):
        Source("a", *STATE).check(other)
    Source("a", *STATE[:3], 0).check(other)
    Source("a", *STATE).check(status_of((*STATE[:3], 0)))


def test_inodes_beyond_63_bits_fit_the_index() -> None:
    assert state_of(status_of((*STATE[:3], 2**64 - 1)))[3] == 2**63 - 1
    assert state_of(status_of((*STATE[:3], 2**127 + 5)))[3] == 5


# --- handles --------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Source]:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    yield look_up(Source(str(tmp_path / "a")))


def test_a_handle_gives_ranges_of_a_file(file: Source) -> None:
    with opened(file) as handle:
        assert (handle.size, handle.source) == (100, file)
        assert handle.read_at(97, 10) == bytes((97, 98, 99))
        assert read_range(handle, 5, 3) == bytes((5, 6, 7))
        values = np.empty((2, 3), np.uint8)
        read_exactly(handle, values, 10)
        assert values.tolist() == [[10, 11, 12], [13, 14, 15]]
        for read in (lambda: read_range(handle, 98, 3), lambda: read_exactly(handle, values, 98)):
            with pytest.raises(TruncatedPixels):
                read()


def test_a_handle_serves_as_a_file_for_other_libraries(file: Source) -> None:
    with opened(file) as handle:
        stream = as_stream(handle)
        assert stream.read(3) == bytes((0, 1, 2)) and stream.tell() == 3
        assert stream.seek(-2, os.SEEK_END) == 98 and stream.read() == bytes((98, 99))
        assert stream.seek(40) == 40 and stream.seek(-3, os.SEEK_CUR) == 37
        stream.close()
        assert handle.read_at(0, 1) == b"\0"


def test_a_file_that_stays_open_is_checked_for_each_state_that_is_asked_for(file: Source) -> None:
    buffer = np.empty(4, np.uint8)
    stale = file._replace(ctime_ns=file.ctime_ns - 1)
    with kept_open():
        list(read_pieces([(file, 0)], [buffer]))
        for read in (
            lambda: opened(stale).__enter__(),
            lambda: list(read_pieces([(stale, 0)], [buffer])),
        ):
            with pytest.raises(FileChanged):
                read()
        list(read_pieces([(file, 6)], [buffer]))
    assert buffer.tolist() == [6, 7, 8, 9]


def test_what_is_no_file_or_is_gone_is_told_apart(file: Source, tmp_path: Path) -> None:
    with pytest.raises(PixelError, match="no regular file"):
        look_up(Source(str(tmp_path)))
    os.unlink(file.path)
    for ask in (look_up, lambda source: opened(source).__enter__()):
        with pytest.raises(FileChanged, match="gone"):
            ask(file)
        with pytest.raises(PixelError, match="No such file") as caught:
            ask(Source(file.path))
        assert not isinstance(caught.value, FileChanged) and caught.value.errno == 2


def test_a_file_whose_folder_became_a_file_is_gone(tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"")
    source = Source(str(tmp_path / "folder" / "a.dcm"), 1, 1)
    for ask in (look_up, lambda source: opened(source).__enter__()):
        with pytest.raises(FileChanged, match="gone"):
            ask(source)
