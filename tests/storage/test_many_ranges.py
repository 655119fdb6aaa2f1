"""Ranges of one open file, read by the loop and by the handle behind it."""

from pathlib import Path

import numpy as np
import pytest

from dicomdl.errors import PixelError, TruncatedPixels
from dicomdl.storage.handles import Handle, LocalFile
from dicomdl.storage.many_ranges import Ranges, read_ranges


class Counting(LocalFile):
    """A file that reads in a way of its own."""

    reads = 0

    def read_into(self, buffer: memoryview, offset: int) -> int:
        self.reads += 1
        return super().read_into(buffer, offset)


RANGES = Ranges(np.array([[10, 3, 8, 2, 4, 0], [40, 1, 6, 0, 6, 12]], np.int64), 18)


def read(handle: Handle, ranges: Ranges) -> np.ndarray:
    out, band = np.zeros(ranges.size, np.uint8), np.zeros(ranges.band_size, np.uint8)
    read_ranges(handle, ranges, out, band, lambda error, at: error.add_note(f"range {at}"))
    return out


@pytest.mark.parametrize("kind", [LocalFile, Counting])
def test_the_columns_of_rows_are_read_by_any_handle(tmp_path: Path, kind: type[LocalFile]) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(60)))
    handle = kind(str(path))
    rows = [byte for row in range(3) for byte in range(12 + 8 * row, 16 + 8 * row)]
    assert RANGES.band_size == 24
    assert read(handle, RANGES).tolist() == [*rows, *range(40, 46)]
    assert not isinstance(handle, Counting) or handle.reads == 2
    handle.close()


@pytest.mark.parametrize("kind", [LocalFile, Counting])
def test_a_file_that_is_too_short_is_said_with_the_range(
    tmp_path: Path, kind: type[LocalFile]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(43))
    handle = kind(str(path))
    with pytest.raises(TruncatedPixels, match="needs 6 bytes, found 3") as caught:
        read(handle, RANGES)
    assert caught.value.__notes__ == ["range 1"]
    assert isinstance(caught.value, PixelError)
    handle.close()
