"""audits: what parts of one index, or of several, have in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from phantoms import uid, write_series

import dicomdl
from dicomdl.errors import UsageError
from dicomdl.index.index import Index


def write(root: Path, count: int, **tell: Callable[[int], Any]) -> None:
    """Write a patient with one series of two slices per number."""
    for number in range(count):
        options: dict[str, Any] = {
            "patient_id": f"P{number}",
            "study_uid": uid("study", number),
            "series_uid": uid("series", number),
            "frame_of_reference": uid("frame", number),
            "offset": 500 * number,
        }
        options |= {name: value(number) for name, value in tell.items()}
        write_series(root / str(number), shape=(2, 3, 4), seed=number, **options)


def scan(root: Path, **options: Any) -> Index:
    return dicomdl.scan(root, root.parent / f"{root.name}.index", progress=False, **options)


def parts_of(index: Index, *numbers: tuple[int, ...]) -> list[Index]:
    return [
        index.select(series_instance_uid=[uid("series", number) for number in part])
        for part in numbers
    ]


def test_parts_that_share_nothing_are_fine(tmp_path: Path) -> None:
    write(tmp_path / "data", 4)
    index = scan(tmp_path / "data", pixel_hash=True)
    audit = index.audit(*index.split(k=4))
    assert audit.ok and len(audit) == 0 and list(audit) == []
    assert repr(audit) == "Audit of 4 parts: they share nothing"
    assert audit.to_dict() == {"ok": True, "parts": 4, "leaks": []}


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("patient_id", "patient_id"),
        ("study_uid", "study_instance_uid"),
        ("frame_of_reference", "frame_of_reference_uid"),
        ("offset", "pixel_hash"),
    ],
)
def test_every_key_that_two_parts_share_is_a_leak(tmp_path: Path, option: str, key: str) -> None:
    shared = {
        "patient_id": "P-LEAK",
        "study_uid": uid("leak"),
        "frame_of_reference": uid("leak"),
        "offset": 77,
    }[option]
    own: dict[str, Callable[[int], Any]] = {
        "patient_id": lambda n: f"P{n}",
        "study_uid": lambda n: uid("study", n),
        "frame_of_reference": lambda n: uid("frame", n),
        "offset": lambda n: 500 * n,
    }
    write(tmp_path / "data", 4, **{option: lambda n: shared if n in (0, 3) else own[option](n)})
    index = scan(tmp_path / "data", pixel_hash=True)
    audit = index.audit(*parts_of(index, (0, 1), (2,), (3,)))
    # Two slices have equal pixels.
    assert len(audit) == (2 if key == "pixel_hash" else 1) and not audit.ok
    leak = audit[0]
    assert (leak.key, leak.parts) == (key, (0, 2))
    stacks = [index.stack(number).series_instance_uid for number in leak.stacks]
    assert stacks == [uid("series", 0), uid("series", 3)]
    assert (
        leak.value
        == {"pixel_hash": index.frame(_frame(index, 0)).pixel_hash}.get(
            key, "" if key == "patient_id" else shared
        )
        or key == "pixel_hash"
    )
    assert "P-LEAK" not in f"{audit}{audit._repr_html_()}{audit.to_dict()}{list(audit)}"
    assert "0 and 2" in repr(audit)


def _frame(index: Index, number: int) -> int:
    names = [index.value(n, "series_instance_uid") for n in range(len(index))]
    return names.index(uid("series", number))


def test_one_stack_in_two_parts_is_a_leak_of_all_its_identities(tmp_path: Path) -> None:
    write(tmp_path / "data", 2)
    index = scan(tmp_path / "data")
    one, two = index.select(instance_number=1), index.select(instance_number=2)
    audit = index.audit(one, two)
    assert {leak.key for leak in audit} == {
        "stack",
        "patient_id",
        "study_instance_uid",
        "series_instance_uid",
        "frame_of_reference_uid",
    }
    assert len(audit) == 10
    assert len(audit[:3]) == 3 and audit[-1].key == "frame_of_reference_uid"
    with pytest.raises(IndexError):
        audit[10]
    overlap = index.audit(index, one)
    assert ("stack", 2) in {(entry["key"], entry["values"]) for entry in overlap.to_dict()["leaks"]}


def test_a_value_in_three_parts_is_a_leak_of_each_pair(tmp_path: Path) -> None:
    write(tmp_path / "data", 3, patient_id=lambda _: "P")
    index = scan(tmp_path / "data")
    audit = index.audit(*parts_of(index, (0,), (1,), (2,)))
    assert [leak.parts for leak in audit] == [(0, 1), (0, 2), (1, 2)]


def test_a_blank_patient_and_the_frame_of_an_atlas_are_no_leaks(tmp_path: Path) -> None:
    atlas = "1.2.840.10008.1.4.1.1"
    write(tmp_path / "data", 2, patient_id=lambda _: "", frame_of_reference=lambda _: atlas)
    index = scan(tmp_path / "data")
    assert index.audit(*parts_of(index, (0,), (1,))).ok


def test_an_external_test_set_is_audited_by_its_own_index(tmp_path: Path) -> None:
    write(tmp_path / "here", 3)
    write(tmp_path / "there", 2, series_uid=lambda n: uid("other", n), patient_id=lambda n: f"Q{n}")
    here, there = (scan(tmp_path / name, pixel_hash=True) for name in ("here", "there"))
    audit = here.audit(here, there)
    found = {(entry["key"], entry["values"]) for entry in audit.to_dict()["leaks"]}
    assert found == {
        ("study_instance_uid", 2),
        ("frame_of_reference_uid", 2),
        ("pixel_hash", 4),
    }


def test_what_is_no_part_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data", 1)
    index = scan(tmp_path / "data")
    with pytest.raises(UsageError, match="two or more parts, found 1"):
        index.audit(index)
    with pytest.raises(UsageError, match="not list"):
        index.audit(index, [index])  # type: ignore[arg-type]
