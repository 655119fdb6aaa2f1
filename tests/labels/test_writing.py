"""`write_seg`: what is written is read back equal, by dicomdl and by others."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from numpy.typing import NDArray
from phantoms import write_multiframe, write_series
from phantoms_multi import write_mosaic
from pydicom import dcmread

import dicomdl
from dicomdl.errors import AnnotationError, StorageError, UsageError
from dicomdl.index.views import Stack

pytest.importorskip("highdicom")

SHAPE = (5, 9, 11)
NAMES = {1: "Liver", 2: "Spleen", 3: "Kidney"}


@pytest.fixture
def stack(folder: Path) -> Stack:
    write_series(folder / "ct", shape=SHAPE, shear=(0.3, 0.2), orientation=(0.6, 0.8, 0, 0, 0, -1))
    return index_of(folder / "ct").stacks[0]


def labels_of(numbers: Any = (0, 1, 2, 3), dtype: Any = np.uint8) -> NDArray[Any]:
    """Labels at random, so that no order or flip keeps them; slice 1 is empty."""
    values = np.array(numbers, dtype)[np.random.default_rng(0).integers(0, len(numbers), SHAPE)]
    values[1] = 0
    return values


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_labels_of_a_tilted_stack_come_back_bit_by_bit(
    folder: Path, stack: Stack, kind: Any
) -> None:
    labels = labels_of()
    volume = dicomdl.read_volume(stack).like(labels)
    out = dicomdl.write_seg(volume, folder / "seg.dcm", segments=NAMES, kind=kind)
    found = dicomdl.read_labels(stack, out, align="exact")
    assert np.array_equal(found.array, labels)
    assert found.names == NAMES
    # What was read is written again without further words.
    again = dicomdl.read_labels(stack, dicomdl.write_seg(found, folder / "2.dcm", kind=kind))
    assert np.array_equal(again.array, labels)
    assert again.names == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 13, 17), (5, 3, 11)], ids=str)
def test_frames_of_no_whole_bytes_come_back_bit_by_bit(folder: Path, shape: Any, kind: Any) -> None:
    write_series(folder / "ct", shape=shape)
    stack = index_of(folder / "ct").stacks[0]
    labels = np.random.default_rng(sum(shape)).integers(0, 4, shape, np.uint8)
    masks = np.stack([labels == label for label in NAMES])
    is_map = kind == "LABELMAP"
    given = labels if is_map else masks.astype(np.float32) if kind == "FRACTIONAL" else masks
    out = dicomdl.write_seg(given, folder / "seg.dcm", segments=NAMES, stack=stack, kind=kind)
    threshold = 1.0 if kind == "FRACTIONAL" else None
    found = dicomdl.read_labels(stack, out, channels=True, threshold=threshold)
    assert np.array_equal(found.array, masks)
    found = dicomdl.read_labels(stack, out, threshold=threshold)
    assert np.array_equal(found.array, labels)


@pytest.mark.parametrize(
    ("numbers", "dtype"), [((0, 7, 40), np.int64), ((0, 3, 300, 65535), np.int32)]
)
def test_labels_with_gaps_and_above_255_become_a_label_map(
    folder: Path, stack: Stack, numbers: Any, dtype: Any
) -> None:
    labels = labels_of(numbers, dtype)
    names = {number: f"Part {number}" for number in numbers[1:]}
    out = dicomdl.write_seg(labels, folder / "seg.dcm", segments=names, stack=stack)
    assert dcmread(out).SegmentationType == "LABELMAP"
    found = dicomdl.read_labels(stack, out)
    assert np.array_equal(found.array, labels)
    assert found.names == names
    with pytest.raises(UsageError, match="without gaps"):
        dicomdl.write_seg(labels, out, segments=names, stack=stack, kind="BINARY")


@pytest.mark.slow
def test_masks_that_overlap_are_bits_and_no_label_map(folder: Path, stack: Stack) -> None:
    masks = np.random.default_rng(1).random((3, *SHAPE)) < 0.4
    out = dicomdl.write_seg(masks, folder / "seg.dcm", segments=NAMES, stack=stack)
    found = dicomdl.read_labels(stack, out, channels=True)
    assert np.array_equal(found.array, masks)
    again = dicomdl.write_seg(found, folder / "2.dcm")
    assert np.array_equal(dicomdl.read_labels(stack, again, channels=True).array, masks)
    with pytest.raises(AnnotationError, match="have another label"):
        dicomdl.write_seg(found, out, kind="LABELMAP")


def test_probabilities_are_fractions_in_steps_of_one_255th(folder: Path, stack: Stack) -> None:
    chances = np.random.default_rng(2).random((2, *SHAPE), np.float32)
    out = dicomdl.write_seg(
        chances, folder / "seg.dcm", segments={1: "Liver", 2: "Spleen"}, stack=stack
    )
    for threshold in (0.25, 0.5):
        found = dicomdl.read_labels(stack, out, channels=True, threshold=threshold)
        assert np.array_equal(found.array, np.around(chances * 255) >= threshold * 255)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_probabilities_of_mixed_precision_are_written(
    folder: Path, stack: Stack, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    # Both types hold these exactly.
    chances = np.random.default_rng(3).integers(0, 5, SHAPE) / 4
    given = torch.from_numpy(chances).to(getattr(torch, dtype))
    out = dicomdl.write_seg(given, folder / "seg.dcm", segments={1: "Liver"}, stack=stack)
    found = dicomdl.read_labels(stack, out, values="fractions")
    assert np.array_equal(found.array, (np.around(chances * 255) / 255).astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_frames_of_one_file_are_its_source(folder: Path, kind: Any) -> None:
    write_multiframe(folder / "ct" / "enhanced.dcm", shape=SHAPE, shear=(0.3, 0))
    stack = index_of(folder / "ct").stacks[0]
    labels = labels_of()
    out = dicomdl.write_seg(
        labels, folder / "ct" / "seg.dcm", segments=NAMES, stack=stack, kind=kind
    )
    seg, source = dcmread(out), dcmread(folder / "ct" / "enhanced.dcm")
    assert [each.ReferencedSOPInstanceUID for each in seg.SourceImageSequence] == [
        source.SOPInstanceUID
    ]
    for group in seg.PerFrameFunctionalGroupsSequence:
        item = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert item.ReferencedSOPClassUID == source.SOPClassUID
        there = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(position, there.PlanePositionSequence[0].ImagePositionPatient)
    index = index_of(folder / "ct")
    (image,) = index.select(modality="CT").stacks
    assert [(each.kind, each.status) for each in image.annotations] == [("SEG", "ok")]
    assert np.array_equal(dicomdl.read_labels(image, "SEG").array, labels)


def test_tiles_of_a_mosaic_have_their_places(folder: Path) -> None:
    write_mosaic(folder / "mr" / "mosaic.dcm")
    stack = index_of(folder / "mr").stacks[0]
    labels = np.random.default_rng(0).integers(0, 4, stack.shape, np.uint8)
    out = dicomdl.write_seg(labels, folder / "seg.dcm", segments=NAMES, stack=stack)
    assert np.array_equal(dicomdl.read_labels(stack, out).array, labels)
    assert len(dcmread(out).SourceImageSequence) == 1


@pytest.mark.slow
def test_the_scan_links_the_object_with_all_images(folder: Path, stack: Stack) -> None:
    details = {
        1: {"name": "Liver", "type": ("10200004", "SCT", "Liver"), "algorithm": "MANUAL"},
        2: "Spleen",
        3: "Kidney",
    }
    dicomdl.write_seg(
        labels_of(), folder / "ct" / "seg.dcm", segments=details, stack=stack, algorithm="net 1"
    )
    (image,) = index_of(folder / "ct").select(modality="CT").stacks
    (annotation,) = image.annotations
    assert annotation.status == "ok"
    first, second, _ = annotation.facts.segments
    assert first.type is not None
    assert (first.type.value, first.algorithm, second.algorithm) == (
        "10200004",
        "MANUAL",
        "AUTOMATIC",
    )
    seg = dcmread(folder / "ct" / "seg.dcm")
    assert len(seg.SourceImageSequence) == SHAPE[0]
    assert seg.SegmentSequence[1].SegmentAlgorithmName == "net 1"


@pytest.mark.slow
def test_only_what_identifies_patient_and_study_is_copied(folder: Path) -> None:
    def edit(dataset: Any, _: int) -> None:
        dataset.PatientName, dataset.PatientBirthDate = "Ramp", "2001.01.01"
        dataset.PatientSex, dataset.PatientComments = "unknown", "private"
        dataset.OperatorsName, dataset.PatientWeight = "Somebody", "70"
        dataset.StudyDate, dataset.StudyTime = "00000000", "250000"
        for keyword in ("AccessionNumber", "StudyID"):
            dataset.pop(keyword, None)

    write_series(folder / "ct", shape=SHAPE, edit=edit)
    stack = index_of(folder / "ct").stacks[0]
    out = dicomdl.write_seg(labels_of(), folder / "seg.dcm", segments=NAMES, stack=stack)
    seg, image = dcmread(out), dcmread(stack.paths[0])
    same = ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID")
    assert [seg[each].value for each in same] == [image[each].value for each in same]
    assert seg.SeriesInstanceUID != image.SeriesInstanceUID
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        assert not seg[keyword].value
    assert not {"PatientComments", "OperatorsName", "PatientWeight"} & set(seg.dir())


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("", "Doe^J"),
        (None, "Doe^J"),
        ("nonsense", "Doe^J"),
        ("ISO_IR 100", "M\u00fcller^J"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"),
        ("ISO_IR 192", "\u738b^\u5c0f\u6771"),
    ],
)
def test_names_of_any_character_set_are_kept(folder: Path, character_set: Any, name: str) -> None:
    def named(dataset: Any, _: int) -> None:
        if character_set is not None:
            dataset.SpecificCharacterSet = character_set
        dataset.PatientName = name

    write_series(folder / "ct", shape=SHAPE, edit=named)
    stack = index_of(folder / "ct").stacks[0]
    out = dicomdl.write_seg(labels_of(), folder / "seg.dcm", segments=NAMES, stack=stack)
    seg = dcmread(out)
    assert str(seg.PatientName) == name
    assert seg.get("SpecificCharacterSet") == (None if name.isascii() else "ISO_IR 192")


def test_names_of_segments_are_kept_beside_a_plain_name_of_the_patient(
    folder: Path, stack: Stack
) -> None:
    names = {1: "Gr\u00f6\u00dfe", 2: "\u809d", 3: "Liver"}
    out = dicomdl.write_seg(
        labels_of(), folder / "seg.dcm", segments=names, stack=stack, series_description="\u809d"
    )
    seg = dcmread(out)
    assert {each.SegmentNumber: each.SegmentLabel for each in seg.SegmentSequence} == names
    assert seg.SeriesDescription == "\u809d"
    assert dicomdl.read_labels(stack, out).names == names


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_highdicom_reads_the_same_voxels(folder: Path, stack: Stack, kind: Any) -> None:
    highdicom = pytest.importorskip("highdicom")
    labels = labels_of()
    out = dicomdl.write_seg(labels, folder / "seg.dcm", segments=NAMES, stack=stack, kind=kind)
    seg = highdicom.seg.segread(out)
    found = seg.get_pixels_by_source_instance(
        stack.values("sop_instance_uid"), combine_segments=True, ignore_spatial_locations=True
    )
    assert np.array_equal(found, labels)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_dciodvfy_finds_no_error(folder: Path, stack: Stack, kind: Any) -> None:
    given = np.full((3, *SHAPE), 0.5, np.float32) if kind == "FRACTIONAL" else labels_of()
    out = dicomdl.write_seg(given, folder / "seg.dcm", segments=NAMES, stack=stack, kind=kind)
    said = subprocess.run(["dciodvfy", out], capture_output=True, text=True, check=False).stderr
    errors = [line for line in said.splitlines() if "Error" in line]
    if "Information Object Not found" in said and kind == "LABELMAP":
        # Releases before Supplement 243 neither know label maps, nor a segment 0 of background.
        errors = [e for e in errors if "Not found" not in e and "SegmentNumber of 0" not in e]
    else:
        assert "Segmentation" in said
    assert not errors


@pytest.mark.skipif(not shutil.which("segimage2itkimage"), reason="dcmqi is not installed")
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_dcmqi_reads_the_same_voxels(folder: Path, kind: Any) -> None:
    write_series(folder / "ct", shape=SHAPE)
    stack = index_of(folder / "ct").stacks[0]
    labels = labels_of()
    labels[1] = labels[2]
    out = dicomdl.write_seg(labels, folder / "seg.dcm", segments=NAMES, stack=stack, kind=kind)
    command = ["segimage2itkimage", "--inputDICOM", out, "--outputDirectory", str(folder)]
    subprocess.run([*command, "--mergeSegments", "-t", "nrrd"], capture_output=True, check=True)
    (path,) = folder.glob("*.nrrd")
    found = dicomdl.Volume.load(path).resample_to(stack.geometry, interpolation="nearest", fill=0)
    assert np.array_equal(found.array, labels)


def test_another_grid_and_labels_without_a_name_are_refused(folder: Path, stack: Stack) -> None:
    volume, out = dicomdl.read_volume(stack).like(labels_of()), folder / "seg.dcm"
    for moved in (volume.crop(rows=(1, 9)), volume.reorient("SPL")):
        with pytest.raises(AnnotationError, match=r"resample_to\(stack.geometry"):
            dicomdl.write_seg(moved, out, segments=NAMES)
    with pytest.raises(AnnotationError, match="labels without a name: 2, 3") as caught:
        dicomdl.write_seg(volume, out, segments={1: "Liver"})
    assert caught.value.labels == [2, 3]
    with pytest.raises(UsageError, match="no names"):
        dicomdl.write_seg(volume, out)
    for wrong, found in ((["Liver"], "a list"), ({"Liver": 1}, "the key 'Liver'")):
        given: Any = wrong
        with pytest.raises(UsageError, match=f"segments has {found}: expected {{label: name}}"):
            dicomdl.write_seg(volume, out, segments=given)
    with pytest.raises(UsageError, match="segment 1 is None: expected a name"):
        dicomdl.write_seg(volume, out, segments={1: None})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="stack="):
        dicomdl.write_seg(volume.array, out, segments=NAMES)
    with pytest.raises(UsageError, match="floats from 0 to 3"):
        dicomdl.write_seg(volume.array.astype(float), out, segments=NAMES, stack=stack)
    with pytest.raises(AnnotationError, match="expected one per mask"):
        dicomdl.write_seg(volume.array[None] > 0, out, segments=NAMES, stack=stack)
    assert not out.exists()


def test_no_image_of_the_stack_is_ever_replaced(folder: Path, stack: Stack) -> None:
    labels = labels_of()
    with pytest.raises(UsageError, match="is an image of the stack"):
        dicomdl.write_seg(labels, stack.paths[2], segments=NAMES, stack=stack)
    with pytest.raises(StorageError, match="no such folder"):
        dicomdl.write_seg(labels, folder / "absent" / "seg.dcm", segments=NAMES, stack=stack)
    with pytest.raises(StorageError, match="it is a folder"):
        dicomdl.write_seg(labels, folder, segments=NAMES, stack=stack)
