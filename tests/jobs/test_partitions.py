"""partitions: a plan, markers that are written last, and a merge that checks them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dicomdl.errors import StorageError, UsageError
from dicomdl.jobs import partitions
from dicomdl.jobs.partitions import Plan


class Words:
    """A job that writes a file per word of a partition."""

    def __init__(self, folder: Path, *words: str) -> None:
        keys = [partitions.key_of(each) for each in words]
        payload = "\n".join(words).encode()
        self.plan: Plan = partitions.write_plan(str(folder), "words", keys, {"n": 1}, payload)
        self.words = words
        self.made: list[int] = []

    def units(self, number: int) -> Sequence[str]:
        """Return the words of a partition."""
        return self.words[number].split()

    def make(self, number: int, folder: str, left_out: Mapping[str, str]) -> Mapping[str, Any]:
        """Write the files."""
        self.made.append(number)
        units = [unit for unit in self.units(number) if unit not in left_out]
        for unit in units:
            Path(folder, f"{unit}.txt").write_text(unit)
        return {"count": len(units)}


def outcomes(task: Words, *numbers: int) -> list[str]:
    """Make partitions, and return what became of each."""
    return [partitions.make(task, number, {}) for number in numbers]


def test_a_plan_is_read_back_and_a_partition_is_made_once(tmp_path: Path) -> None:
    task = Words(tmp_path / "w", "a b", "c")
    assert partitions.read_plan(task.plan.folder, "words") == task.plan
    assert [partitions.make(task, number, {}) for number in (0, 1, 0)] == [
        "made",
        "made",
        "present",
    ]
    first, second = partitions.merged(task.plan)
    assert (first.facts, second.facts) == ({"count": 2}, {"count": 1})
    assert sorted(os.listdir(first.folder)) == ["a.txt", "b.txt"]
    assert sorted(os.listdir(task.plan.folder)) == ["done", "leases", "parts", "plan.json"]
    partitions.clear(task.plan)
    assert os.listdir(tmp_path) == []


def test_a_new_plan_finds_what_is_finished_of_an_older_one(tmp_path: Path) -> None:
    task = Words(tmp_path / "w", "a b", "c")
    partitions.make(task, 1, {})
    again = Words(tmp_path / "w", "a b changed", "new", "c")
    assert partitions.finished(again.plan, 2) is not None
    assert [partitions.make(again, number, {}) for number in range(3)] == [
        "made",
        "made",
        "present",
    ]


def test_a_partition_without_a_marker_is_made_again_in_place_of_what_was_written(
    tmp_path: Path,
) -> None:
    task = Words(tmp_path / "w", "a")
    partitions.make(task, 0, {})
    (marker,) = (tmp_path / "w" / "done").iterdir()
    marker.unlink()
    assert partitions.make(task, 0, {}) == "made"
    assert len(list((tmp_path / "w" / "parts").iterdir())) == 1
    partitions.merged(task.plan)


def test_what_fails_leaves_nothing_and_keeps_what_is_finished(tmp_path: Path) -> None:
    task = Words(tmp_path / "w", "a", "c", "no/folder")
    partitions.make(task, 0, {})
    with pytest.raises(StorageError, match="partition 3 cannot be written"):
        partitions.make(task, 2, {})
    assert len(os.listdir(tmp_path / "w" / "parts")) == 1
    with pytest.raises(UsageError, match=r"2 of 3 partitions are not finished \(2, 3\)") as raised:
        partitions.merged(task.plan)
    assert raised.value.missing == [2, 3]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"b", "has another checksum"),
        (b"longer", "has 6 bytes, expected 1"),
        (None, "is absent"),
    ],
)
def test_a_merge_says_which_file_is_damaged_and_the_partition_is_made_again(
    tmp_path: Path, data: bytes | None, words: str
) -> None:
    task = Words(tmp_path / "w", "z", "a")
    for number in (0, 1):
        partitions.make(task, number, {})
    (path,) = (tmp_path / "w").glob("parts/*/a.txt")
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(StorageError, match=f"a.txt' of partition 2 {words}.*part 2/2 again"):
        partitions.merged(task.plan)
    assert outcomes(task, 0, 1) == ["present", "made"]
    partitions.merged(task.plan)


def test_parts_and_plans_of_another_version_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(partitions, "__version__", "0.0.1")
        task = Words(tmp_path / "w", "a", "c")
        partitions.make(task, 0, {})
    with pytest.raises(UsageError, match=r"plan\.json' was made by dicomdl 0\.0\.1, and this is"):
        partitions.read_plan(str(tmp_path / "w"), "words")
    task = Words(tmp_path / "w", "a", "c")
    partitions.make(task, 1, {})
    with pytest.raises(UsageError, match=r"partition 1 of 2 was made by dicomdl 0\.0\.1") as raised:
        partitions.merged(task.plan)
    assert raised.value.missing == [1]
    assert partitions.make(task, 0, {}) == "made"
    partitions.merged(task.plan)


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("")
    with pytest.raises(UsageError, match="holds other files, and no plan"):
        Words(tmp_path, "a")
    with pytest.raises(UsageError, match="there is no plan"):
        partitions.read_plan(str(tmp_path / "none"), "words")
    Words(tmp_path / "w", "a")
    with pytest.raises(UsageError, match="has the plan of a words, not of a scan"):
        partitions.read_plan(str(tmp_path / "w"), "scan")
    plan = tmp_path / "w" / "plan.json"
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(StorageError, match="is damaged: plan again"):
        partitions.read_plan(str(tmp_path / "w"), "words")
    Words(tmp_path / "w", "a")
    partitions.read_plan(str(tmp_path / "w"), "words")


def test_shares_of_a_plan_cover_it_once(tmp_path: Path) -> None:
    plan = Words(tmp_path / "w", *"abcdefg").plan
    shares = [partitions.chosen(plan, f"{number}/3") for number in (1, 2, 3)]
    assert (
        sorted(number for share in shares for number in share)
        == partitions.chosen(plan, "all")
        == list(range(7))
    )
    assert partitions.chosen(plan, "7/7") == [6]
    assert partitions.chosen(plan, "9/9") == []
    for wrong in ("0/3", "4/3", "3", "a/b", "1/", "-1/3"):
        with pytest.raises(UsageError, match="I from 1 to N"):
            partitions.chosen(plan, wrong)


def test_items_are_packed_evenly_and_the_heaviest_alone() -> None:
    assert partitions.packed([90, 1, 2, 3, 4, 5], 3) == [[0], [1, 2, 5], [3, 4]]
    assert partitions.packed([1, 1], 5) == [[0], [1]]
    assert partitions.packed([], 5) == [[]]
