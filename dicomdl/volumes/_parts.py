"""Parts of a volume, and other values on its grid: operations that compute no value."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from dicomdl.errors import UsageError
from dicomdl.volumes._cropping import Range, block_of, cropped
from dicomdl.volumes._facts import VolumeFacts
from dicomdl.volumes._regridding import Gridded
from dicomdl.volumes.fitting import fitting, mask_on, require_same_grid


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VolumeParts(VolumeFacts):
    """The operations of `Volume` on its axes."""

    def at(self, t: int) -> Self:
        """Return one time point (echo, b-value, ...) of the volume of a group, as a plain volume.

        Parameters
        ----------
        t
            Index on the leading axis; negative counts from the end.

        Returns
        -------
        Volume
            The volume of the stack at `t`. Its array is a view.

        Raises
        ------
        UsageError
            `t` is out of range, or the volume has no leading axis.
        """
        if not -len(self.dimension) <= t < len(self.dimension):
            raise UsageError(
                f"t is {t}: this volume has {len(self.dimension) or 'no leading axis of'} "
                "time points",
                t=t,
            )
        stack = self.stacks[t] if self.stacks else None
        frame = stack.middle if stack is not None else self.frame
        padding = None if self.padding is None else self.padding[t]
        return dataclasses.replace(
            self,
            array=self.array[t],
            padding=padding,
            stack=stack,
            frame=frame,
            dimension=(),
            dimension_names=(),
            stacks=(),
        )

    def like(self, array: Any, units: str = "") -> Self:
        """Return other values on this grid, such as the prediction of a network.

        Parameters
        ----------
        array
            An array, a tensor or a `Volume` on this grid: (slice, row, column), with a last axis
            for samples or channels. For the volume of a group, it may have the leading axis too.
            Its memory is shared.
        units
            Units of the values.

        Returns
        -------
        Volume
            It has the stack of this volume, and the quantity "derived": rules of a file, such as
            "auto", do not apply to it.

        Raises
        ------
        GeometryError
            The array has another shape, such as a leading axis of channels, or another grid.
        UsageError
            These are no numbers.
        """
        require_same_grid(self, array)
        values, is_series = fitting(array, self.geometry.shape, len(self.dimension))
        return dataclasses.replace(
            self,
            array=values,
            units=units,
            padding=None,
            unlabelled=None,
            quantity="derived",
            dimension=self.dimension if is_series else (),
            dimension_names=self.dimension_names if is_series else (),
            stacks=self.stacks if is_series else (),
        )

    def crop(
        self,
        slices: Range = None,
        rows: Range = None,
        columns: Range = None,
        *,
        box: Any = None,
        mask: Any = None,
        margin: float = 0.0,
    ) -> Self:
        """Return the part of the volume in a block of its grid; the array is a view.

        Parameters
        ----------
        slices, rows, columns
            Ranges of indices, (start, stop) or a slice; negative counts from the end.
        box
            Two opposite corners of a box in the patient, ((x, y, z), (x, y, z)) in LPS mm, instead
            of indices: the block contains its part in the volume.
        mask
            An array or `Volume` on this grid, instead of indices: the block is the bounding box of
            its values other than 0.
        margin
            Distance in mm that is added on each side of the bounding box, up to the border.

        Returns
        -------
        Volume
            The part; its affine starts at its own first voxel.

        Raises
        ------
        GeometryError
            The block is empty or beside the volume, or the mask lies on another grid.
        UsageError
            There is more than one of indices, box and mask, or one of them is none.
        """
        if mask is not None:
            mask = mask_on(self, mask)
        block = block_of(self.geometry, (slices, rows, columns), box, mask, margin)
        return self._on(cropped(self._gridded(), block))

    def _on(self, parts: Gridded) -> Self:
        """Return this volume with the parts of another grid."""
        return dataclasses.replace(
            self,
            array=parts.array,
            geometry=parts.geometry,
            filled=parts.filled,
            padding=parts.padding,
            unlabelled=parts.unlabelled,
        )
