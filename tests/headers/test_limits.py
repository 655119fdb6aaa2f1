"""limits: what one file may cost, and that the limits can be set."""

import gc
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from faults import bombs
from faults.writing import Changes, image_file, text

import dicomdl
from dicomdl.errors import UsageError
from dicomdl.headers import columns as columns_module
from dicomdl.headers import reader as reader_module
from dicomdl.headers._pixel_data import pixel_layout
from dicomdl.headers.limits import ReadLimits
from dicomdl.headers.reader import HeaderReader


def reason_of(raw: bytes, limits: ReadLimits) -> str:
    header = HeaderReader(limits=limits).parse(
        raw[:16_384], len(raw), lambda at, n: raw[at : at + n]
    )
    return header.reason or header.kind


FRAMES = bombs.file(bombs.EXPLICIT_LITTLE, bombs.image(bombs.native(bytes(16 * 50)), frames=50))
FRAGMENTS = bombs.file(bombs.JPEG_LS, bombs.image(bombs.encapsulated(bombs.jpeg_ls(), *[b""] * 20)))
(ELEMENTS,) = bombs.many_elements(50_000)
DEFLATED = bombs.file(bombs.DEFLATED, bombs.image(bombs.native(bytes(160_000)), frames=10_000))


(LONG,) = bombs.long_sequence(100_000)


@pytest.mark.parametrize(
    ("raw", "limits", "reason"),
    [
        (FRAMES, {"frames": 49}, "too_many_frames"),
        (FRAMES, {"frames": 50}, "image"),
        (FRAMES, {"free_frames": 49, "bytes_per_frame": len(FRAMES) // 50 + 1}, "too_many_frames"),
        (FRAMES, {"free_frames": 49, "bytes_per_frame": len(FRAMES) // 50}, "image"),
        (FRAMES, {"free_frames": 50, "bytes_per_frame": 10**9}, "image"),
        (FRAGMENTS, {"fragments": 20}, "too_many_fragments"),
        (FRAGMENTS, {"fragments": 21}, "image"),
        (FRAGMENTS, {"free_frames": 20, "bytes_per_frame": 100}, "too_many_fragments"),
        (FRAGMENTS, {"free_frames": 20, "bytes_per_frame": 10}, "image"),
        (ELEMENTS, {"header_bytes": 50_000}, "header_too_large"),
        (ELEMENTS, {"elements": 40_000}, "too_many_elements"),
        (DEFLATED, {"inflated_bytes": 150_000, "header_bytes": 1000}, "header_too_large"),
        (LONG, {"inflated_bytes": 5000, "header_bytes": 1000}, "header_too_large"),
        (LONG, {"inflated_bytes": 5000}, "image"),
        (DEFLATED, {"free_frames": 9999}, "too_many_frames"),
        (DEFLATED, {}, "image"),
    ],
)
def test_a_file_beyond_a_limit_is_a_problem(
    raw: bytes, limits: dict[str, int], reason: str
) -> None:
    assert reason_of(raw, ReadLimits(**limits)) == reason


def longest_key(cache: Any) -> int:
    """Return the length of the longest bytes that a cache of `functools` refers to."""
    longest, found = 0, [cache]
    for _ in range(4):
        found = [each for one in found for each in gc.get_referents(one)]
        found = [each for each in found if type(each) in (dict, tuple, list, bytes)]
        longest = max([longest, *(len(each) for each in found if type(each) is bytes)])
        found = [each for each in found if type(each) is not bytes]
    return longest


@pytest.mark.parametrize(
    "changes",
    [
        {0x00281053: text(b"1".rjust(60_000), b"DS")},
        {0x00280008: text(b"1".rjust(60_000, b"0"), b"IS")},
        {0x0020000D: text(b"1" + b".1" * 30_000, b"UI")},
        {0x00080016: text(b"1" + b".1" * 30_000, b"UI")},
    ],
)
def test_no_cache_keeps_the_long_values_of_a_file(changes: Changes) -> None:
    raw = image_file(changes)
    for _ in range(2):
        header = HeaderReader().parse(raw, len(raw), lambda at, n: raw[at : at + n])
        assert header.kind == "image"
    for cache in (reader_module._known_uid, columns_module.are_real, pixel_layout):
        assert longest_key(cache) <= columns_module.LONGEST_CACHED


def test_a_small_file_of_a_million_frames_is_refused_at_once() -> None:
    (raw,) = bombs.million_frames()
    header = HeaderReader().parse(raw, len(raw), lambda at, n: raw[at : at + n])
    assert header.reason == "too_many_frames"
    assert "up to 10000 are read" in header.detail


@pytest.mark.parametrize("name", [field.name for field in fields(ReadLimits)])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9"])
def test_a_limit_is_a_positive_integer(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name}=.*expected an integer of at least 1"):
        ReadLimits(**{name: value})


def test_a_scan_reads_all_files_again_under_other_limits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.dcm").write_bytes(FRAMES)
    few = dicomdl.ReadLimits(frames=10)
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", limits=few, progress=False)
    (problem,) = index.problems
    assert problem.reason == "too_many_frames"
    assert "up to 10 are read" in problem.detail
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    assert (len(index), len(index.problems)) == (50, 0)


@pytest.mark.slow
def test_worker_processes_obey_the_limits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(1100):
        (tmp_path / "data" / f"{number}.dcm").write_bytes(FRAMES if number == 7 else b"")
    few = dicomdl.ReadLimits(frames=10)
    index = dicomdl.scan(
        tmp_path / "data", tmp_path / "index", limits=few, workers=2, progress=False
    )
    assert index.problems.reasons()["too_many_frames"] == 1
