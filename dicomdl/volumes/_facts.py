"""What a volume is: an array with its grid, units and origin, and all that follows from these.

`Volume` adds the operations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Mask, Values
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.verdict import READABLE
from dicomdl.headers.frame import Frame
from dicomdl.index.text import counted, format_lengths
from dicomdl.index.views import Stack
from dicomdl.printing import printable
from dicomdl.values.bit_masks import BitMask
from dicomdl.values.quantity import Quantity, printed_units
from dicomdl.volumes._diffusion import gradients
from dicomdl.volumes._regridding import Gridded, checked_filled
from dicomdl.volumes._time_axis import step_of


@dataclass(frozen=True, slots=True, eq=False)
class VolumeFacts:
    """The fields of `Volume`, which documents them, and their properties."""

    array: Values
    geometry: Geometry
    units: str = ""
    frame: Frame | None = None
    stack: Stack | None = None
    dimension: tuple[Any, ...] = ()
    dimension_names: tuple[str, ...] = ()
    filled: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    padding: Mask | None = None
    quantity: Quantity = "modality"
    stacks: tuple[Stack, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    unlabelled: Mask | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "filled", checked_filled(self._gridded()))

    def _gridded(self) -> Gridded:
        """Return the parts that depend on the grid."""
        return Gridded(
            self.array,
            self.geometry,
            self.filled,
            self.padding,
            times=len(self.dimension),
            unlabelled=self.unlabelled,
        )

    @property
    def verdict(self) -> str:
        """Verdict on the stack that was read, "" for a volume from elsewhere.

        The affine is exact for "regular", "single" and "tilted", and an average for others.
        """
        return self.stack.verdict if self.stack is not None else ""

    @property
    def affine(self) -> Floats:
        """(4, 4) float64 from (slice, row, column, 1) to LPS mm, read-only."""
        return self.geometry.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing in mm; NaN where unknown."""
        return self.geometry.spacing

    @property
    def direction(self) -> Floats:
        """Unit vectors along the slice, row and column index as columns of a (3, 3) array, LPS."""
        return self.geometry.direction

    @property
    def origin(self) -> tuple[float, float, float]:
        """Centre of voxel (0, 0, 0), LPS mm."""
        return self.geometry.origin

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.array.dtype

    @property
    def time_step_s(self) -> float:
        """Time between the volumes of a group, s; NaN without one, or where none is known."""
        return step_of(self.stacks, self.dimension_names, self.dimension)

    @property
    def b_values(self) -> Floats:
        """(t,) b-values of a group, s/mm^2; NaN where the header gives none. () without a group."""
        return gradients(self.stacks)[0]

    @property
    def b_vectors(self) -> Floats:
        """(t, 3) gradient directions in LPS, of length 1; 0 for none, NaN where unknown.

        They are those of the patient, so that no change of the grid concerns them.
        """
        return gradients(self.stacks)[1]

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID, "" for a volume from elsewhere."""
        return self.frame.series_instance_uid if self.frame else ""

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID, "" for a volume from elsewhere."""
        if self.stack is not None:
            return self.stack.study_instance_uid
        return self.frame.study_instance_uid if self.frame else ""

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Values:
        """Return `array` for NumPy: itself where neither dtype nor copy ask for another."""
        array = self.array if dtype is None else self.array.astype(dtype, copy=False)
        if array is not self.array:
            if copy is False:
                raise ValueError(f"{self.array.dtype} becomes {array.dtype} only by a copy")
            return array
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        """Return `array` for torch, which shares its memory.

        An array that torch cannot share is copied: one that is read-only, runs backwards or has
        bytes of the other order.
        """
        array = self.array
        is_shared = (
            array.flags.writeable and array.dtype.isnative and all(n > 0 for n in array.strides)
        )
        if not is_shared:
            array = array.astype(array.dtype.newbyteorder("="), order="C")
        return array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the device of `array`: the CPU."""
        kind, number = self.array.__dlpack_device__()
        return int(kind), int(number)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        verdict = "" if self.verdict in READABLE else self.verdict
        filled = int(self.filled.sum())
        notes = [
            printed_units(self.units),
            f"by {' and '.join(self.dimension_names) or 'nothing'}" if self.dimension else "",
            f"was {verdict}" if verdict and filled else verdict,
            f"{counted(filled, 'slices')} filled" if filled else "",
        ]
        spacing = format_lengths(self.spacing)
        parts = [f"{shape} {self.array.dtype}", f"{spacing} mm", *filter(None, notes)]
        return printable(f"{type(self).__name__}({', '.join(parts)})")


class _Unpacked:
    """The field of a mask that may be bits: they become bools at the first look.

    `slot` is the field as its dataclass has made it.
    """

    def __init__(self, slot: Any) -> None:
        self._slot = slot

    def __get__(self, volume: VolumeFacts | None, owner: type | None = None) -> Any:
        if volume is None:
            return self
        mask = self._slot.__get__(volume)
        if isinstance(mask, BitMask):
            mask = mask.unpacked()
            self._slot.__set__(volume, mask)
        return mask

    def __set__(self, volume: VolumeFacts, mask: Mask | BitMask | None) -> None:
        # For the methods that dataclasses make, and `keep_bits`: others find a frozen volume.
        self._slot.__set__(volume, mask)


setattr(VolumeFacts, "padding", _Unpacked(vars(VolumeFacts)["padding"]))  # noqa: B010


def keep_bits(volume: VolumeFacts, mask: BitMask) -> None:
    """Give a new volume its mask of padding, which stays bits until it is asked for."""
    object.__setattr__(volume, "padding", mask.reshape(volume.shape))
