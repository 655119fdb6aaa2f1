"""Split: the parts of an index that share no patient, and what other programs read of them."""

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from dicomdl.errors import UsageError
from dicomdl.index._components import IDENTITIES
from dicomdl.index._dividing import UNITS, Division, saved_values
from dicomdl.index.saved_splits import SavedGroup, SavedSplit
from dicomdl.index.text import counted, escaped, html_table, text_columns
from dicomdl.index.views import Stack
from dicomdl.lazy import cached_property
from dicomdl.printing import printable
from dicomdl.storage import publishing as storage

# Classes of strata that are printed.
SHOWN_CLASSES: Final = 10
# Names of the lists of MONAI by the number of parts.
_DATALISTS: Final = {
    1: ("training",),
    2: ("training", "validation"),
    3: ("training", "validation", "test"),
}


# The type of an index, which is defined above this module.
PartT = TypeVar("PartT")


class Split(tuple[PartT, ...]):
    """The parts that `Index.split` returns: a tuple of indexes with a report.

    It prints the sizes of the parts and their strata.

    Attributes
    ----------
    by, fractions, k, stratify, seed
        The arguments of the split; `k` is None for one by fractions.
    saved
        The groups of each part as `save` writes them, a `SavedSplit` for ``split(keep=...)``.

    Methods
    -------
    folds
        Training and validation of each fold.
    save
        Write a JSON file that `dicomdl.load_split` reads.
    to_datalist
        Write the datalist of MONAI and Auto3DSeg.
    to_nnunet
        Write ``splits_final.json`` of nnU-Net.

    Examples
    --------
    >>> import dicomdl, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = dicomdl.demo_data(f"{folder}/demo", patients=4)
    ...     index = dicomdl.scan(data, f"{folder}/index", progress=False).select(modality="CT")
    >>> train, test = index.split((0.75, 0.25), seed=1)
    >>> index.split((0.75, 0.25), seed=1)
    Split by patient, seed 1: 4 groups, 4 patients
      part share groups patients stacks frames
      0     0.75      3        3      3    108
      1     0.25      1        1      3    176
    """

    _division: Division

    def __new__(cls, parts: Iterable[PartT], division: Division) -> "Split[PartT]":
        """Make a split of its parts and the division that they follow."""
        made = super().__new__(cls, parts)
        made._division = division
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self._division

    @property
    def _indexes(self) -> tuple[Any, ...]:
        return tuple(self)

    @property
    def by(self) -> str:
        """The level that is not divided."""
        return self._division.request.by

    @property
    def fractions(self) -> tuple[float, ...]:
        """The share of each part that was asked for."""
        return self._division.request.fractions

    @property
    def k(self) -> int | None:
        """The number of folds; None for a split by fractions."""
        return self._division.request.k

    @property
    def stratify(self) -> tuple[str, ...]:
        """The columns that are in balance."""
        return self._division.request.stratify

    @property
    def seed(self) -> int:
        """The seed."""
        return self._division.request.seed

    @cached_property
    def saved(self) -> SavedSplit:
        """The groups of each part, and those of a kept split that are not in the index."""
        request = self._division.request
        parts = _saved_parts(self._division)
        return SavedSplit(
            self.by, self.fractions, self.k, self.stratify, request.seed, parts[:-1], parts[-1]
        )

    def folds(self) -> Iterator[tuple[Any, PartT]]:
        """Return (train, validation) of each part: the others together, and the part itself."""
        for number, part in enumerate(self):
            others = [each for other, each in enumerate(self) if other != number]
            if others:
                yield functools.reduce(lambda a, b: a | b, others), part  # type: ignore[operator]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the groups of each part as JSON, for ``index.split(keep=load_split(path))``.

        The file holds Study and Series Instance UIDs, and a hash of each PatientID. It is readable
        by its owner only.

        Parameters
        ----------
        path
            The file, which is replaced where it exists.

        Raises
        ------
        StorageError
            The file cannot be written.
        """
        self.saved.save(path)

    def to_datalist(
        self,
        path: str | os.PathLike[str],
        image: Callable[[Stack], Any] | None = None,
        label: Callable[[Stack], Any] | None = None,
        names: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Write the parts as a datalist for MONAI's `load_decathlon_datalist` and Auto3DSeg.

        Parameters
        ----------
        path
            The JSON file.
        image
            A function from a `Stack` to the path of its image, or to None for a stack that has
            none, such as the NIfTI file that ``Volume.save`` wrote. By default the folder of the
            DICOM files, or the file itself of a multi-frame object.
        label
            A function from a `Stack` to the path of its label, or to a class.
        names
            The name of the list of each part. The default is training, validation, test. Folds
            (``k=``) are one list, "training", whose entries have the number of their fold.

        Returns
        -------
        dict
            The content of the file: lists of entries with `image`, `label` and
            `series_instance_uid`.

        Raises
        ------
        UsageError
            There are more parts than names, or a folder holds several stacks, so that it is no
            path of one image.
        StorageError
            The file cannot be written.
        """
        path_of = image or _dicom_paths([stack for part in self._indexes for stack in part.stacks])
        entries = [
            [entry for stack in part.stacks if (entry := _entry(stack, path_of, label))]
            for part in self._indexes
        ]
        content: dict[str, Any]
        if self.k is not None:
            content = {
                "training": [
                    entry | {"fold": fold} for fold, part in enumerate(entries) for entry in part
                ]
            }
        else:
            lists = tuple(names) or _DATALISTS.get(len(self), ())
            if len(lists) != len(self) or len(set(lists)) != len(lists):
                raise UsageError(
                    f"{counted(len(self), 'parts')} and the names {lists}: names= takes one "
                    "per part, each once"
                )
            content = dict(zip(lists, entries, strict=True))
        _write(path, content)
        return content

    def to_nnunet(
        self,
        path: str | os.PathLike[str],
        case: str | Callable[[Stack], str] = "series_instance_uid",
    ) -> list[dict[str, list[str]]]:
        """Write the parts as ``splits_final.json`` of nnU-Net, whose own folds divide patients.

        Parameters
        ----------
        path
            The JSON file, in the folder of the dataset below ``nnUNet_preprocessed``.
        case
            The identifier of the case of a stack, that is the name of its files without
            ``_0000.nii.gz``: a column of the stack, or a function from a `Stack` to the name.

        Returns
        -------
        list of dict
            The content of the file, ``{"train": [...], "val": [...]}``: one per fold for ``k=``;
            for fractions one, of the first two parts.

        Raises
        ------
        UsageError
            There is one part only, or a case is in several parts.
        StorageError
            The file cannot be written.
        """
        if len(self) < 2:
            raise UsageError("nnU-Net takes a training and a validation part: this split has one")
        name = case if callable(case) else functools.partial(_column, case)
        cases = [sorted({str(name(stack)) for stack in part.stacks}) for part in self._indexes]
        _require_apart(cases)
        if self.k is not None:
            content = [
                {"train": sorted(set().union(*cases) - set(fold)), "val": fold} for fold in cases
            ]
        else:
            content = [{"train": cases[0], "val": cases[1]}]
        _write(path, content)
        return content

    # --- for people ---

    def __repr__(self) -> str:
        titles, rows = self._table()
        right = range(1, len(titles))
        return "\n".join([printable(self._title()), *text_columns(titles, rows, right=right)])

    def _repr_html_(self) -> str:
        titles, rows = self._table()
        table = html_table(titles, rows, right=range(1, len(titles)))
        return f"<p>{escaped(self._title())}</p>{table}"

    def _title(self) -> str:
        grouping = self._division.grouping
        strata = f", stratified by {', '.join(self.stratify)}" if self.stratify else ""
        units = counted(int(grouping.sizes.sum()), UNITS[self.by])
        groups = counted(len(grouping), "groups")
        return f"Split by {self.by}, seed {self.seed}{strata}: {groups}, {units}"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Return titles and a line per part: share, sizes, and units per class."""
        division, count = self._division, len(self)
        grouping, strata = division.grouping, division.strata
        groups = np.bincount(division.part, minlength=count + 1)
        units = np.bincount(division.part, grouping.sizes, count + 1).astype(np.int64)
        of_unit = division.part[grouping.unit_group[strata.units]]
        classes = np.zeros((count + 1, len(strata.names)), dtype=np.int64)
        np.add.at(classes, (of_unit, strata.classes), 1)
        shown = classes[:, :SHOWN_CLASSES]
        titles = ["part", "share", "groups", UNITS[self.by], "stacks", "frames"]
        titles += strata.names[:SHOWN_CLASSES]
        rows = []
        for number, part in enumerate(self._indexes):
            sizes = (groups[number], units[number], len(part.stacks), len(part))
            cells = [f"{size:,}" for size in (*sizes, *shown[number])]
            rows.append([str(number), f"{self.fractions[number]:.3g}", *cells])
        if groups[count]:
            share = f"{division.request.shares[-1]:.3g}"
            sizes_only = [f"{groups[count]:,}", f"{units[count]:,}", "", ""]
            rows.append(["none", share, *sizes_only, *(f"{size:,}" for size in shown[count])])
        return titles, rows


def _saved_parts(division: Division) -> tuple[tuple[SavedGroup, ...], ...]:
    """Return the groups of each part, and of the rest, as a file holds them."""
    grouping, request = division.grouping, division.request
    count = len(grouping)
    members: dict[str, list[set[str]]] = {
        name: [set() for _ in range(count)] for name in IDENTITIES
    }
    for key in grouping.keys:
        if key.name in members:
            codes, first = np.unique(key.codes, return_index=True)
            owners = grouping.group[key.stacks[first]].tolist()
            values = saved_values(key)
            for code, owner in zip(codes.tolist(), owners, strict=True):
                members[key.name][owner].add(values[code])
    parts: list[list[SavedGroup]] = [[] for _ in range(len(request.fractions) + 1)]
    absent: list[tuple[int, SavedGroup]] = []
    if request.keep is not None:
        several = (*request.keep.parts, request.keep.rest)
        saved = [(part, group) for part, groups in enumerate(several) for group in groups]
        for owner, (part, group) in zip(division.kept.tolist(), saved, strict=True):
            if owner < 0:
                absent.append((part, group))
                continue
            held = (group.patients, group.studies, group.series)
            for name, texts in zip(IDENTITIES, held, strict=True):
                members[name][owner] |= set(texts)
    for number, (part, digest) in enumerate(
        zip(division.part.tolist(), grouping.digests.tolist(), strict=True)
    ):
        sets = [tuple(sorted(members[name][number])) for name in IDENTITIES]
        parts[part].append(SavedGroup(f"{digest:016x}", *sets))
    for part, group in absent:
        parts[part].append(group)
    return tuple(tuple(sorted(part, key=lambda group: group.id)) for part in parts)


def _entry(
    stack: Stack, image: Callable[[Stack], Any], label: Callable[[Stack], Any] | None
) -> dict[str, Any]:
    """Return the entry of a datalist; empty for a stack without an image."""
    path = image(stack)
    if path is None:
        return {}
    entry = {"image": _plain(path)}
    if label is not None:
        entry["label"] = _plain(label(stack))
    return entry | {"series_instance_uid": stack.series_instance_uid}


def _plain(value: Any) -> Any:
    """Return a path as text, and other values as JSON takes them."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def _dicom_paths(stacks: Sequence[Stack]) -> Callable[[Stack], str]:
    """Return a function from a stack to its folder, or to its only file.

    Raises
    ------
    UsageError
        Two of the stacks have one path, or a stack lies in several folders.
    """
    paths: dict[int, str] = {}
    taken: dict[str, int] = {}
    for stack in stacks:
        files = sorted(set(stack.paths))
        folders = {os.path.dirname(path) for path in files}
        path = files[0] if len(files) == 1 else folders.pop() if len(folders) == 1 else ""
        if not path or taken.setdefault(path, stack.number) != stack.number:
            why = f"is also that of stack {taken[path]}" if path else "is in several folders"
            raise UsageError(
                f"stack {stack.number} of {path or os.path.dirname(files[0])!r} {why}, which "
                "names no image: save the volumes with Volume.save, and give their paths with "
                "image=function",
                stack=stack.number,
            )
        paths[stack.number] = path
    return lambda stack: paths[stack.number]


def _column(name: str, stack: Stack) -> str:
    return str(stack.value(name))


def _require_apart(cases: Sequence[Sequence[str]]) -> None:
    """Raise UsageError for a case that is in several parts."""
    part_of: dict[str, int] = {}
    for part, names in enumerate(cases):
        for name in names:
            if part_of.setdefault(name, part) != part:
                raise UsageError(
                    f"a case is in the parts {part_of[name]} and {part}: the names that case= "
                    "gives must tell patients apart"
                )


def _write(path: str | os.PathLike[str], content: Any) -> None:
    name = os.path.abspath(os.path.expanduser(os.fspath(path)))
    storage.write_whole(name, (json.dumps(content, indent=1) + "\n").encode())
