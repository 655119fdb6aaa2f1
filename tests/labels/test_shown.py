"""The labels that a person looks at: which come first, and how fractions are drawn."""

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import index_of
from phantoms import write_series
from phantoms_labels import contour, write_seg, write_structure_set

from dicomdl.labels.shown import shown_annotations, shown_labels

SHAPE = (4, 9, 11)


def test_segs_come_before_structure_sets_and_fractions_are_drawn_from_a_half(
    folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    image = write_series(folder / "ct", shape=SHAPE)[0]
    values = np.random.default_rng(0).integers(0, 201, SHAPE, np.uint8)
    frames = [(1, (0, 0, 2.0 * z), values[z]) for z in range(SHAPE[0])]
    square = contour(np.array([[2, 2, 2], [8, 2, 2], [8, 7, 2], [2, 7, 2]]))
    # In the order of the alphabet the structure set is the first.
    write_structure_set(folder / "a.dcm", image, {"Liver": [square]})
    write_seg(folder / "b.dcm", image, frames, kind="FRACTIONAL")
    (stack,) = (each for each in index_of(folder).stacks if each.content == "image")
    found = shown_annotations(stack)
    assert [os.path.basename(each.path) for each in found] == ["b.dcm", "a.dcm"]
    assert np.array_equal(shown_labels(stack, found[0]).array > 0, values >= 100)
    assert set(shown_labels(stack, found[1]).names.values()) == {"Liver"}
    assert not recwarn
