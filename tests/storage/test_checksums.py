"""checksums: blocks that are verified once, and files that begin with their checksum."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomdl.storage import checksums
from dicomdl.storage.checksums import (
    BLOCK_BYTES,
    Blocks,
    first_damaged,
    sealed,
    sums_of_file,
    unsealed,
)


class Damaged(Exception):
    pass


def damaged(block: int) -> Exception:
    return Damaged(block)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three blocks, of which the last is short."""
    data = np.random.default_rng(0).integers(0, 256, 2 * BLOCK_BYTES + 100, np.uint8)
    path = tmp_path / "data"
    path.write_bytes(data.tobytes())
    return path


def test_a_block_is_compared_when_it_is_first_used(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[BLOCK_BYTES + 7] ^= 16
    blocks = Blocks(memoryview(data), sums_of_file(str(path)), damaged)
    blocks.verify(0, BLOCK_BYTES)
    blocks.verify(2 * BLOCK_BYTES, len(data))
    blocks.verify(BLOCK_BYTES, BLOCK_BYTES)
    for start, stop in ((BLOCK_BYTES - 1, BLOCK_BYTES + 1), (0, len(data))):
        for _ in range(2):
            with pytest.raises(Damaged, match="1"):
                blocks.verify(start, stop)


def test_a_block_is_compared_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = path.read_bytes()
    blocks = Blocks(memoryview(data), sums_of_file(str(path)), damaged)
    blocks.verify(10, 20)
    monkeypatch.delattr(checksums, "xxhash")
    blocks.verify(0, BLOCK_BYTES)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 2**18), (2**40, 2**41)])
def test_a_range_outside_of_the_file_is_damage(path: Path, start: int, stop: int) -> None:
    data = path.read_bytes()
    with pytest.raises(Damaged):
        Blocks(memoryview(data), sums_of_file(str(path)), damaged).verify(start, stop)


def test_the_first_damaged_block_of_a_file_is_found(path: Path) -> None:
    sums, data = sums_of_file(str(path)), path.read_bytes()
    assert first_damaged(str(path), sums) is None
    for changed, block in (
        (data[:-1], 2),
        (data[:BLOCK_BYTES], 1),
        (b"", 0),
        (data + b"\0", 2),
        (bytes([data[0] ^ 1]) + data[1:], 0),
    ):
        path.write_bytes(changed)
        assert first_damaged(str(path), sums) == block


@pytest.mark.slow
@given(st.data())
def test_a_sealed_file_is_json_and_shows_every_change(data: st.DataObject) -> None:
    content = {"generation": "ab12", "files": {"frames.arrow": [3, []]}}
    rest = data.draw(st.sampled_from([b"", b"\0\n\1{}"]))
    whole = sealed(content, rest)
    assert unsealed(whole) == (content, rest)
    if not rest:
        assert json.loads(whole).items() >= content.items()
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    for other in (bytes(changed), whole[: bit // 8]):
        with pytest.raises(ValueError, match="checksum"):
            unsealed(other)
