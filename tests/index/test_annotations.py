"""Annotations in an index: read by the scan, linked with stacks, kept by the next scan."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from phantoms import write_series
from phantoms_labels import contour, write_dose, write_seg, write_structure_set
from phantoms_multi import divide

import dicomdl
from dicomdl.errors import AnnotationError, FileChanged, UsageError

SHAPE = (3, 8, 9)
SQUARE = np.array([(0.5, 1.5, 2), (6.5, 1.5, 2), (6.5, 5.5, 2), (0.5, 5.5, 2)])
MASK = np.eye(8, 9, dtype=np.uint8)


@pytest.fixture
def image(folder: Path) -> Path:
    write_series(folder / "plain", shape=SHAPE, seed=7, patient_id="RAMP-2")
    return write_series(folder / "ct", shape=SHAPE)[0]


def scanned(folder: Path, **options: object) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / "index", progress=False, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_objects_are_linked_with_the_stacks_that_they_describe(folder: Path, image: Path) -> None:
    write_seg(folder / "seg.dcm", image, [(4, (0, 0, 2), MASK)], segments={4: "Liver"})
    write_structure_set(folder / "rt.dcm", image, {"Heart": [contour(SQUARE)]})
    index = scanned(folder)
    described = index.select(has=["SEG", "RTSTRUCT"]).stacks
    assert [stack.value("patient_id") for stack in described] == ["RAMP-1"]
    (stack,) = described
    assert {each.kind: each.status for each in stack.annotations} == {"SEG": "ok", "RTSTRUCT": "ok"}
    seg = next(each for each in stack.annotations if each.kind == "SEG")
    assert [(part.number, part.label) for part in seg.segments] == [(4, "Liver")]
    assert (seg.referenced, seg.found, seg.stacks) == (1, 1, (stack.number,))
    assert pickle.loads(pickle.dumps(seg)) == seg
    others = index.select(content="image", not_has="SEG").stacks
    assert [each.annotations for each in others] == [[]]
    assert len(index.annotations) == 2
    assert "2 annotations: 1 RTSTRUCT, 1 SEG (index.annotations)" in str(index)
    assert "annotation" not in str(index.select(patient_id="RAMP-2"))
    labels = dicomdl.read_labels(stack, "SEG")
    assert np.array_equal(labels.array[1], 4 * MASK)
    assert np.array_equal(dicomdl.read_labels(stack, seg).array, labels.array)
    assert dicomdl.read_labels(stack, "RTSTRUCT").array.sum() == 24


@pytest.mark.slow
def test_the_next_scan_keeps_objects_and_links_them_anew(folder: Path, image: Path) -> None:
    path = write_seg(folder / "seg.dcm", image, [(1, (0, 0, 2), MASK)])
    assert scanned(folder).annotations[0].status == "ok"
    image.rename(folder.parent / "elsewhere.dcm")
    index = scanned(folder)
    assert [(each.status, each.path) for each in index.annotations] == [
        ("other_reconstruction", str(path))
    ]
    assert not len(index.select(has="SEG", content="image"))
    path.unlink()
    assert scanned(folder).annotations == []


def test_patients_of_objects_are_hashed_as_those_of_images(folder: Path, image: Path) -> None:
    def of_another(dataset: object, _: int) -> None:
        dataset.PatientID = "SOMEBODY"  # type: ignore[attr-defined]

    write_seg(folder / "seg.dcm", image, [(1, (0, 0, 2), MASK)])
    write_seg(folder / "other.dcm", image, [(1, (0, 0, 2), MASK)], edit=of_another)
    index = scanned(folder, patient_id="hash")
    assert sorted(each.status for each in index.annotations) == ["ok", "other_patient"]
    assert all(each.facts.patient_id.startswith("hash:") for each in index.annotations)
    table = Path(index.path) / "generations" / index.generation / "annotations.arrow"
    assert b"SOMEBODY" not in table.read_bytes()


def test_of_several_objects_one_has_to_be_named(folder: Path, image: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        write_seg(folder / name, image, [(1, (0, 0, 2), MASK)])
    (stack,) = scanned(folder).select(has="SEG").stacks
    with pytest.raises(AnnotationError, match="2 readable annotations of the kind SEG"):
        dicomdl.read_labels(stack, "SEG")
    with pytest.raises(AnnotationError, match=r"no readable RTSTRUCT \(found: none\)"):
        dicomdl.read_labels(stack, "RTSTRUCT")
    assert dicomdl.read_labels(stack, stack.annotations[0]).array.any()


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT", "RTDOSE"])
def test_equal_copies_of_a_file_are_one_object(folder: Path, image: Path, kind: str) -> None:
    if kind == "SEG":
        path = write_seg(folder / "b.dcm", image, [(1, (0, 0, 2), MASK)])
    elif kind == "RTDOSE":
        path = write_dose(folder / "b.dcm", image, np.full((3, 5, 7), 1000))
    else:
        square = contour([(1, 1, 2), (4, 1, 2), (4, 4, 2), (1, 4, 2)])
        path = write_structure_set(folder / "b.dcm", image, {"Heart": [square]})
    (found,) = scanned(folder).annotations
    labels = dicomdl.read_labels(scanned(folder).select(has=kind).stacks[0], kind).array
    for name in ("a.dcm", "c.dcm"):
        (folder / name).write_bytes(path.read_bytes())
    index = scanned(folder)
    (same,) = index.annotations
    assert (same.status, same.facts) == ("ok", found.facts)
    (stack,) = index.select(has=kind).stacks
    assert np.array_equal(dicomdl.read_labels(stack, kind).array, labels)
    assert labels.any()


def test_an_object_that_was_edited_under_its_uid_is_another_one(folder: Path, image: Path) -> None:
    square = contour([(1, 1, 2), (4, 1, 2), (4, 4, 2), (1, 4, 2)])
    path = write_structure_set(folder / "a.dcm", image, {"Heart": [square]})
    (folder / "b.dcm").write_bytes(path.read_bytes().replace(b"Heart ", b"Liver "))
    assert len(scanned(folder).annotations) == 2


def test_a_file_that_changed_after_the_scan_is_refused(folder: Path, image: Path) -> None:
    path = write_structure_set(folder / "rt.dcm", image, {"Heart": [contour(SQUARE)]})
    (stack,) = scanned(folder).select(has="RTSTRUCT").stacks
    path.write_bytes(path.read_bytes() + b"\0\0")
    with pytest.raises(FileChanged):
        dicomdl.read_labels(stack, "RTSTRUCT")


def test_an_unknown_kind_of_annotation_is_refused(folder: Path, image: Path) -> None:
    with pytest.raises(UsageError, match="has='SEQ': expected one of SEG, RTSTRUCT"):
        scanned(folder).select(has="SEQ")


def test_a_damaged_object_is_unreadable_with_the_reason(folder: Path, image: Path) -> None:
    path = write_structure_set(folder / "rt.dcm", image, {"Heart": [contour(SQUARE)]})
    whole = path.read_bytes()
    # The length of the last item of the sequence of regions reaches beyond the file.
    at = whole.index(b"\xfe\xff\x00\xe0", whole.index(b"\x06\x30\x20\x00"))
    path.write_bytes(whole[: at + 4] + b"\xf0\xff\xff\x0f" + whole[at + 8 :])
    index = scanned(folder)
    found = [(each.status, bool(each.detail)) for each in index.annotations]
    assert found == [("unreadable", True)]


def test_an_object_in_several_files_is_one(folder: Path, image: Path) -> None:
    slices = [(number, (0, 0, 2 * z), MASK) for number in (1, 2) for z in range(3)]
    parts = divide(write_seg(folder / "seg.dcm", image, slices), (2, 3, 1))
    index = scanned(folder)
    (seg,) = index.annotations
    assert [source.path for source in seg.sources] == [str(path) for path in parts]
    assert (seg.status, seg.referenced) == ("ok", 1)
    (stack,) = index.select(has="SEG").stacks
    assert stack.annotations == [seg]
    assert "1 annotation" in repr(index)


def test_the_next_scan_joins_the_files_of_an_object_anew(folder: Path, image: Path) -> None:
    slices = [(1, (0, 0, 2 * z), MASK) for z in range(3)]
    *_, last = divide(write_seg(folder / "seg.dcm", image, slices), (1, 1, 1))
    held = last.rename(folder.parent / "held.dcm")
    (seg,) = scanned(folder).annotations
    assert (seg.status, len(seg.sources)) == ("incomplete", 2)
    assert "files of its concatenation are not in the index" in seg.remarks
    held.rename(last)
    (seg,) = scanned(folder).annotations
    assert (seg.status, len(seg.sources), seg.remarks) == ("ok", 3, ())
