"""filtering: the conditions of a shell."""

from pathlib import Path

import pytest
from phantoms import write_series

import dicomdl
from dicomdl.errors import UsageError
from dicomdl.index.filtering import selected
from dicomdl.index.index import Index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Series of 3, 4 and 5 slices whose PatientIDs are digits, the last without one slice."""
    root = tmp_path_factory.mktemp("filtering")
    for number, drop in enumerate([[], [], [2]]):
        write_series(
            root / "data" / f"case{number}",
            shape=(3 + number, 5, 7),
            patient_id=f"0{number}",
            drop=drop,
            edit=lambda dataset, z: setattr(dataset, "StudyDate", "19991231"),
        )
    return dicomdl.scan(root / "data", root / "index", progress=False)


def slices(index: Index, *texts: str) -> list[int]:
    return sorted(stack.slices for stack in selected(index, texts).stacks)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["modality=CT,MR"], [3, 4, 4]),
        (["Modality == CT", "slices<4"], [3]),
        (["slices>3"], [4, 4]),
        (["slices>=3.5"], [4, 4]),
        (["slice_thickness<1e9", "verdict!=regular"], [4]),
        # Two conditions on one column.
        (["verdict!=regular", "verdict!=missing_slices"], []),
        (["slices!=3", "slices!=4"], []),
        # Digits are text where the column holds text.
        (["patient_id=01"], [4]),
        (["PatientID=00,02"], [3, 4]),
        (["study_date=19991231", "study_date>=19990101"], [3, 4, 4]),
        (["mixed=false", "folder=*/case1"], [4]),
        (["mixed=True"], []),
        (["min_slices=4", "kvp="], [4, 4]),
        (["series_description=ramp*", "echo_time="], [3, 4, 4]),
        # Patterns, and values in quotes, which may hold a comma.
        (["series_description ~ '*amp*'"], [3, 4, 4]),
        (['series_description !~ "ramp*"'], []),
        (["patient_id='01', \"02\""], [4, 4]),
        (["series_description='RAMP, CT'"], []),
        (["slices = '3'"], [3]),
    ],
)
def test_a_condition_selects_what_it_says(
    index: Index, texts: list[str], expected: list[int]
) -> None:
    assert slices(index, *texts) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("modality", "is no condition"),
        ("=CT", "is no condition"),
        (">20", "is no condition"),
        ("modality=CT and slices>=20", "its own --where"),
        ("slices>=3,4", "one value"),
        ("study_date>1999", "one value"),
        ("slices>=many", "holds numbers"),
        ("mixed=maybe", "true or false"),
        ("modalty=CT", "did you mean modality"),
        ("spacing=3", "several numbers"),
    ],
)
def test_what_is_no_condition_is_an_error(index: Index, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        selected(index, [text])


def test_the_folder_of_an_index_without_stacks_selects_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    assert slices(index, "folder=*") == []
