"""Targets: what a joined column is to a loss, for one row or for all without reading pixels."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch

from dicomdl.arrays import Ints, Mask, Values
from dicomdl.errors import UsageError
from dicomdl.index.joined import LEVELS, Joined

TargetDtype = Literal["int64", "float32"]
_CLASSES: Final = ("text", "integer", "flag")
_NUMBERS: Final = ("integer", "flag", "real")


@dataclass(frozen=True, slots=True)
class Target:
    """The joined columns that are the `target` of samples.

    Parameters
    ----------
    columns
        The name of a joined column (see `Index.join`), or several names.
    classes
        The values in the order of their numbers, for columns of text, integers or flags. By default
        text is sorted, and integers stay as they are. Several columns have the same classes.
    dtype
        "int64" or "float32". By default int64 for one column of text, integers or flags, and for
        columns of text; float32 for others, also for several columns of integers or flags.
    unknown
        The target where the table tells nothing: by default -1 as int64, NaN as float32. The number
        of a class, such as 0 for "not in the table is negative", makes it this class, for weights
        and samplers, too.

    Raises
    ------
    UsageError
        An option has a value that does not fit.

    Examples
    --------
    >>> from dicomdl import Target
    >>> Target("grade", classes=["low", "high"])
    Target(columns=('grade',), classes=('low', 'high'), dtype=None, unknown=None)
    """

    columns: str | Sequence[str]
    classes: Sequence[Any] | None = None
    dtype: TargetDtype | None = None
    unknown: float | None = None

    def __post_init__(self) -> None:
        columns = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns)
        if not columns or not all(isinstance(name, str) for name in columns):
            raise UsageError(f"target={self.columns!r}: expected the names of joined columns")
        object.__setattr__(self, "columns", columns)
        if self.classes is not None:
            classes = tuple(self.classes)
            if isinstance(self.classes, str) or len(set(classes)) < max(len(classes), 1):
                raise UsageError(f"classes={self.classes!r}: expected distinct values in a list")
            object.__setattr__(self, "classes", classes)
        if self.dtype not in (None, "int64", "float32"):
            raise UsageError(f"dtype={self.dtype!r}: expected 'int64', 'float32' or None")
        if self.unknown is not None and not isinstance(self.unknown, int | float):
            raise UsageError(f"unknown={self.unknown!r}: expected a number or None")


TargetOption: TypeAlias = str | Sequence[str] | Target | None


@dataclass(frozen=True, slots=True)
class TargetColumns:
    """A target with the kinds of its columns: reads it from the joined columns of an index.

    Attributes
    ----------
    names
        The columns.
    classes
        The values of the classes; None for numbers that stay as they are.
    is_text
        Whether the columns are text.
    dtype
        The dtype of the targets.
    unknown
        The target where nothing is known.
    level
        The finest level of the columns.
    is_unknown_a_class
        Whether `unknown` is the number of a class: such samples are of this class, as the loss
        sees them.
    """

    names: tuple[str, ...]
    classes: tuple[Any, ...] | None
    is_text: bool
    dtype: np.dtype[Any]
    unknown: float
    level: str
    is_unknown_a_class: bool

    @classmethod
    def of(cls, option: TargetOption, joined: Joined) -> "TargetColumns | None":
        """Return the target for the option of a dataset, checked against the joined columns.

        Raises
        ------
        UsageError
            A column does not exist or does not fit the options.
        """
        if option is None:
            return None
        given = option if isinstance(option, Target) else Target(option)
        names = tuple(given.columns)
        kinds = [joined.kind(name) for name in names]
        is_text = kinds[0] == "text"
        classed = is_text or given.classes is not None
        _require_kinds(names, kinds, _CLASSES if classed else _NUMBERS, is_text=is_text)
        integral = classed or (len(names) == 1 and kinds[0] != "real")
        dtype = np.dtype(given.dtype or ("int64" if integral else "float32"))
        if dtype == np.int64 and "real" in kinds:
            raise UsageError(
                f"target={names[kinds.index('real')]!r} holds numbers with fractions: expected "
                "dtype='float32'"
            )
        unknown = (
            given.unknown if given.unknown is not None else (-1 if dtype.kind == "i" else np.nan)
        )
        if dtype.kind == "i" and unknown != int(unknown or 0):
            raise UsageError(f"unknown={unknown!r}: targets are int64, expected a whole number")
        classes = _classes_of(given, joined) if classed else None
        levels = [joined.level(name) for name in names]
        level = max(levels, key=LEVELS.index)
        is_class = unknown >= 0 and unknown in _numbers_of_classes(names, classes, joined)
        return cls(names, classes, is_text, dtype, float(unknown), level, is_class)

    def values(self, joined: Joined, rows: Ints) -> Values:
        """Return (rows,) or (rows, columns) targets of frames, in the dtype of the target."""
        columns = [self._column(joined, name, rows) for name in self.names]
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)

    def _column(self, joined: Joined, name: str, rows: Ints) -> Values:
        numbers, is_known = self._numbers(joined, name, rows)
        result = np.full(len(rows), self.unknown, self.dtype)
        result[is_known] = numbers[is_known]
        return result

    def _numbers(self, joined: Joined, name: str, rows: Ints) -> tuple[Values, Mask]:
        """Return the numbers of a column, and which of them are known."""
        if self.classes is None:
            return joined.values(name, rows)
        if self.is_text:
            codes, values = joined.codes(name, rows)
            number_of = {value: number for number, value in enumerate(self.classes)}
            numbers = np.array([number_of[value] for value in values] + [-1], np.int64)[codes]
            return numbers, numbers >= 0
        held, is_known = joined.values(name, rows)
        order = np.argsort(self.classes, kind="stable")
        places = np.searchsorted(np.asarray(self.classes)[order], held)
        return order[np.minimum(places, len(order) - 1)], is_known

    def one(self, joined: Joined, row: int) -> torch.Tensor:
        """Return the target of a frame: a tensor of one number, or (columns,)."""
        return torch.from_numpy(self.values(joined, np.array([row])))[0]


def _require_kinds(
    names: Sequence[str], kinds: Sequence[str], wanted: Sequence[str], *, is_text: bool
) -> None:
    """Raise a UsageError for a column of lists, of other kinds, or of text among numbers."""
    for name, kind in zip(names, kinds, strict=True):
        if kind.endswith("s"):
            raise UsageError(
                f"target={name!r} holds a list per key: a target is one value. Join a table with "
                "one row per key, or take lists as boxes= or points="
            )
        if kind not in wanted or (kind == "text") != is_text:
            words = " or ".join(wanted) if not is_text else "text"
            raise UsageError(f"target={name!r} holds {kind}: expected {words} here")


def _classes_of(given: Target, joined: Joined) -> tuple[Any, ...]:
    """Return the classes of a target: those given, else all values of its columns, sorted."""
    rows = np.zeros(0, np.int64)
    found = {value for name in given.columns for value in joined.codes(name, rows)[1]}
    if given.classes is None:
        return tuple(sorted(found))
    if unlisted := sorted(found - set(given.classes)):
        shown = ", ".join(map(repr, unlisted[:5]))
        raise UsageError(
            f"the columns hold {shown}, which is not among the classes {list(given.classes)!r}",
            unlisted=unlisted,
        )
    return tuple(given.classes)


def _numbers_of_classes(
    names: Sequence[str], classes: Sequence[Any] | None, joined: Joined
) -> Collection[int]:
    """Return the numbers that are classes: of integers, those in the columns."""
    if classes is not None:
        return range(len(classes))
    kinds = {joined.kind(name) for name in names}
    if kinds == {"flag"}:
        return range(2)
    rows = np.zeros(0, np.int64)
    return {int(n) for name in names if "real" not in kinds for n in joined.codes(name, rows)[1]}


def class_numbers(target: TargetColumns, targets: Values) -> Ints:
    """Return (rows,) int64 the class of each row, -1 where unknown.

    Raises
    ------
    UsageError
        The target is several columns, holds fractions or negative numbers.
    """
    if len(target.names) > 1:
        raise UsageError(
            f"the target is {len(target.names)} columns, which have no classes together: give "
            "weights of your own"
        )
    is_known = np.ones(len(targets), np.bool_)
    if not target.is_unknown_a_class:
        unknown = target.unknown
        is_known = targets != unknown if unknown == unknown else ~np.isnan(targets)
    known = targets[is_known]
    if known.size and not (known == np.floor(known)).all():
        raise UsageError(f"target={target.names[0]!r} holds fractions, which are no classes")
    if known.size and known.min() < 0:
        raise UsageError(f"target={target.names[0]!r} holds {known.min()}: classes count from 0")
    return np.where(is_known, targets, -1).astype(np.int64)


def weights_of_classes(numbers: Ints, classes: int) -> Values:
    """Return (classes,) float64: known rows / (classes with rows * rows of the class); 0 without.

    The mean over the known rows is 1.
    """
    counts = np.bincount(numbers[numbers >= 0], minlength=classes)
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def weights_of_labels(targets: Values) -> Values:
    """Return (labels,) float64: rows without a label / rows with it; 1 where none has it.

    `targets` are (rows, labels) of 0, 1 and NaN for unknown.
    """
    positive = (targets == 1).sum(axis=0)
    negative = (targets == 0).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(positive > 0, negative / positive, 1.0)
