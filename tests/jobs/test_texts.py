"""texts: an index of scan(texts=False) holds no free text, and none is left of an earlier one."""

from pathlib import Path
from typing import Any

import phantoms_labels
import pytest
from phantoms import write_series

import dicomdl
from dicomdl.cli.main import main

CANARY = "CANARY"
KEYWORDS = ("StudyDescription", "SeriesDescription", "ProtocolName", "ContrastBolusAgent")


def typed(dataset: Any, z: int) -> None:
    for keyword in KEYWORDS:
        setattr(dataset, keyword, f"{CANARY} {keyword}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A series with texts, and its structure set with a label."""
    images = write_series(tmp_path / "root", shape=(3, 4, 5), edit=typed)

    def labelled(dataset: Any, z: int) -> None:
        dataset.StructureSetLabel = CANARY

    square = phantoms_labels.contour([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]])
    phantoms_labels.write_structure_set(
        tmp_path / "root" / "rt.dcm", images[0], {"Liver": [square]}, edit=labelled
    )
    return tmp_path / "root"


def files_with(folder: Path, text: str) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in found if text.encode() in path.read_bytes()]


def test_no_file_of_the_index_holds_a_free_text(root: Path, tmp_path: Path) -> None:
    index = dicomdl.scan(root, tmp_path / "index", texts=False, progress=False)
    assert files_with(tmp_path / "index", CANARY) == []
    (stack,) = index.stacks
    frame = stack.frame(0)
    assert (frame.series_description, frame.protocol_name, stack.description) == ("", "", "")
    assert (stack.verdict, frame.modality, frame.study_date) == ("regular", "CT", "20200101")
    assert [segment.label for segment in stack.annotations[0].segments] == ["Liver"]
    assert stack.annotations[0].label == ""


@pytest.mark.slow
def test_an_index_with_texts_is_read_again_and_nothing_of_it_is_left(
    root: Path, tmp_path: Path
) -> None:
    with_texts = dicomdl.scan(root, tmp_path / "index", progress=False)
    assert with_texts.stacks[0].description == f"{CANARY} SeriesDescription"
    assert files_with(tmp_path / "index", CANARY)
    main(["scan", str(root), "-o", str(tmp_path / "index"), "--no-texts", "-q"])
    assert files_with(tmp_path / "index", CANARY) == []
    # An update keeps the option's effect for files that it does not read again.
    write_series(root / "more", shape=(2, 4, 5), seed=1, edit=typed)
    index = dicomdl.scan(root, tmp_path / "index", texts=False, progress=False)
    assert len(index.stacks) == 2 and files_with(tmp_path / "index", CANARY) == []
    again = dicomdl.scan(root, tmp_path / "index", progress=False)
    assert again.stacks[0].description == f"{CANARY} SeriesDescription"


def test_stacks_that_only_a_text_tells_apart_are_told_apart_by_number(tmp_path: Path) -> None:
    def described(name: str) -> Any:
        def edit(dataset: Any, z: int) -> None:
            dataset.SeriesDescription = f"{CANARY} {name}"

        return edit

    for number, name in enumerate(("early", "late")):
        write_series(
            tmp_path / "root",
            shape=(3, 4, 5),
            series_uid="1.2.3",
            offset=number,
            seed=number,
            instance_numbers=[1 + number, 3 + number, 5 + number],
            edit=described(name),
        )
    with_texts = dicomdl.scan(tmp_path / "root", tmp_path / "with", progress=False)
    assert [stack.dimension for stack in with_texts.stacks] == [
        {"series_description": f"{CANARY} {name}"} for name in ("early", "late")
    ]
    without = dicomdl.scan(tmp_path / "root", tmp_path / "without", texts=False, progress=False)
    assert [list(stack.dimension) for stack in without.stacks] == [["instance_number"]] * 2
    assert files_with(tmp_path / "without", CANARY) == []
