"""Small data sets in the folders and tables of the RSNA challenges of 2018 to 2025.

Images are of 8 x 8 pixels. The tables have the columns of the challenges, as far as they matter to
a join, with their quirks: one row per box, long tables, suffixes of keys, leading zeros, readers,
dicts in text. Values follow from the numbers of patients and slices.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
from phantoms import uid, write_multiframe, write_series
from pydicom.uid import RLELossless

SUBTYPES = (
    *("any", "epidural", "intraparenchymal", "intraventricular"),
    *("subarachnoid", "subdural"),
)


def write_images(paths: Sequence[Path], **facts: Any) -> None:
    """Write one series, one image per path, in slice order."""
    own = paths[0].parent / "own"
    numbers = facts.pop("instance_numbers", range(1, len(paths) + 1))
    made = write_series(
        own, shape=(len(paths), 8, 8), names="ordered", instance_numbers=list(numbers), **facts
    )
    for source, path in zip(made, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        source.rename(path)
    shutil.rmtree(own)


def write_table(path: Path, *lines: str) -> Path:
    """Write lines as a CSV file."""
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def pneumonia_2018(root: Path) -> None:
    """One row per box; negatives have empty boxes; the file is named by the patient."""
    ids = [f"{number:08x}-77" for number in range(3)]
    for seed, name in enumerate(ids):
        path = root / "stage_2_train_images" / f"{name}.dcm"
        write_images([path], patient_id=name, modality="CR", seed=seed)
    write_table(
        root / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target",
        f"{ids[0]},,,,,0",
        f"{ids[1]},264.0,152.0,213.0,379.0,1",
        f"{ids[1]},562.0,152.0,256.0,453.0,1",
        f"{ids[2]},323.0,577.0,160.0,104.0,1",
    )
    write_table(
        root / "stage_2_detailed_class_info.csv",
        "patientId,class",
        f"{ids[0]},No Lung Opacity / Not Normal",
        *(f"{name},Lung Opacity" for name in (ids[1], ids[1], ids[2])),
    )


def hemorrhage_2019(root: Path) -> None:
    """A long table of image and subtype in one key; one image has all its rows twice."""
    rows = []
    for patient in range(2):
        names = [f"ID_{patient}{z:08x}" for z in range(3)]
        paths = [root / "stage_2_train" / f"{name}.dcm" for name in names]
        write_images(paths, patient_id=f"ID_{patient}p", seed=patient)
        for z, name in enumerate(names):
            given = {"any": patient, "subdural": patient * (z % 2)}
            rows += [f"{name}_{subtype},{given.get(subtype, 0)}" for subtype in SUBTYPES]
    write_table(root / "stage_2_train.csv", "ID,Label", *rows, *rows[:6])


def embolism_2020(root: Path) -> None:
    """Labels of images and of studies in one table."""
    rows = []
    for patient in range(2):
        study, series = uid("pe", patient), uid("pe series", patient)
        folder = root / "train" / study / series
        made = [uid("pe image", patient, z) for z in range(3)]

        def named(dataset: Any, z: int, made: Sequence[str] = made) -> None:
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = made[z]

        paths = [folder / f"{name}.dcm" for name in made]
        facts = {"study_uid": study, "series_uid": series, "edit": named}
        write_images(paths, patient_id=f"P{patient}", **facts)
        rows += [
            f"{study},{series},{name},{int(patient == 1 and z > 0)},{1 - patient},{patient}"
            for z, name in enumerate(made)
        ]
    write_table(
        root / "train.csv",
        "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,pe_present_on_image,"
        "negative_exam_for_pe,rightsided_pe",
        *rows,
    )


def vinbigdata_2021(root: Path) -> None:
    """Several readers per image; "No finding" has no box; files are named .dicom."""
    for seed, name in enumerate(("50a418190bc3", "21a10246a5ec")):
        write_images([root / "train" / f"{name}.dicom"], patient_id="", modality="DX", seed=seed)
    write_table(
        root / "train.csv",
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
        *(f"50a418190bc3,No finding,14,R{reader},,,," for reader in (11, 15, 16)),
        "21a10246a5ec,Cardiomegaly,3,R8,691.0,1375.0,1653.0,1831.0",
        "21a10246a5ec,Cardiomegaly,3,R9,700.0,1380.0,1650.0,1830.0",
        "21a10246a5ec,Aortic enlargement,0,R9,1150.0,700.0,1400.0,1000.0",
    )


def covid_2021(root: Path) -> None:
    """Keys with suffixes, of studies and of images; boxes as a list of dicts."""
    images, studies = [], []
    for number in range(2):
        study, image = f"00086460a85{number}", f"000a312787f{number}"
        path = root / "train" / study / f"81456c9c542{number}" / f"{image}.dcm"
        write_images([path], patient_id=f"{number}", modality="CR", seed=number)
        studies.append(f"{study}_study,{1 - number},{number},0,0")
        boxes = "[{'x': 789.28836, 'y': 582.43035, 'width': 1026.65662, 'height': 1917.30292}]"
        label = "opacity 1 789.28836 582.43035 1815.94498 2499.73327"
        images.append(
            f'{image}_image,"{boxes}",{label},{study}'
            if number
            else f"{image}_image,,none 1 0 0 1 1,{study}"
        )
    write_table(
        root / "train_study_level.csv",
        "id,Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance",
        *studies,
    )
    write_table(root / "train_image_level.csv", "id,boxes,label,StudyInstanceUID", *images)


def glioma_2021(root: Path) -> None:
    """Patients are folders of five digits."""
    rows = []
    for number, patient in enumerate(("00000", "00002", "00100")):
        for kind in ("FLAIR", "T1wCE"):
            paths = [root / "train" / patient / kind / f"Image-{n}.dcm" for n in (1, 2)]
            write_images(paths, patient_id=patient, modality="MR", seed=2 * number + len(kind))
        rows.append(f"{patient},{number % 2}")
    write_table(root / "train_labels.csv", "BraTS21ID,MGMT_value", *rows)


def spine_2022(root: Path) -> None:
    """Files are named by Instance Number; boxes lie on some slices of some studies."""
    studies = [f"1.2.826.0.1.3680043.{number}" for number in (6200, 27016)]
    for number, study in enumerate(studies):
        paths = [root / "train_images" / study / f"{n}.dcm" for n in range(1, 5)]
        write_images(paths, patient_id=study, study_uid=study, seed=number)
    write_table(
        root / "train.csv",
        "StudyInstanceUID,patient_overall,C1,C2",
        *(f"{study},{number},{number},0" for number, study in enumerate(studies)),
    )
    write_table(
        root / "train_bounding_boxes.csv",
        "StudyInstanceUID,x,y,width,height,slice_number",
        f"{studies[1]},219.27715,216.71419,17.30440,18.55080,2",
        f"{studies[1]},221.56460,214.71419,17.87844,23.46914,3",
    )


def breast_2023(root: Path) -> None:
    """Labels of a breast, rows of images; patients and images are integers."""
    rows = []
    for number, (patient, side, view) in enumerate(
        (p, s, v) for p in (10006, 10011) for s in "LR" for v in ("CC", "MLO")
    ):
        image = 462822612 + number

        def sided(dataset: Any, _: int, side: str = side, view: str = view) -> None:
            dataset.ImageLaterality, dataset.ViewPosition = side, view

        path = root / "train_images" / str(patient) / f"{image}.dcm"
        facts = {"modality": "MG", "seed": number, "edit": sided}
        write_images([path], patient_id=str(patient), **facts)
        cancer = int(patient == 10011 and side == "R")
        birads = "" if number % 3 else "1.0"
        rows.append(f"2,{patient},{image},{side},{view},61,{cancer},{cancer},{birads},False")
    write_table(
        root / "train.csv",
        "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,BIRADS,"
        "difficult_negative_case",
        *rows,
    )


def abdomen_2023(root: Path) -> None:
    """Integers of folders, tables of three levels, RLE; images with two injuries."""
    patients, series, images = [], [], []
    for number, patient in enumerate((10004, 10005)):
        for second, name in enumerate((21057 + number, 51033 + number)):
            folder = root / "train_images" / str(patient) / str(name)
            paths = [folder / f"{n}.dcm" for n in range(362, 365)]
            seed = 2 * number + second
            facts = {"transfer_syntax": RLELossless, "instance_numbers": range(362, 365)}
            write_images(paths, patient_id=str(patient), seed=seed, **facts)
            series.append(f"{patient},{name},{100.5 + second},{second}")
            if number:
                images.append(f"{patient},{name},363,Active_Extravasation")
        patients.append(f"{patient},{1 - number},{number},{number}")
    images.append("10005,21058,363,Bowel")
    write_table(root / "train.csv", "patient_id,bowel_healthy,bowel_injury,any_injury", *patients)
    write_table(
        root / "train_series_meta.csv", "patient_id,series_id,aortic_hu,incomplete_organ", *series
    )
    write_table(
        root / "image_level_labels.csv", "patient_id,series_id,instance_number,injury_name", *images
    )


def lumbar_2024(root: Path) -> None:
    """Severities of studies, descriptions of series, points of images."""
    studies, series, points = [], [], []
    for number, study in enumerate((4003253, 4646740)):
        for second, name in enumerate((702807833 + number, 1054713880 + number)):
            folder = root / "train_images" / str(study) / str(name)
            paths = [folder / f"{n}.dcm" for n in range(1, 4)]
            write_images(paths, patient_id=str(study), modality="MR", seed=2 * number + second)
            series.append(f"{study},{name},{('Sagittal T2/STIR', 'Axial T2')[second]}")
        points += [
            f"{study},{702807833 + number},2,Spinal Canal Stenosis,L1/L2,322.8{number},227.96",
            f"{study},{702807833 + number},2,Spinal Canal Stenosis,L2/L3,320.57,295.71",
        ]
        studies.append(f"{study},Normal/Mild,{'' if number else 'Severe'}")
    write_table(
        root / "train.csv",
        "study_id,spinal_canal_stenosis_l1_l2,left_neural_foraminal_narrowing_l1_l2",
        *studies,
    )
    write_table(
        root / "train_series_descriptions.csv", "study_id,series_id,series_description", *series
    )
    write_table(
        root / "train_label_coordinates.csv",
        "study_id,series_id,instance_number,condition,level,x,y",
        *points,
    )


def aneurysm_2025(root: Path) -> None:
    """Labels of series; points of images as dicts in text; one series is a multi-frame file."""
    rows, points = [], []
    series = uid("aneurysm", 9)
    own = write_multiframe(root / "own.dcm", shape=(3, 8, 8), patient_id="9", series_uid=series)
    name = str(pydicom.dcmread(own, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    path = root / "series" / series / f"{name}.dcm"
    path.parent.mkdir(parents=True)
    own.rename(path)
    rows.append(f"{series},69,Male,MRA,0,1,1")
    points.append(f"{series},{name},\"{{'f': 2, 'x': 3.5, 'y': 4}}\",Basilar Tip")
    for number in range(2):
        series = uid("aneurysm", number)
        made = [uid("aneurysm image", number, z) for z in range(3)]

        def named(dataset: Any, z: int, made: Sequence[str] = made) -> None:
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = made[z]

        paths = [root / "series" / series / f"{name}.dcm" for name in made]
        write_images(paths, patient_id=series, series_uid=series, seed=number, edit=named)
        rows.append(f"{series},6{number},Female,CTA,{number},0,{number}")
        if number:
            points += [
                f"{series},{made[1]},\"{{'x': 258.36, 'y': 261.36}}\",Basilar Tip",
                f"{series},{made[1]},\"{{'x': 101.5, 'y': 7}}\",Other Posterior Circulation",
            ]
    write_table(
        root / "train.csv",
        "SeriesInstanceUID,PatientAge,PatientSex,Modality,Basilar Tip,"
        "Other Posterior Circulation,Aneurysm Present",
        *rows,
    )
    write_table(
        root / "train_localizers.csv",
        "SeriesInstanceUID,SOPInstanceUID,coordinates,location",
        *points,
    )
