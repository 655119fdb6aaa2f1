"""Identities of frames: Series, and the UIDs that should agree within one but may not.

A Series is that of one patient (PS3.3 A.1.2.2, A.1.2.3), has one Study Instance UID and one Frame
of Reference UID (PS3.3 C.7.4.1.1.1). Software that replaces identifiers may write another UID into
every file, or none. `_joining` decides which of them tell frames apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints
from dicomdl.geometry._facts import Facts
from dicomdl.geometry._grouping import combined_codes, differ_within, filled, is_blank

DIVIDING: Final = ("study_instance_uid", "frame_of_reference_uid", "volume_frame_of_reference_uid")
# Minimum of UIDs that show that software made a new one per file.
FEWEST_VALUES: Final = 3


class Counted(NamedTuple):
    """Keys in the detail of a stack.

    The number of values in it, the number of its slices without one, and the number of values that
    divide its Series.
    """

    values: str
    blank: str
    apart: str


def _counted(plural: str) -> Counted:
    return Counted(plural, f"blank_{plural}", f"{plural}_apart")


COUNTED: Final[Mapping[str, Counted]] = {
    "patient_id": _counted("patients"),
    "study_instance_uid": _counted("studies"),
    "frame_of_reference_uid": _counted("frames_of_reference"),
    "volume_frame_of_reference_uid": _counted("volume_frames_of_reference"),
}

# Keys in the detail of a stack for the number of patients that share its identifier.
SHARED: Final[Mapping[str, str]] = {
    "study_instance_uid": "patients_of_study",
    "series_instance_uid": "patients_of_series",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """One identifier of all n frames.

    `codes` (n,) order and equal each other as the values do; `blank` (n,) marks empty values.
    """

    codes: Ints
    blank: npt.NDArray[np.bool_]


class Identities:
    """The identifiers of all n frames, by the name of their column.

    Attributes
    ----------
    series
        (n,) number of the Series of each frame: (PatientID, Series Instance UID), where a blank
        PatientID is that of the other frames of the Series, and the folder for frames without a
        Series Instance UID. Such frames are told apart by their Study, too.
    uids
        (n,) number of the Series Instance UID of each frame, whatever its patient; that of the
        Series for frames without one.
    columns
        `Identity` per column.
    """

    def __init__(self, facts: Facts, folders_of_blank: Ints, ranks: Callable[[str], Ints]) -> None:
        codes = {name: facts.ranks(name) for name in COUNTED}
        self.columns = {
            name: Identity(each, is_blank(facts, name, each)) for name, each in codes.items()
        }
        uids = facts.ranks("series_instance_uid")
        unnamed = is_blank(facts, "series_instance_uid", uids)
        patients, studies = self.columns["patient_id"], self.columns["study_instance_uid"]
        patient = filled(patients.codes, patients.blank & ~unnamed, uids)
        series = combined_codes(
            [patient, uids, folders_of_blank, np.where(unnamed, studies.codes, -1)]
        )
        # Series are numbered by patient, then by their lowest study.
        lowest = np.full(int(series.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(lowest, series, studies.codes)
        self.series = combined_codes([patient, lowest[series], uids, folders_of_blank])
        self.uids = combined_codes([uids, np.where(unnamed, self.series, -1)])
        values = combined_codes([identity.codes for identity in self.columns.values()])
        self._ranks = ranks
        self._vary = differ_within(self.series, values)
        named = {"study_instance_uid": (studies.codes, studies.blank)}
        named["series_instance_uid"] = (uids, unnamed)
        self._shared = {
            key: counts
            for name, key in SHARED.items()
            if len(counts := _sharing(patients, *named[name]))
        }

    def vary(self, row: int) -> bool:
        """Whether any identifier differs among the frames of the Series of a row."""
        return bool(self._vary[row])

    def remarks(self, rows: Ints) -> dict[str, Any]:
        """Return how many values of an identifier a stack has, and in how many slices it is blank.

        Empty where all slices agree, but for the number of patients that share a UID of the stack:
        a Study and a Series are those of one patient (PS3.3 A.1.2.2, A.1.2.3).
        """
        remarks: dict[str, Any] = {
            key: most
            for key, counts in self._shared.items()
            if (most := int(counts[rows].max())) > 1
        }
        if not self._vary[rows[0]]:
            return remarks
        for name, identity in self.columns.items():
            codes, blank = identity.codes[rows], identity.blank[rows]
            if (codes == codes[0]).all():
                continue
            if (count := len(np.unique(codes[~blank]))) > 1:
                remarks[COUNTED[name].values] = count
            if blank.any():
                remarks[COUNTED[name].blank] = int(blank.sum())
        return remarks

    def numbers_of_series(self, stacks: Sequence[Ints]) -> list[int]:
        """Return the number of the Series of each stack, given the rows of all stacks in order.

        A Series is divided by the Studies that divide it into stacks. Those that share a stack, and
        all that do not divide, are one.
        """
        studies = self.columns["study_instance_uid"].codes
        parents: dict[tuple[int, int], tuple[int, int]] = {}

        def root(key: tuple[int, int]) -> tuple[int, int]:
            while (parent := parents.setdefault(key, key)) != key:
                key = parent
            return key

        per_file = self._with_studies_per_file(stacks)
        keys = []
        for rows in stacks:
            series = int(self.series[rows[0]])
            keys.append((series, int(studies[rows[0]])))
            if not self._vary[rows[0]]:
                continue
            members = np.unique(studies[rows]).tolist()
            # -1 stands for the Studies that do not divide the Series.
            joined = len(members) > 1 or series in per_file
            for study in [*members, -1] if joined else members:
                parents[root((series, study))] = root(keys[-1])
        numbers: dict[tuple[int, int], int] = {}
        return [numbers.setdefault(root(key), len(numbers)) for key in keys]

    def _with_studies_per_file(self, stacks: Sequence[Ints]) -> set[int]:
        """Return the numbers of the Series in which every file has a Study of its own."""
        rows_of: dict[int, list[Ints]] = {}
        for rows in stacks:
            if self._vary[rows[0]]:
                rows_of.setdefault(int(self.series[rows[0]]), []).append(rows)
        study = self.columns["study_instance_uid"]
        found = set()
        for series, parts in rows_of.items():
            rows = np.concatenate(parts)
            known = rows[~study.blank[rows]]
            studies = np.unique(study.codes[known])
            instances = self._ranks("sop_instance_uid")
            pairs = study.codes[known] * len(instances) + instances[known]
            if FEWEST_VALUES <= len(studies) == len(np.unique(pairs)):
                found.add(series)
        return found


def _sharing(patients: Identity, codes: Ints, blank: npt.NDArray[np.bool_]) -> Ints:
    """Return (n,) how many patients the UID of each frame has, (0,) if none has several.

    A blank UID is shared by no patients, and a blank PatientID may be that of any other patient.
    """
    known = np.flatnonzero(~blank & ~patients.blank)
    several = known[differ_within(codes[known], patients.codes[known])]
    if not len(several):
        return several
    pairs = np.unique(np.stack([codes[several], patients.codes[several]]), axis=1)
    return np.asarray(np.bincount(pairs[0], minlength=int(codes.max()) + 1)[codes])
