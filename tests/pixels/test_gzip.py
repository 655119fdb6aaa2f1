"""gzip: what any reader inflates, and equal bytes for equal data."""

import gzip

import numpy as np
import pytest

from dicomdl.pixels.gzip import gzipped


@pytest.mark.parametrize("size", [0, 1, 4_999, 70_000, 1_000_000])
@pytest.mark.parametrize("is_noise", [True, False])
def test_data_come_back_whole_whether_they_compress_or_not(size: int, is_noise: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    data = memoryview(noise if is_noise else np.zeros(size, np.uint8))
    assert gzip.decompress(bytes(gzipped(data))) == data.tobytes()
    assert bytes(gzipped(data)) == bytes(gzipped(data))


def test_a_gzip_file_has_no_time_and_no_name() -> None:
    head = bytes(gzipped(memoryview(b"data")))[:10]
    assert head[:4] == b"\x1f\x8b\x08\x00"
    assert head[4:8] == bytes(4)
