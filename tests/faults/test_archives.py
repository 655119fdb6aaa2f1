"""Hostile and damaged archives: each fault is a problem with its reason, and costs little."""

import contextlib
import random
import resource
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from faults import archives
from faults.archives import CASES, Case, entry, zip_of

import dicomdl
from dicomdl.errors import DicomdlError
from dicomdl.headers.reader import read_frames
from dicomdl.storage import memory


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    memory.clear()


@pytest.mark.quick(6)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_fault_is_a_problem_with_its_reason_and_costs_no_other_member(
    case: Case, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / case.name).write_bytes(case.make())
    before = sorted(folder.rglob("*"))
    index = dicomdl.scan(folder / case.name, tmp_path / "i", progress=False)
    assert tuple(sorted(p.reason for p in index.problems)) == tuple(sorted(case.reasons))
    assert all(p.detail and p.path.startswith(str(folder / case.name)) for p in index.problems)
    others = index.ledger["files"] - len(index.problems)
    assert others == case.has_good
    assert sorted(folder.rglob("*")) == before
    # No reader takes the path that a problem names.
    for problem in index.problems:
        with pytest.raises(DicomdlError):
            read_frames(problem.path)
    # The second scan finds the same, and writes nothing.
    again = dicomdl.scan(folder / case.name, tmp_path / "i", progress=False)
    assert list(again.problems) == list(index.problems)
    assert again.manifest["generation"] == index.manifest["generation"]


@pytest.mark.slow
def test_more_members_than_the_limit_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    path.write_bytes(zip_of(*[entry(b"%d" % number) for number in range(20)]))
    tar = tmp_path / "many.tar"
    tar.write_bytes(archives.tar_of(*[(f"{number}", b"text") for number in range(20)]))
    for members, reasons in ((19, ["too_many_members"]), (20, [])):
        limits = dicomdl.ReadLimits(members=members)
        for each in (path, tar):
            out = tmp_path / f"{each.name}{members}"
            index = dicomdl.scan(each, out, progress=False, limits=limits)
            assert [p.reason for p in index.problems] == reasons


@pytest.mark.slow
def test_a_compressed_tar_that_inflates_too_far_leaves_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(zlib.compress(archives.tar_of(("x", bytes(30_000_000))), wbits=31))
    limits = dicomdl.ReadLimits(inflated_bytes=1000)
    (problem,) = dicomdl.scan(path, tmp_path / "i", progress=False, limits=limits).problems
    assert problem.reason == "inflates_too_far"
    assert list((tmp_path / "cache" / "archives").iterdir()) == []
    assert dicomdl.scan(path, tmp_path / "j", progress=False).ledger["not_dicom"] == 1


@pytest.mark.slow
def test_a_member_of_zeros_costs_a_scan_its_first_bytes_only(tmp_path: Path) -> None:
    path = tmp_path / "zeros.zip"
    path.write_bytes(archives.zip_with("zeros.dcm", bytes(160_000_000), 8))
    unit = 2**20 if sys.platform == "darwin" else 2**10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = dicomdl.scan(path, tmp_path / "i", progress=False)
    assert index.ledger["not_dicom"] == 1
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit < 64
    assert memory.report()["archive members"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_damaged_bytes_of_an_archive_never_raise_another_error(name: str, tmp_path: Path) -> None:
    image = read_test_file()
    made = {
        "a.zip": lambda: zip_of(
            entry(b"s/a.dcm", image),
            entry(
                b"s/b.dcm",
                archives.deflated(image),
                method=8,
                size=len(image),
                crc=zlib.crc32(image),
            ),
        ),
        "a.tar": lambda: archives.tar_of(("s/a.dcm", image), ("s/b.dcm", image)),
    }
    whole = made[name]()
    heads = [at for at in range(len(whole)) if not (200 < at % 20_000 < 19_000)]
    draw = random.Random(5)
    path = tmp_path / name
    for number in range(20):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 3))):
            damaged[draw.choice(heads)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        if draw.random() < 0.2:
            damaged = damaged[: draw.randrange(len(damaged))]
        path.write_bytes(damaged)
        memory.clear()
        with tempfile.TemporaryDirectory() as out:
            index = dicomdl.scan(path, out, progress=False)
            for stack in index.stacks:
                with contextlib.suppress(DicomdlError):
                    dicomdl.read_volume(stack)
            assert not any(p.reason == "reader_error" for p in index.problems), number


def read_test_file() -> bytes:
    from pydicom.data import get_testdata_file

    return Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
