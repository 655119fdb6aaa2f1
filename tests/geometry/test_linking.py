"""Which stacks an annotation describes, and with what status."""

import numpy as np
import pytest

from dicomdl.geometry.linking import Link, Reference, Target, Targets


def target(
    number: int, series: str, *instances: int, reference: str = "F", patient: str = "P"
) -> Target:
    return Target(number, patient, reference, series, np.array(instances, np.int64))


TARGETS = [target(0, "A", 1, 2, 3), target(1, "A", 4), target(2, "B", 5, reference="G")]


@pytest.mark.parametrize(
    ("series", "instances", "reference", "link"),
    [
        (["A"], [1, 2, 3], "F", Link("ok", (0,), 3, 3)),
        (["A"], [1, 4], "F", Link("ok", (0, 1), 2, 2)),
        (["A"], [1, 9], "F", Link("partial", (0,), 2, 1)),
        (["A"], [], "F", Link("ok", (0, 1), 0, 0)),
        (["A", "B"], [3, 5], "", Link("ok", (0, 2), 2, 2)),
        (["A"], [1], "G", Link("other_frame_of_reference", (0,), 1, 1)),
        (["C"], [8], "F", Link("other_reconstruction", (0, 1), 1, 0)),
        (["A"], [8], "G", Link("other_reconstruction", (2,), 1, 0)),
        (["C"], [8], "H", Link("images_absent", (), 1, 0)),
        ([], [], "G", Link("ok", (2,), 0, 0)),
        ([], [], "H", Link("images_absent", (), 0, 0)),
        ([], [], "", Link("no_reference", (), 0, 0)),
    ],
)
def test_references_decide_about_stacks_and_status(
    series: list[str], instances: list[int], reference: str, link: Link
) -> None:
    given = Reference("P", reference, series, np.array(instances, np.int64))
    assert Targets(TARGETS).link(given) == link


def test_an_object_of_another_patient_is_told() -> None:
    given = Reference("Q", "F", ["A"], np.array([1], np.int64))
    assert Targets(TARGETS).link(given) == Link("other_patient", (0,), 1, 1)
    blank = given._replace(patient_id="")
    assert Targets(TARGETS).link(blank).status == "ok"
