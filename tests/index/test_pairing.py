"""pairing: several images of a patient or study, chosen by rules, and what does not pair."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import uid, write_series

import dicomdl
from dicomdl import Pairing
from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.index.pairs import Pairs
from dicomdl.index.views import Stack

T1, FLAIR = "series_description ~ '*t1*'", {"series_description": "*flair*"}
ROLES = {"T1": T1, "FLAIR": FLAIR}


def image(root: Path, patient: str, name: str, **more: Any) -> None:
    """Write a series of 3 slices with a description, and numbered as it is told."""
    number = more.pop("number", 1)
    study = more.pop("study", "")

    def edit(dataset: Any, z: int) -> None:
        dataset.SeriesDescription, dataset.SeriesNumber = name, number
        if "frame_of_reference" in more and not more["frame_of_reference"]:
            dataset.FrameOfReferenceUID = ""

    defaults = {"shape": (3, 5, 7), "modality": "MR", "study_uid": uid(patient, study)}
    write_series(
        root / patient / study / f"{name} {number}",
        **{**defaults, "patient_id": patient, "seed": hash_of(name, number), "edit": edit, **more},
    )


def hash_of(*words: Any) -> int:
    return sum(map(ord, "".join(map(str, words))))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Patients who pair, and one per reason why images do not."""
    root = tmp_path_factory.mktemp("pairing")
    data = root / "data"
    for patient in ("both", "several", "moved", "apart", "blank"):
        image(data, patient, "AX FLAIR", number=9, **PLACES.get(patient, {}))
    for patient in ("both", "alone", "several", "moved", "apart"):
        image(data, patient, "ax t1", number=2)
    image(data, "several", "t1 mprage", shape=(4, 5, 7), number=3)
    image(data, "blank", "t1", frame_of_reference="")
    for study in ("first", "second"):
        image(data, "twice", "t1", study=study)
        image(data, "twice", "flair", study=study, number=2)
    image(data, "both", "scout", number=4)
    return dicomdl.scan(data, root / "index", progress=False)


PLACES: dict[str, Any] = {
    "moved": {"frame_of_reference": uid("another")},
    "apart": {"origin": (0, 0, 120)},
}


def patients(index: Index, pairs: Pairs) -> list[str]:
    return sorted(index.stack(number).patient_id for number in pairs.stacks[:, 0].tolist())


def reasons(pairs: Pairs) -> dict[str, int]:
    return {each.reason: each.cases for each in pairs.unpaired}


@pytest.mark.slow
def test_a_case_has_one_stack_per_role_and_the_rest_is_listed_with_its_reason(
    index: Index,
) -> None:
    pairs = Pairing(ROLES).pairs(index)
    assert patients(index, pairs) == ["both", "twice", "twice"]
    for first, second in pairs.stacks.tolist():
        t1, flair = index.stack(first), index.stack(second)
        assert "t1" in t1.description and "flair" in flair.description.lower()
        assert t1.study_instance_uid == flair.study_instance_uid
    assert pairs.present.all()
    assert reasons(pairs) == {
        "without frame of reference (same=None pairs it)": 1,
        "no FLAIR": 1,
        "FLAIR with another frame of reference": 1,
        "T1 with another frame of reference": 2,
        "several T1: tighten the rule, or use prefer=": 1,
        "FLAIR lies apart from T1 in space, by 114 mm": 1,
        "meets no rule": 0,
    }
    # Each stack is paired, or in one reason.
    listed = np.concatenate([pairs.stacks.ravel(), *(each.numbers for each in pairs.unpaired)])
    assert sorted(listed.tolist()) == index.stacks.numbers.tolist()


def test_the_table_lists_the_stacks_of_an_ambiguous_choice(index: Index) -> None:
    pairs = Pairing(ROLES).pairs(index)
    several = index.select(patient_id="several").stacks
    t1 = " ".join(str(stack.number) for stack in several if "t1" in stack.description)
    flair = next(stack.number for stack in several if "FLAIR" in stack.description)
    assert repr(pairs).startswith("3 cases of T1, FLAIR by study\n")
    assert f"T1 {t1}, FLAIR {flair}" in repr(pairs)
    assert "<table>" in pairs._repr_html_() and f"T1 {t1}" in pairs._repr_html_()


@pytest.mark.parametrize(
    ("prefer", "slices"),
    [
        ("most_slices", 4),
        ("fewest_slices", 3),
        ("last_series", 4),
        ("first_series", 3),
        (("thinnest_slices", "smallest_voxels", "most_slices"), 4),
        ({"T1": "fewest_slices"}, 3),
        (lambda stack: -stack.slices, 3),
        ("last", 4),
    ],
)
def test_a_preference_that_the_user_names_chooses_among_several(
    index: Index, prefer: Any, slices: int
) -> None:
    pairs = Pairing(ROLES, prefer=prefer).pairs(index)
    assert patients(index, pairs) == ["both", "several", "twice", "twice"]
    (chosen,) = [
        stack
        for stack in map(index.stack, pairs.stacks[:, 0].tolist())
        if stack.patient_id == "several"
    ]
    assert chosen.slices == slices
    assert "another stack is preferred" in reasons(pairs)


def test_stacks_that_are_equal_by_a_preference_stay_ambiguous(index: Index) -> None:
    pairs = Pairing(ROLES, prefer="thinnest_slices").pairs(index)
    assert reasons(pairs)["several T1: tighten the rule, or use prefer="] == 1


def test_an_optional_role_may_be_absent(index: Index) -> None:
    pairs = Pairing(ROLES, optional=("FLAIR",)).pairs(index)
    assert patients(index, pairs) == ["alone", "both", "moved", "twice", "twice"]
    assert pairs.present.sum(axis=0).tolist() == [5, 3]
    assert (pairs.stacks[~pairs.present] == -1).all()
    assert "(2 without FLAIR)" in repr(pairs)


def test_images_on_other_frames_of_reference_pair_only_on_request(index: Index) -> None:
    pairs = Pairing(ROLES, same=None).pairs(index)
    assert patients(index, pairs) == ["blank", "both", "moved", "twice", "twice"]
    assert reasons(pairs)["FLAIR lies apart from T1 in space, by 114 mm"] == 1


def test_a_patient_may_be_paired_across_studies(index: Index) -> None:
    pairs = Pairing(ROLES, by="patient", same=None).pairs(index)
    assert patients(index, pairs) == ["blank", "both", "moved"]
    assert reasons(pairs)["several T1 and FLAIR: tighten the rule, or use prefer="] == 1
    # Each study has a frame of reference of its own.
    assert patients(index, Pairing(ROLES, by="patient").pairs(index)) == ["both", "twice", "twice"]


def test_a_stack_is_not_two_images(index: Index) -> None:
    pairs = Pairing({"A": T1, "B": ["modality=MR", lambda stack: "t1" in stack.description]})
    found = reasons(pairs.pairs(index.select(patient_id=["alone", "twice"])))
    assert found == {"one stack is both A and B": 3, "meets no rule": 0}


def test_a_part_of_an_index_is_paired_by_itself(index: Index) -> None:
    part = index.select(patient_id=["both", "alone"])
    pairs = Pairing(ROLES).pairs(part)
    assert len(pairs) == 1 and reasons(pairs) == {"no FLAIR": 1, "meets no rule": 0}
    assert len(Pairing(ROLES).pairs(index.of_stacks([]))) == 0


def test_pairing_makes_no_object_per_stack(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("a stack was made")

    monkeypatch.setattr(Stack, "__init__", refused)
    assert len(Pairing(ROLES, prefer=("most_slices", "last_series", "first")).pairs(index)) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"roles": {}}, "expected a dict with a rule per role"),
        ({"roles": {"T1": 3}}, "the rule of 'T1': expected a condition"),
        ({"roles": {"T1": []}}, "the rule of 'T1': expected a condition"),
        ({"roles": {"A": T1, "B": T1}}, "the roles 'A' and 'B' have the same rule"),
        ({"by": "studies"}, "by='studies': expected one of patient, study"),
        ({"optional": "Flair"}, "there is no role 'Flair' of T1, FLAIR; did you mean 'FLAIR'?"),
        ({"optional": "T1"}, "the first role, 'T1', gives the grid"),
        ({"prefer": {"T2": "first"}}, "there is no role 'T2'"),
        ({"prefer": "most slices"}, "did you mean 'most_slices'"),
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        Pairing(**{"roles": ROLES, **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"roles": {"T1": "series_descr ~ '*t1*'"}}, "did you mean series_description"),
        ({"roles": {"T1": T1, "CT": "modality=CT"}}, "the rule of 'CT' meets none of 17 stacks"),
        ({"roles": {"T1": T1, "CT": "modality=CT"}, "optional": "CT"}, "of 'CT' meets none"),
        ({"same": "frame_of_reference"}, "did you mean frame_of_reference_uid"),
        ({"same": "pixel_spacing"}, "same: pixel_spacing holds several numbers"),
        ({"roles": {"T1": "slices ~ '*3'"}}, "slices holds numbers"),
        ({"prefer": lambda stack: "much"}, "gives a number"),
    ],
)
def test_rules_that_cannot_be_met_are_refused(
    index: Index, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Pairing(**{"roles": ROLES, **options}).pairs(index)


def test_the_echoes_of_a_group_are_chosen_by_their_dimension(tmp_path: Path) -> None:
    for number, echo_time in enumerate((4.92, 7.38)):
        write_series(
            tmp_path / "data" / str(number),
            shape=(3, 5, 7),
            modality="MR",
            seed=number,
            series_uid=uid("echoes"),
            edit=lambda dataset, z, t=echo_time: setattr(dataset, "EchoTime", t),
        )
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    assert len(index.groups) == 1
    roles = {"short": {"dimension": {"echo_time": 4.92}}, "long": "echo_time>5"}
    pairs = Pairing(roles, by="group").pairs(index)
    assert [index.stack(n).dimension["echo_time"] for n in pairs.stacks[0]] == [4.92, 7.38]
    by_function = {"dimension": {"echo_time": lambda t: t > 5}}
    assert len(index.select(**by_function)) == 3
    assert len(index.select(dimension={"b_value": 0})) == 0


def test_a_pairing_compares_prints_and_pickles() -> None:
    pairing = Pairing(ROLES, optional="FLAIR", prefer="most_slices")
    assert pairing == Pairing(ROLES, optional=("FLAIR",), prefer="most_slices")
    assert pairing != Pairing(ROLES) and len({pairing, Pairing(ROLES)}) == 2
    assert pickle.loads(pickle.dumps(pairing)) == pairing
    assert repr(pairing) == (
        "Pairing(T1, FLAIR by study, optional FLAIR, same frame_of_reference_uid, "
        "prefer='most_slices')"
    )


def test_the_columns_of_a_pairing_take_keywords_of_dicom(index: Index) -> None:
    roles = {"T1": "SeriesDescription ~ '*t1*'", "FLAIR": {"SeriesDescription": "*flair*"}}
    pairs = Pairing(roles, same=("FrameOfReferenceUID", "modality")).pairs(index)
    assert (pairs.stacks == Pairing(ROLES).pairs(index).stacks).all()


@pytest.mark.corpus
def test_ct_pet_and_mr_of_real_patients_pair(corpus: Path, tmp_path: Path) -> None:
    folder = corpus / "theibsi+data_sets" / "ibsi_validation" / "dicom"
    index = dicomdl.scan(folder, tmp_path / "index", progress=False)
    roles = {name: f"modality={code}" for name, code in zip("ABC", ("CT", "PT", "MR"), strict=True)}
    pairs = Pairing(roles, by="patient").pairs(index)
    assert len(pairs) == 2 and pairs.present.all() and not pairs.unpaired
    for case in pairs.stacks.tolist():
        assert [index.stack(n).modality for n in case] == ["CT", "PT", "MR"]
        assert len({index.stack(n).patient_id for n in case}) == 1
