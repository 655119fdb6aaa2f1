"""Pieces whose samples become values as they are read: both loops, and the steps one by one."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomdl._kernels import both
from dicomdl.arrays import Bits, Values
from dicomdl.errors import PixelError, TruncatedPixels
from dicomdl.storage import pieces
from dicomdl.storage.handles import Source, state_of
from dicomdl.storage.pieces import Pieces, Window, pure_fill_block
from dicomdl.storage.sources import kept_open
from dicomdl.storage.system import CAN_SHARE
from dicomdl.values.bit_masks import BitMask
from dicomdl.values.looked_up import LookUp
from dicomdl.values.one_pass import BEYOND, FOUND, OnePass

pytestmark = pytest.mark.skipif(not CAN_SHARE, reason="this system reads by handles alone")

LOOPS = both(pure_fill_block) or (pure_fill_block,)
FILES, HEAD = 4, 9
# Rows and bytes of each: of a patch, and longer than what is read at once.
SHAPES = ((5, 24), (300, 1024), (3, 200_000))
NAN = np.frombuffer(np.uint32(0x7F812345).tobytes(), np.float32)[0]


@pytest.fixture(params=LOOPS, ids=lambda loop: getattr(loop, "__module__", None) or "compiled")
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each loop in turn, as the one that `Pieces` uses."""
    monkeypatch.setattr(pieces, "fill_block", request.param)
    return request.param


def bits_for(shape: tuple[int, ...]) -> Bits:
    """Return memory for a mask, a row of bits per piece, with ones in it."""
    bits = BitMask.empty(shape, shape[0]).bits
    bits.fill(255)
    return bits


def noted(error: PixelError, number: int) -> None:
    error.add_note(f"piece {number}")


def of(paths: Sequence[Path]) -> Pieces:
    sources = [Source(str(path), *state_of(os.stat(path))) for path in paths]
    return Pieces(sources, np.full(len(paths), HEAD, np.int64), noted)


def written(folder: Path, rows: int, row_bytes: int) -> tuple[Any, list[Path]]:
    """Write files of small numbers, of 16 bits or of 8 in pairs."""
    shape = (FILES, rows, row_bytes // 2)
    content = np.random.default_rng(rows).integers(0, 4096, shape).astype(np.uint16)
    content = content.view(np.uint8)
    paths = [folder / f"{rows}-{number}.bin" for number in range(FILES)]
    for path, part in zip(paths, content, strict=True):
        if not path.exists():
            path.write_bytes(bytes(HEAD) + part.tobytes())
    return content, paths


def whole(value: int) -> int:
    return value % (1 << 32)


def a_pass(code: str, to: str, slope: float, intercept: float, **rest: Any) -> Any:
    bits = (1 << 8 * np.dtype(code).itemsize) - 1
    steps = (code, rest.get("swaps", False), rest.get("left", 0), rest.get("right", 0), bits)
    ends = (0, 0) if to == "f" else (whole(int(slope)), whole(int(intercept)))
    return OnePass(steps, (to, *ends, slope, intercept), rest.get("padding"))


def table(bits: int) -> LookUp:
    entries = np.random.default_rng(bits).normal(size=1 << bits).astype(np.float32)
    entries[::7] = NAN
    return LookUp(entries)


CHANGES: Sequence[tuple[Any, ...]] = (
    (a_pass("H", "h", 1, -1024, padding=(0, 40)),),
    (a_pass("H", "h", 1, 0, swaps=True, right=4, padding=(4095, 4095)),),
    (a_pass("h", "h", -2, 5, left=4, right=4, padding=(-9, 9)),),
    (a_pass("H", "i", 300, -7),),
    (a_pass("H", "f", 0.37, 1e-3, padding=(5, 9)),),
    (a_pass("B", "h", 3, -1, padding=(0, 3)),),
    (a_pass("b", "f", 0.1, 0),),
    (a_pass("I", "i", 1, 1, padding=(0, 1 << 30)),),
    (a_pass("i", "f", 1e-3, 0.5, swaps=True),),
    (a_pass("H", "f", 1e36, 0),),
    tuple(a_pass("H", "f", 0.5 + n, n, padding=(n, 3 * n) if n else None) for n in range(4)),
    (table(8),),
    (table(16),),
    (),
)


@settings(deadline=None)
@given(data=st.data())
def test_both_loops_give_the_values_of_the_steps_one_by_one(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "changed"
    folder.mkdir(exist_ok=True)
    rows, row_bytes = data.draw(st.sampled_from(SHAPES))
    content, paths = written(folder, rows, row_bytes)
    places = of(paths)._places
    assert places is not None
    changes = data.draw(st.sampled_from(CHANGES))
    sample = changes[0].samples if changes else np.dtype(np.uint8)
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, row_bytes // 4 - 1))
    height = data.draw(st.integers(1, rows - top))
    wide = data.draw(st.integers(1, row_bytes // 4 - left)) * 4
    left, wide = data.draw(st.sampled_from([(left * 4, wide), (0, row_bytes)]))
    window = Window(top * row_bytes, height, row_bytes, left, wide)
    first = 0 if len(changes) > 1 else data.draw(st.integers(0, FILES - 1))
    parts = content[first:, top : top + height, left : left + wide]
    samples = np.ascontiguousarray(parts).view(sample).reshape(len(parts), -1)
    dtype = changes[0].values if changes else sample
    has_mask = data.draw(st.booleans())

    expected, masks, every = np.empty(samples.shape, dtype), bits_for(samples.shape), 0
    for number, part in enumerate(samples):
        if changes:
            change = changes[number if len(changes) > 1 else 0]
            mask = masks[number] if has_mask else None
            every |= change(part.copy(), expected[number], mask)
        else:
            expected[number] = part
    for loop in LOOPS:
        out, mask = np.empty(samples.shape, dtype), bits_for(samples.shape)
        given = mask if has_mask else None
        threads = data.draw(st.sampled_from((1, 2, 3, 9)))
        done, found = loop(places, first, window, out, given, None, changes, threads)
        assert (done, found) == (len(parts), every)
        # Beyond float32 is an error of the caller, and the pure steps end there.
        is_beyond = every & BEYOND
        assert is_beyond or np.array_equal(out.view(np.uint8), expected.view(np.uint8))
        assert not has_mask or np.array_equal(mask, masks)


def read(made: Pieces, change: Any, rows: int, row_bytes: int) -> tuple[Values, Values, int]:
    samples = row_bytes // change.samples.itemsize
    out = np.zeros((FILES, rows, samples), change.values)
    mask = bits_for(out.shape)
    window = Window(0, rows, row_bytes, 0, row_bytes)
    return out, mask, made.read(0, window, out, mask, [change])


@pytest.mark.parametrize("change", [a_pass("H", "h", 1, -5, padding=(0, 0)), table(16)], ids=str)
def test_a_piece_in_another_state_is_changed_by_its_handle(
    loop: Any, folder: Path, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, paths = written(folder, 5, 24)
    made, calls = of(paths), []
    out, mask, found = read(made, change, 5, 24)

    def one_alone(
        places: Any, first: int, window: Window, out: Values, mask: Values, *a: Any
    ) -> tuple[int, int]:
        calls.append(first)
        return loop(places, first, window, out[:1], mask[:1], *a)  # type: ignore[no-any-return]

    monkeypatch.setattr(pieces, "fill_block", one_alone)
    again, mask_again, found_again = read(made, change, 5, 24)
    assert calls == [0, 2] and found == found_again
    assert np.array_equal(out.view(np.uint8), again.view(np.uint8))
    assert np.array_equal(mask, mask_again)


def test_a_file_that_ends_too_early_is_an_error_of_its_piece(loop: Any, folder: Path) -> None:
    _, paths = written(folder, 300, 1024)
    os.truncate(paths[2], HEAD + 200 * 1024)
    with pytest.raises(TruncatedPixels) as caught:
        read(of(paths), a_pass("H", "h", 1, 0, padding=(0, 100)), 300, 1024)
    assert caught.value.__notes__ == ["piece 2"]


@pytest.mark.parametrize("threads", [1, 2, 3, FILES, 1 << 40])
@pytest.mark.parametrize("gone", [(0,), (1,), (3,), (1, 3), (0, 1, 2, 3)])
def test_threads_count_the_pieces_before_the_first_one_that_is_gone(
    loop: Any, folder: Path, threads: int, gone: tuple[int, ...]
) -> None:
    content, paths = written(folder, 5, 24)
    places, change = of(paths)._places, a_pass("H", "h", 1, 0, padding=(0, 4095))
    assert places is not None
    for number in gone:
        paths[number].unlink()
    for kept in (None, np.full(FILES, -1, np.int32)):
        out, mask = np.zeros((FILES, 60), np.int16), bits_for((FILES, 60))
        window = Window(0, 5, 24, 0, 24)
        done, found = loop(places, 0, window, out, mask, kept, (change,), threads)
        assert done == gone[0] and (not done or found == FOUND)
        assert np.array_equal(out[:done].view(np.uint8), content[:done].reshape(done, 120))
        if kept is not None:
            assert (kept[:done] >= 0).all() and (kept[list(gone)] == -1).all()
            for descriptor in kept[kept >= 0].tolist():
                os.close(descriptor)


def test_what_one_of_several_changes_finds_is_found(loop: Any, folder: Path) -> None:
    _, paths = written(folder, 5, 24)
    none, some = a_pass("H", "f", 1, 0, padding=(65_000, 65_001)), (0, 4095)
    changes = [none, none._replace(padding=some), a_pass("H", "f", 1e38, 0), none]
    out, mask = np.empty((FILES, 60), np.float32), BitMask.empty((FILES, 60), FILES)
    window = Window(0, 5, 24, 0, 24)
    with kept_open():
        assert of(paths).read(0, window, out, mask.bits, changes) == FOUND | BEYOND
    assert mask.unpacked().all(axis=1).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("values", "bytes_of_bits", "changes"),
    [
        (59, 8, (a_pass("H", "h", 1, 0),)),
        (60, 7, (a_pass("H", "h", 1, 0),)),
        (60, 8, (a_pass("H", "h", 1, 0),) * 2),
        (60, 8, (a_pass("H", "i", 1, 0),)),
        (60, 8, (LookUp(np.zeros(60, np.float32)),)),
        (60, 8, (a_pass("H", "h", 1, 0, right=16),)),
        (60, 8, (a_pass("H", "h", 1, 0)._replace(meant=("q", False, 0, 0, 0)),)),
        (60, 8, (a_pass("H", "h", 1, 0)._replace(padding=(1, "a")),)),
        (60, 8, (7,)),
        (60, 8, ((),)),
    ],
)
def test_the_compiled_loop_refuses_changes_that_do_not_fit_the_memory(
    folder: Path, values: int, bytes_of_bits: int, changes: Any
) -> None:
    compiled = both(pure_fill_block)
    if compiled is None:
        pytest.skip("there is no compiled module")
    _, paths = written(folder, 5, 24)
    places, window = of(paths)._places, Window(0, 5, 24, 0, 24)
    assert places is not None
    out, mask = np.zeros(values, np.int16), np.zeros(bytes_of_bits, np.uint8)
    with pytest.raises((ValueError, TypeError)):
        compiled[0](places, 0, window, out, mask, None, changes)


def test_the_compiled_loop_refuses_samples_that_a_row_does_not_hold(folder: Path) -> None:
    compiled = both(pure_fill_block)
    if compiled is None:
        pytest.skip("there is no compiled module")
    _, paths = written(folder, 5, 24)
    places, change = of(paths)._places, a_pass("I", "i", 1, 0)
    assert places is not None
    with pytest.raises(ValueError, match="exceed"):
        compiled[0](places, 0, Window(0, 1, 24, 0, 6), np.zeros(1, "i4"), None, None, (change,))
    odd = np.zeros(25, np.uint8)[1:]
    with pytest.raises(ValueError, match="exceed"):
        compiled[0](places, 0, Window(0, 1, 24, 0, 24), odd, None, None, (change,))
