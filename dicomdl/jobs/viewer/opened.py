"""Stacks that the viewer has open: their planes, window, labels, and the facts for the page."""

import dataclasses
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DicomdlError, UsageError
from dicomdl.headers.uids import TRANSFER_SYNTAXES
from dicomdl.index.check import reason_of
from dicomdl.index.index import Index
from dicomdl.index.text import plain_value
from dicomdl.index.views import Stack
from dicomdl.labels.shown import shown_annotations, shown_labels
from dicomdl.printing import printable
from dicomdl.values.auto import units_of
from dicomdl.values.formulas import Ramp, Sigmoid
from dicomdl.values.intensity import Intensity
from dicomdl.values.quantity import printed_units
from dicomdl.values.stack_intensity import stack_intensity
from dicomdl.values.suv import SUV
from dicomdl.volumes.plane_reader import PlaneReader
from dicomdl.volumes.solid import solid

# Stacks that stay open, and the bytes up to which one is read as a whole.
_MOST_OPEN: Final = 2
_MOST_BYTES: Final = 1 << 30
_OF_CT: Final = "ct.abdomen"
# Facts of the first slice that the page shows, where the file has them.
_FACTS: Final = (
    *("manufacturer", "manufacturer_model_name", "convolution_kernel", "kvp"),
    *("slice_thickness", "echo_time", "repetition_time", "magnetic_field_strength"),
    *("photometric_interpretation", "body_part_examined"),
)


class OpenStack:
    """One stack in the viewer.

    Parameters
    ----------
    stack
        The stack.

    Raises
    ------
    DicomdlError
        The stack cannot be shown; the message says why.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        recipe = _recipe_of(stack)
        self.planes = PlaneReader(stack, recipe.quantity)
        self._recipe = recipe
        self._labels: dict[int, tuple[Values, Mapping[int, str]]] = {}
        self._lock = threading.Lock()
        self.is_closed = False

    def load(self) -> None:
        """Read the whole stack in the background, if it fits; errors show with its pictures."""
        if self.stack.slices > 1 and self.planes.nbytes <= _MOST_BYTES:
            threading.Thread(target=self._load, daemon=True).start()

    def _load(self) -> None:
        try:
            self.planes.load()
        except (DicomdlError, MemoryError):
            # The slices that can be read are read one by one.
            return

    def facts(self) -> dict[str, Any]:
        """Return what the page shows beside the pictures, as plain values."""
        stack = self.stack
        native = next(each for each in self.planes.planes.values() if each.is_native)
        middle = self.planes.read(native.name, native.count // 2)
        lower, width = _window(self._recipe, middle)
        units = "" if middle.ndim == 3 else printed_units(_units(self._recipe, stack))
        return {
            "number": stack.number,
            "planes": [asdict(each) for each in self.planes.planes.values()],
            "is_colour": middle.ndim == 3,
            "window": [lower, width],
            "invert": self._recipe.invert,
            "units": printable(units),
            "affine": plain_value(stack.affine.tolist()),
            "detail": plain_value(stack.detail),
            "reason": printable(reason_of(stack)),
            "group": [each.number for each in stack.group],
            "dimension": plain_value(stack.dimension),
            "facts": {
                **{name: plain_value(v) for name in _FACTS if (v := stack.value(name))},
                "transfer_syntax": _syntax(str(stack.value("transfer_syntax_uid"))),
            },
            "labels": [
                {"number": number, "kind": each.kind, "status": each.status}
                for number, each in enumerate(shown_annotations(self.stack))
            ],
        }

    def picture(self, plane: str, number: int) -> Values:
        """Return a picture, (row, column[, sample]): uint8 colour, int16 or float32."""
        values = self.planes.read(plane, number)
        return _plain(values, is_colour=values.ndim == 3)

    def names(self, source: int) -> Mapping[int, str]:
        """Return {label: name} of a label source."""
        return self._read_labels(source)[1]

    def labels(self, source: int, plane: str, number: int) -> Values:
        """Return the labels of a picture, (row, column) uint16."""
        return self.planes.cut(self._read_labels(source)[0], plane, number).astype(np.uint16)

    def solid(self) -> memoryview:
        """Return the stack as a NIfTI file, as its slices lie."""
        values = self.planes.whole()
        return solid(_plain(values, is_colour=values.ndim == 4), self.stack.geometry)

    def solid_labels(self, source: int) -> memoryview:
        """Return the labels of a source as a NIfTI file on the same grid."""
        return solid(self._read_labels(source)[0].astype(np.uint16), self.stack.geometry)

    def _read_labels(self, source: int) -> tuple[Values, Mapping[int, str]]:
        with self._lock:
            if source not in self._labels:
                every = shown_annotations(self.stack)
                if not 0 <= source < len(every):
                    raise UsageError(f"the stack has no label source {source}")
                volume = shown_labels(self.stack, every[source])
                names = {int(n): printable(name) for n, name in volume.names.items()}
                self._labels[source] = volume.array, names
            return self._labels[source]


class OpenStacks:
    """The stacks of an index that were looked at last."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._chosen = set(index.stacks.numbers.tolist())
        self._open: OrderedDict[int, OpenStack] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, number: int) -> OpenStack:
        """Return a stack, which is opened unless it is open.

        Raises
        ------
        UsageError
            The index has no such stack.
        DicomdlError
            The stack cannot be shown.
        """
        if number not in self._chosen:
            raise UsageError(f"the index has no stack {number}")
        with self._lock:
            found = self._open.get(number)
            if found is None:
                found = self._open[number] = OpenStack(self.index.stack(number))
                while len(self._open) > _MOST_OPEN:
                    self._open.popitem(last=False)
                found.load()
            self._open.move_to_end(number)
            return found

    def listed(self) -> list[dict[str, Any]]:
        """Return one row per stack for the list of the page. It names no patient and no date."""
        return [
            {
                "number": row.number,
                "patient": row.patient,
                "series": row.series_number,
                "description": printable(row.description),
                "modality": printable(row.modality),
                "shape": list(row.shape),
                "spacing": plain_value(list(row.spacing)),
                "verdict": row.verdict,
                "reason": printable(row.reason),
                "needs_person": row.needs_person,
            }
            for row in self.index.check().rows
        ]


def _syntax(uid: str) -> str:
    row = TRANSFER_SYNTAXES.get(uid)
    return printable(uid) if row is None else row.name


def _plain(values: Values, *, is_colour: bool) -> Values:
    """Return values in a type of the page: uint8 of colour, int16 or float32."""
    if is_colour:
        return values.astype(np.uint8, copy=False)
    return values if values.dtype == np.int16 else values.astype(np.float32)


def _recipe_of(stack: Stack) -> Intensity:
    """Return the window at the start: that of the file, else a preset for CT, else "auto"."""
    auto = stack_intensity(stack, "auto", "if_possible")
    for option in ("file", _OF_CT) if stack.modality == "CT" else ("file",):
        try:
            recipe = stack_intensity(stack, option)
        except DicomdlError:
            # The file has no window, or one that does not apply.
            continue
        # "auto" knows which images are shown inverted, and of which SUV are shown.
        if recipe.quantity == auto.quantity:
            return dataclasses.replace(recipe, invert=auto.invert)
    return auto


def _window(recipe: Intensity, middle: Values) -> tuple[float, float]:
    """Return (lower, width) of the window at the start."""
    formula = recipe.formula
    if isinstance(formula, Ramp) and formula.width > 0:
        return formula.lower, formula.width
    if isinstance(formula, Sigmoid):
        return formula.center - formula.width / 2, formula.width
    finite = middle[np.isfinite(middle)]
    if middle.ndim == 3 or not finite.size:
        return 0.0, 255.0
    low, high = float(finite.min()), float(finite.max())
    return low, high - low if math.isfinite(high - low) and high > low else 1.0


def _units(recipe: Intensity, stack: Stack) -> str:
    """Return the units of the values before the window."""
    quantity = recipe.quantity
    return quantity.units if isinstance(quantity, SUV) else units_of(stack.middle)
