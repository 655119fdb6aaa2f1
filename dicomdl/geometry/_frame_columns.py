"""The frames' facts that the building of stacks asks again and again, computed once for all frames."""

import functools

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints
from dicomdl.geometry._candidates import Candidates
from dicomdl.geometry._facts import Facts
from dicomdl.geometry._grouping import by_text, combined_codes, is_blank
from dicomdl.geometry.grid import Tolerances, frame_orientations, frame_positions
from dicomdl.geometry.verdict import has_geometry

# What orders frames that geometry does not; a copy of an instance in another file comes after it
# by its coding.
TIE_BREAKERS = (
    *("instance_number", "sop_instance_uid", "frame_number", "tile_top", "tile_left"),
    *("transfer_syntax_uid", "byte_length", "byte_offset"),
)
_MOSAICS = frozenset({"MOSAIC", "VFRAME"})  # in ImageType, of Siemens and UIH


class FrameColumns:
    """Columns of all n frames; row i is the same frame in all of them.

    `placed` are the frames with a position and an orientation, `by_transducer` those whose
    coordinates are a transducer's.
    """

    def __init__(self, facts: Facts, tolerances: Tolerances) -> None:
        self.facts = facts
        self.tolerances = tolerances
        self.positions = frame_positions(facts, tolerances)
        self.orientations = frame_orientations(facts)
        self.pixel_spacings = facts.vectors("pixel_spacing", 2)
        self.imager_spacings = facts.vectors("imager_pixel_spacing", 2)
        self.thickness = facts.numbers("slice_thickness")
        in_patient = np.isfinite(facts.vectors("image_position_patient", 3)[:, 0])
        self.by_transducer = ~in_patient & np.isfinite(self.positions[:, 0])
        segments = facts.numbers("referenced_segment_number")
        self.segments = np.nan_to_num(segments, nan=-1).astype(np.int64)
        self.placed = has_geometry(
            self.positions, self.orientations, self.pixel_spacings, tolerances
        )
        self.blanks = {
            name: is_blank(facts, name) for name in ("series_instance_uid", "study_instance_uid")
        }
        self.candidates = Candidates(facts)

    def ordered(self, rows: Ints, *by: Ints) -> Ints:
        """Rows by the tie breakers, and where those are equal by the keys given."""
        ranks = [self.facts.ranks(name)[rows] for name in reversed(TIE_BREAKERS)]
        return rows[np.lexsort([*by, *ranks])]

    @functools.cached_property
    def clips(self) -> Ints:
        """(n,) numbers that tell multi-frame files apart, by instance first so that the order of files has little say; else -1."""
        by_file = combined_codes(
            [self.facts.ranks("sop_instance_uid"), self.facts.numbers("file").astype(np.int64)]
        )
        return np.where(self.facts.numbers("number_of_frames") > 1, by_file, -1)

    @functools.cached_property
    def mosaics(self) -> npt.NDArray[np.bool_]:
        """(n,) which frames show many slices that the reader of headers could not tell apart."""
        kinds = by_text(
            self.facts, "image_type", lambda text: int(not _MOSAICS.isdisjoint(text.split("\\")))
        )
        return np.asarray((kinds == 1) & (self.facts.numbers("coded_rows") == 0))

    @functools.cached_property
    def derived(self) -> npt.NDArray[np.bool_]:
        """(n,) whose pixels were made of other images' (PS3.3 C.7.6.1.1.2, value 1)."""
        return by_text(
            self.facts, "image_type", lambda text: int(text.startswith("DERIVED"))
        ).astype(np.bool_)
