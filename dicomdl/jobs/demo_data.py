"""Data to try dicomdl with: DICOM files of a made-up head with a lesion at a known position."""

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError
from dicomdl.index.views import Stack
from dicomdl.jobs._demo_labels import segmentation, structure_set
from dicomdl.jobs._demo_patient import Head
from dicomdl.jobs._demo_series import ct, first_patient
from dicomdl.jobs._head import Lesion, labels_of
from dicomdl.jobs._part10 import FileWriter
from dicomdl.storage.publishing import read_whole, write_files, write_whole
from dicomdl.volumes.resampling import require_known

# Written last: its presence shows that the data are complete.
_ABOUT: Final = "README.txt"
_MOST: Final = 99
_TEXT: Final = """dicomdl demo data, version 2, patients: {patients}

Made-up DICOM files of a head with a lesion, written by dicomdl.demo_data.
Every value is computed. Nothing here comes from a person.
"""


@dataclass(frozen=True, slots=True)
class DemoData:
    """A folder of demo data; `dicomdl.scan` and `os.fspath` take it as a path.

    Attributes
    ----------
    folder
        The folder.
    patients
        Number of patients: "DEMO-001", "DEMO-002", ...
    """

    folder: str
    patients: int

    def __fspath__(self) -> str:
        return self.folder

    @property
    def lesions(self) -> Mapping[str, Lesion]:
        """The lesion of each PatientID: its center (LPS mm) and its radius (mm)."""
        heads = map(_head, range(1, self.patients + 1))
        return {head.patient_id: head.lesion for head in heads}

    def labels(self, stack: Stack) -> npt.NDArray[np.uint8]:
        """Return the label map of a stack: 1 in the lesion, 0 elsewhere.

        `PatchDataset` and `VolumeDataset` take this method as ``labels=data.labels``.

        Parameters
        ----------
        stack
            A stack of an index of these data.

        Returns
        -------
        numpy.ndarray
            uint8 (slices, rows, columns).

        Raises
        ------
        GeometryError
            The stack has no position in the patient, as the radiograph.
        UsageError
            The stack is of another patient.
        """
        lesion = self.lesions.get(stack.patient_id)
        if lesion is None:
            raise UsageError("the stack is of no patient of these demo data")
        require_known(stack.geometry)
        return np.asarray(labels_of(stack.geometry, lesion) == 1, np.uint8)


def demo_data(folder: str | os.PathLike[str], patients: int = 1) -> DemoData:
    """Write DICOM files to try dicomdl with: a made-up head with a lesion at a known position.

    The first patient has a CT, a CT with a tilted gantry, a CT that lacks slices, an MR with two
    echoes in one Series, a PET with a rescale slope per slice, an fMRI of mosaics, and a radiograph
    (MONOCHROME1): 296 files, 18 MB. Each further patient has one small CT, with a head of
    another size and a lesion elsewhere (36 files, 0.7 MB).

    The first CT of each patient has its labels: a SEG of the segments Lesion and Oedema, which do
    not overlap, and an RTSTRUCT of Brain, Eye_L, Eye_R and GTV, the contours of the same lesion
    within the brain. Every value is computed, and two calls write the same files. A folder that
    holds these data already is left as it is.

    Parameters
    ----------
    folder
        The folder of the files, created if it does not exist.
    patients
        Number of patients, 1 to 99.

    Returns
    -------
    DemoData
        The folder as a path for `scan`, the lesions, and their label maps.

    Raises
    ------
    StorageError
        The folder cannot be written.
    UsageError
        `patients` is out of range, or the folder holds demo data of another number of patients.

    Examples
    --------
    >>> import dicomdl
    >>> data = dicomdl.demo_data("demo-data")
    >>> index = dicomdl.scan(data, "demo.index", progress=False)
    >>> sorted(index.stacks.verdicts().items())
    [('missing_slices', 1), ('no_geometry', 1), ('regular', 9), ('tilted', 1)]
    >>> data.lesions["DEMO-001"]
    Lesion(center=(32.0, -22.0, 34.0), radius=9.0)
    >>> dicomdl.read_labels(index.select(has="SEG").stacks[0], "SEG").names
    {1: 'Lesion', 2: 'Oedema'}
    """
    if not 1 <= patients <= _MOST:
        raise UsageError(f"patients={patients}: expected 1 to {_MOST}")
    folder = os.path.abspath(os.fspath(folder))
    about, text = os.path.join(folder, _ABOUT), _TEXT.format(patients=patients)
    if os.path.exists(about):
        if read_whole(about).decode(errors="replace") != text:
            raise UsageError(
                f"{folder!r} holds other data than these of {patients} patients: name a new folder"
            )
        return DemoData(folder, patients)
    writer = FileWriter()
    for number in range(1, patients + 1):
        head = _head(number)
        images = first_patient(head) if number == 1 else ct(head)
        files = itertools.chain(images, [segmentation(head), structure_set(head)])
        write_files(folder, ((name, writer.file(elements)) for name, elements in files))
    write_whole(about, text.encode())
    return DemoData(folder, patients)


def _head(number: int) -> Head:
    """Return the head of a patient; the first one is fixed, the others differ at random."""
    if number == 1:
        return Head(1, 1.0, Lesion((32.0, -22.0, 34.0), 9.0))
    chance = np.random.default_rng(number)
    size = round(chance.uniform(0.9, 1.05), 3)
    side = float(chance.choice([-1, 1]))
    low, high = (16, -44, 14), (40, 44, 50)
    x, y, z = (chance.uniform(low, high) * size).round(1).tolist()
    # Towards the vertex the brain is narrower.
    x *= side * (1 if z < 36 * size else 0.7)
    return Head(number, size, Lesion((round(x, 1), y, z), round(chance.uniform(6, 11), 1)))
