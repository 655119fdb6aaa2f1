"""The recipes that come with dicomdl, on small data in the layout of each set with its quirks."""

import io
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import phantoms
import phantoms_labels
import phantoms_rsna
import pydicom
import pytest

from dicomdl.index.shard_manifests import ShardManifest
from dicomdl.jobs import partitions
from dicomdl.jobs.prepare import merge_parts, plan_prepare
from dicomdl.jobs.prepared import Prepared
from dicomdl.jobs.preparing import PrepareTask
from dicomdl.jobs.recipes.named import shipped_recipes


def prepared(name: str, data: Path, changes: Sequence[str] = ()) -> Prepared:
    """Prepare by a shipped recipe, in this process; few patients are in one part."""
    out = data.parent / "out"
    changes = ["split=null", *changes]
    plan = plan_prepare(name, out, data, changes=changes, progress=False)
    task = PrepareTask(plan)
    for number in range(len(plan)):
        partitions.make(task, number, {})
    return merge_parts(plan.folder, progress=False)


def member(out: Path, row: int, kind: str) -> Any:
    """An array of a shard, read by tarfile and NumPy."""
    place = ShardManifest(str(out)).row(row)
    with tarfile.open(out / place.shard) as tar:
        file = tar.extractfile(f"{place.key}.{kind}.npy")
        assert file is not None
        return np.load(io.BytesIO(file.read()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An empty folder for a set."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_the_recipes_of_the_sets_are_there() -> None:
    assert set(shipped_recipes()) >= {
        *("idc-collection", "lidc-idri", "nsclc-radiomics", "rsna-2019-ich", "rsna-2022-cspine"),
        *("rsna-2022-breast", "rsna-2023-abdomen", "rsna-2024-lumbar", "rsna-2025-aneurysm"),
    }


def test_a_nodule_of_lidc_is_where_two_readers_agree(data: Path) -> None:
    paths = phantoms.write_series(data / "LIDC-IDRI-0001" / "ct", patient_id="LIDC-IDRI-0001")
    positions = [pydicom.dcmread(path).ImagePositionPatient for path in paths]
    masks = np.zeros((3, 5, 7), dtype=np.uint8)
    masks[0, 1:3, 1:4], masks[1, 2:4, 2:5], masks[2, 0, 0] = 1, 1, 1
    for reader, mask in enumerate(masks):
        path = data / "LIDC-IDRI-0001" / f"nodule{reader}.dcm"
        phantoms_labels.write_seg(path, paths[2], [(1, positions[2], mask)])
    phantoms.write_series(data / "LIDC-IDRI-0002" / "ct", patient_id="LIDC-IDRI-0002", seed=1)
    done = prepared("lidc-idri", data)
    assert done.samples == {"train": 2}
    manifest = ShardManifest(str(data.parent / "out"))
    patients = manifest.column("patient_id")
    label = member(data.parent / "out", patients.index("LIDC-IDRI-0001"), "label")
    expected = np.zeros((6, 5, 7), dtype=np.uint8)
    expected[2] = masks.sum(axis=0) >= 2
    np.testing.assert_array_equal(label, expected)
    assert expected.any()
    assert not member(data.parent / "out", patients.index("LIDC-IDRI-0002"), "label").any()


def test_the_tumour_of_nsclc_radiomics_is_chosen_by_name(data: Path) -> None:
    paths = phantoms.write_series(data / "LUNG1-001" / "ct", patient_id="LUNG1-001")
    z = float(pydicom.dcmread(paths[3]).ImagePositionPatient[2])
    tumour = phantoms_labels.contour([(0.6, 0.6, z), (3.4, 0.6, z), (3.4, 2.4, z), (0.6, 2.4, z)])
    whole = phantoms_labels.contour([(-1, -1, z), (9, -1, z), (9, 9, z), (-1, 9, z)])
    phantoms_labels.write_structure_set(
        data / "LUNG1-001" / "rt.dcm", paths[3], {"Lung-Left": [whole], "GTV-1": [tumour]}
    )
    phantoms.write_series(data / "LUNG1-002" / "ct", patient_id="LUNG1-002", seed=1)
    done = prepared("nsclc-radiomics", data)
    assert (done.samples, sum(done.left_out.values())) == ({"train": 1}, 1)
    label = member(data.parent / "out", 0, "label")
    expected = np.zeros((6, 5, 7), dtype=np.uint8)
    expected[3, 1:3, 1:4] = 1
    np.testing.assert_array_equal(label, expected)


def test_any_collection_of_idc_becomes_its_regular_stacks(data: Path) -> None:
    phantoms.write_series(data / "a" / "ct", patient_id="A")
    phantoms.write_series(data / "b" / "mr", patient_id="B", modality="MR", seed=1)
    phantoms.write_series(data / "b" / "gap", patient_id="B", seed=2, drop=[2])
    phantoms.write_series(data / "b" / "cr", patient_id="B", modality="CR", seed=3)
    done = prepared("idc-collection", data)
    assert done.samples == {"train": 2}
    assert done.left_out["verdict missing_slices"] == 1


@pytest.mark.slow
def test_wrong_intercepts_of_ich_2019_are_repaired_and_told_and_a_cut_file_is_a_problem(
    data: Path,
) -> None:
    phantoms_rsna.hemorrhage_2019(data)
    folder = data / "stage_2_train"
    # Air, water, bone: signed numbers in 12 bits, that claim to be unsigned with an intercept of 0.
    hounsfield = np.tile(np.array([-1000, 0, 40, 1000], dtype=np.int16), (1, 8, 2))
    wrapped = folder / "ID_2.dcm"
    phantoms_rsna.write_images(
        [wrapped], patient_id="ID_w", stored=hounsfield & 0xFFF, seed=7, intercept=0
    )
    cut = folder / "ID_6431af929.dcm"
    phantoms_rsna.write_images([cut], patient_id="ID_c", seed=8, intercept=-1024)
    cut.write_bytes(cut.read_bytes()[:-70])
    table = data / "stage_2_train.csv"
    names = ("ID_2", "ID_6431af929")
    rows = [f"{name}_{subtype},1" for name in names for subtype in phantoms_rsna.SUBTYPES]
    table.write_text(table.read_text() + "".join(f"{row}\n" for row in rows))
    # Those of the phantom have an intercept of 0, too, and no bit of the sign.
    done = prepared("rsna-2019-ich", data, ["output.picture=png16", "intensity=[0, 4000]"])
    assert done.samples == {"train": 7}
    assert done.repaired == {"signed_ct": 7}
    assert "repaired  7 frames: signed_ct" in repr(done)
    assert sum(done.problems.values()) == 1
    out = data.parent / "out"
    pictures = [imagecodecs.imread(path) for path in sorted(out.rglob("*.png"))]
    assert len(pictures) == 7
    # The window from -2000 to 2000 over 16 bits.
    expected = np.round((hounsfield[0] + 2000.0) / 4000 * 65535)
    assert any(np.abs(picture.astype(float) - expected).max() <= 1 for picture in pictures)


def test_spines_of_2022_have_fractures_per_vertebra(data: Path) -> None:
    phantoms_rsna.spine_2022(data)
    done = prepared("rsna-2022-cspine", data, ["output.target=[patient_overall, C1, C2]"])
    assert done.samples == {"train": 2}
    targets = ShardManifest(str(data.parent / "out")).column("target")
    assert sorted(targets) == [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]


@pytest.mark.slow
def test_breasts_of_2022_are_pictures_with_their_outcome(data: Path) -> None:
    phantoms_rsna.breast_2023(data)
    done = prepared("rsna-2022-breast", data)
    assert sum(done.samples.values()) == 8
    assert len(list((data.parent / "out").rglob("*.png"))) == 8


@pytest.mark.slow
def test_abdomens_of_2023_keep_signed_values(data: Path) -> None:
    phantoms_rsna.abdomen_2023(data)
    # Signed values of 12 bits, whose sign is not in the bits above: pixel_array has large numbers.
    phantoms_rsna.write_images(
        [data / "train_images" / "10005" / "7" / f"{number}.dcm" for number in range(5, 9)],
        patient_id="10005",
        seed=9,
        signed=True,
        unused_bits="zero",
        offset=-200,
        series_uid=phantoms.uid("signed"),
    )
    done = prepared("rsna-2023-abdomen", data, ["intensity=modality"])
    assert done.samples == {"train": 5}
    manifest = ShardManifest(str(data.parent / "out"))
    assert Counter(map(tuple, manifest.column("target"))) == {(0.0,): 2, (1.0,): 3}
    row = manifest.column("series_instance_uid").index(phantoms.uid("signed"))
    image = member(data.parent / "out", row, "image")
    np.testing.assert_array_equal(image[0], phantoms.ramp((4, 8, 8)) - 200)


@pytest.mark.slow
def test_several_stacks_of_a_lumbar_series_are_samples_of_their_own(data: Path) -> None:
    phantoms_rsna.lumbar_2024(data)
    # An axial block per disc in one Series.
    folder = next((data / "train_images").glob("*/*"))
    first = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True)
    facts = {"series_uid": first.SeriesInstanceUID, "study_uid": first.StudyInstanceUID}
    phantoms_rsna.write_images(
        [folder / f"{number}.dcm" for number in range(11, 15)],
        patient_id=first.PatientID,
        modality="MR",
        orientation=(0, 1, 0, 0, 0, -1),
        seed=11,
        instance_numbers=range(11, 15),
        **facts,
    )
    done = prepared("rsna-2024-lumbar", data)
    assert (done.found["series"], done.found["stacks"]) == (4, 5)
    assert sum(done.samples.values()) + sum(done.left_out.values()) + len(done.refused) == 5
    series = Counter(ShardManifest(str(data.parent / "out")).column("series_instance_uid"))
    assert max(series.values()) <= 2


@pytest.mark.slow
def test_series_of_aneurysms_that_are_dropped_have_their_verdict(data: Path) -> None:
    phantoms_rsna.aneurysm_2025(data)
    series = phantoms.uid("gappy")
    phantoms_rsna.write_images(
        [data / "series" / series / f"{number}.dcm" for number in range(1, 6)],
        patient_id="gappy",
        series_uid=series,
        seed=9,
        positions=[(0, 0, z) for z in (0, 2, 4, 10, 12)],
    )
    table = data / "train.csv"
    table.write_text(table.read_text() + f"{series},50,Male,CTA,0,0,0\n")
    done = prepared("rsna-2025-aneurysm", data)
    assert done.samples == {"train": 3}
    assert sum(n for why, n in done.left_out.items() if why.startswith("verdict ")) == 1
    targets = ShardManifest(str(data.parent / "out")).column("target")
    assert sorted(targets) == [[0.0], [1.0], [1.0]]
