"""Columns of facts that the building of stacks reads repeatedly, computed once for all frames."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints
from dicomdl.geometry._candidates import Candidates
from dicomdl.geometry._contrast import Contrasts
from dicomdl.geometry._facts import Facts
from dicomdl.geometry._grouping import by_text, clusters, combined_codes, is_blank
from dicomdl.geometry.concatenations import CONCATENATION, NUMBER, are_of_several, are_parts
from dicomdl.geometry.grid import Tolerances, frame_orientations, frame_positions
from dicomdl.geometry.identities import Identities
from dicomdl.geometry.one_position import has_one_position
from dicomdl.geometry.verdict import has_geometry
from dicomdl.lazy import cached_property

# Columns that order frames where geometry does not. The coding decides the order of an instance
# and its copy in another file.
TIE_BREAKERS = (
    *("instance_number", NUMBER, "sop_instance_uid", "frame_number", "tile_top", "tile_left"),
    *("transfer_syntax_uid", "byte_length", "byte_offset"),
)
# Values in ImageType of Siemens and UIH.
_MOSAICS = frozenset({"MOSAIC", "VFRAME"})


def inverse(order: Ints) -> Ints:
    """Return the index of each row in an order of all rows."""
    index = np.empty(len(order), dtype=np.int64)
    index[order] = np.arange(len(order))
    return index


class FrameColumns:
    """Columns of all n frames; row i is the same frame in all of them.

    `placed` marks frames with a position and an orientation, `by_transducer` frames whose
    coordinates are those of a transducer, and `one_position` frames of a file that has one position
    for all of them; theirs is unknown. `folders` are those of `build_stacks`.
    """

    def __init__(self, facts: Facts, tolerances: Tolerances, folders: Ints | None = None) -> None:
        self.facts = facts
        self.tolerances = tolerances
        self.positions = frame_positions(facts, tolerances)
        self.orientations = frame_orientations(facts)
        self.pixel_spacings = facts.vectors("pixel_spacing", 2)
        self.thickness = facts.numbers("slice_thickness")
        in_patient = np.isfinite(facts.vectors("image_position_patient", 3)[:, 0])
        self.by_transducer = ~in_patient & np.isfinite(self.positions[:, 0])
        segments = facts.numbers("referenced_segment_number")
        self.segments = np.nan_to_num(segments, nan=-1).astype(np.int64)
        self.blanks = {
            name: is_blank(facts, name) for name in ("series_instance_uid", "study_instance_uid")
        }
        self.identities = Identities(facts, self._folders_of_blank(folders), self.ranks)
        self.candidates = Candidates(facts)
        self.contrasts = Contrasts(facts, self.candidates)
        placed = has_geometry(self.positions, self.orientations, self.pixel_spacings, tolerances)
        self.one_position = has_one_position(
            facts, np.where(placed, self.clips, -1), self.positions, self.candidates
        )
        if self.one_position.any():
            self.positions = np.where(self.one_position[:, None], np.nan, self.positions)
        self.placed = placed & ~self.one_position

    def planes(self, rows: Ints, tolerance: float | None = None) -> Iterator[Ints]:
        """Yield rows of equal orientation within a tolerance of the cosines, or that of all."""
        tolerance = self.tolerances.cosines if tolerance is None else tolerance
        yield from clusters(rows, self.orientations[rows], tolerance, 0.0)

    def grids(self, rows: Ints) -> Iterator[Ints]:
        """Yield rows of equal in-plane grid."""
        if len(rows):
            spacings = self.pixel_spacings[rows]
            yield from clusters(rows, spacings, 0.0, self.tolerances.pixel_spacing)

    def _folders_of_blank(self, folders: Ints | None) -> Ints:
        """Return (n,) the folder of each frame without a Series Instance UID, else -1.

        Folders are numbered by the lowest instance in them, so that their names do not affect the
        order of stacks.
        """
        blank = self.blanks["series_instance_uid"]
        if folders is None or not blank.any():
            return np.full(len(blank), -1)
        lowest = np.full(int(folders.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(lowest, folders, self._instances)
        number = inverse(np.argsort(lowest, kind="stable"))
        return np.where(blank, number[folders], -1)

    @cached_property
    def _instances(self) -> Ints:
        """Ranks of SOP Instance UID, the only long column that several steps need."""
        return self.facts.ranks("sop_instance_uid")

    def ranks(self, name: str) -> Ints:
        """Return (n,) integers that order and equal as the values of a column do."""
        return self._instances if name == "sop_instance_uid" else self.facts.ranks(name)

    def ordered(self, rows: Ints, *by: Ints) -> Ints:
        """Sort rows by the tie breakers, then by the keys given.

        Frames without an instance number follow those with one.
        """
        ranks = [self.ranks(name)[rows] for name in reversed(TIE_BREAKERS)]
        unnumbered = np.isnan(self.facts.numbers("instance_number")[rows])
        return rows[np.lexsort([*by, *ranks, unnumbered])]

    @cached_property
    def clips(self) -> Ints:
        """Number of the multi-frame instance of each frame, (n,); -1 for single-frame files.

        It is one file, or the files of a concatenation. The instance comes first, so that the order
        of files matters little.
        """
        several = are_of_several(self.facts)
        if not several.any():
            return np.full(len(several), -1)
        instances, files = self._instances, self.facts.numbers("file").astype(np.int64)
        parts = are_parts(self.facts)
        whole = np.where(parts, self.facts.ranks(CONCATENATION), -1) if parts.any() else files * 0
        by_file = combined_codes([whole, np.where(parts, 0, instances), np.where(parts, 0, files)])
        return np.where(several, by_file, -1)

    @cached_property
    def mosaics(self) -> npt.NDArray[np.bool_]:
        """Mask of frames, (n,), that are mosaics whose tiles the header reader could not locate."""
        kinds = by_text(
            self.facts, "image_type", lambda text: int(not _MOSAICS.isdisjoint(text.split("\\")))
        )
        return np.asarray((kinds == 1) & (self.facts.numbers("coded_rows") == 0))

    @cached_property
    def mosaic_files(self) -> Ints:
        """Number of the file of each frame, (n,), that is a tile of a mosaic; -1 for other frames.

        A mosaic is one volume.
        """
        files = self.facts.numbers("file").astype(np.int64)
        return np.where(self.facts.numbers("coded_rows") > 0, files, -1)

    @cached_property
    def derived(self) -> npt.NDArray[np.bool_]:
        """Mask of frames, (n,), derived from other images (PS3.3 C.7.6.1.1.2, value 1)."""
        return by_text(
            self.facts, "image_type", lambda text: int(text.startswith("DERIVED"))
        ).astype(np.bool_)
