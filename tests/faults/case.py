"""A case: one hand-made file, the outcome that it must have, and how the outcome is found.

Outcomes, of which each case has exactly one:

- ``loads``: the scan lists the image; stored and modality values are right
- ``loads, flag:NAME ...``: as above, and `Frame.flags` names what is odd
- ``no volume: ERROR``: frames are read, with the right values; `read_volume` raises
- ``refused: ERROR``: the scan lists the image, `read_frame` raises
- ``problem: REASON``: the file is a row of `problems`
- ``no image``: DICOM without an image
- ``not DICOM``
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faults import writing

import dicomdl
from dicomdl.errors import DicomdlError


@dataclass(frozen=True, slots=True)
class Case:
    """One file.

    Attributes
    ----------
    name
        What is odd about the file, as a noun.
    outcome
        See the module.
    make
        Returns the bytes of the file.
    file_name
        Its name.
    stored, slope, intercept
        The values that it must have, (rows, columns) per frame; None: not compared.
    """

    name: str
    outcome: str
    make: Callable[[], bytes]
    file_name: str = "a.dcm"
    stored: Callable[[], Any] | None = writing.stored
    slope: float = 2
    intercept: float = -10


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a case: its outcome, and whether its values are right."""

    outcome: str
    values_are_right: bool = True


def outcome_of(case: Case, folder: Path) -> Found:
    """Write a case into an empty folder, scan and read it."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / case.file_name).write_bytes(case.make())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = dicomdl.scan(folder / "data", folder / "index", progress=False, workers=1)
        if index.problems:
            return Found(f"problem: {index.problems[0].reason}")
        if not len(index):
            return Found("no image" if index.ledger["no_image"] else "not DICOM")
        return _read(case, index)


def _read(case: Case, index: dicomdl.Index) -> Found:
    flags = index.frame(0).flags
    ending = f", flag:{flags}" if flags else ""
    try:
        frames = [dicomdl.read_frame(index.frame(number)) for number in range(len(index))]
    except DicomdlError as error:
        return Found(f"refused: {type(error).__name__}{ending}")
    is_right = case.stored is None or all(np.array_equal(one, case.stored()) for one in frames)
    try:
        volumes = [dicomdl.read_volume(stack) for stack in index.stacks]
    except DicomdlError as error:
        return Found(f"no volume: {type(error).__name__}{ending}", is_right)
    if case.stored is not None:
        expected = case.stored() * case.slope + case.intercept
        is_right &= all(np.allclose(each.array, expected) for each in volumes)
    return Found(f"loads{ending}", is_right)
