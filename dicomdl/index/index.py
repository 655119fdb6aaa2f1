"""Index: the frames that a scan found, and selections of them.

An `Index` is a generation of tables and a selection of rows. Both are memory-mapped: opening a
million frames takes milliseconds, and workers share pages. A pickle holds a path, the name of a
generation and the name of a selection, at most 4 kB. An index is immutable; `select` and `split`
return new, smaller ones.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError
from dicomdl.headers.frame import Frame
from dicomdl.headers.frame_source import FrameSource
from dicomdl.index import _hierarchy, overview
from dicomdl.index._conditions import columns_of, meeting
from dicomdl.index._dividable import Dividable
from dicomdl.index._exportable import Exportable
from dicomdl.index._keys import On
from dicomdl.index._label_columns import JoinOptions, Label, Names
from dicomdl.index._numbers import flags_of_stacks, flags_of_table, whole_numbers
from dicomdl.index._parts import ledger_of, part_of
from dicomdl.index._public_functions import Plotted, Worked
from dicomdl.index._selections import (
    Ranges,
    complete_stacks,
    in_rows,
    ranges_of,
    row_of,
    rows_of,
)
from dicomdl.index._stored_joins import Pickled
from dicomdl.index._stored_selections import read_selection, stored, unpacked
from dicomdl.index.access import Access
from dicomdl.index.annotations import Annotation, annotations_of
from dicomdl.index.check import Check, check
from dicomdl.index.file_sources import file_sources
from dicomdl.index.join_report import JoinReport
from dicomdl.index.joined import Joined
from dicomdl.index.joining import Selected, join
from dicomdl.index.problems import Problems
from dicomdl.index.rows import Generation, generation_of
from dicomdl.index.stored_generation import StoredGeneration, read_manifest
from dicomdl.index.studies import Series, Study
from dicomdl.index.text import Part
from dicomdl.index.views import Group, Stack, Stacks
from dicomdl.lazy import cached_property
from dicomdl.storage.sources import Source


class Index(Dividable, Exportable, Plotted, Worked):
    """The frames that a scan found, in order of stacks and slices, or a selection of them.

    `dicomdl.scan` and `dicomdl.open_index` return one. It is immutable, and pickles as a path (at
    most 4 kB).

    Attributes
    ----------
    path, generation
        The index folder, and the name of its generation.
    columns
        The names that `select` takes.
    stacks, groups, series, studies
        Views of the frames; see `Stack`, `Group`, `Series` and `Study`.
    problems, annotations, ledger, manifest
        Unusable files, objects such as SEG, the number of files per kind, the facts of the scan.
    counts
        The number of patients, studies, series, stacks and frames.
    joined, joins
        The columns of tables, such as labels, and what of each table matched.

    Methods
    -------
    join
        Labels out of a table, as columns.
    select, split, of_stacks, of_frames
        Parts of the index; ``a & b``, ``a | b`` and ``~a`` combine them.
    audit, duplicates
        What parts have in common, and frames with equal pixels.
    frame, facts, value, source, row, rows, file_sources
        Facts, byte ranges and rows of frames, by the number of the frame; the DICOM files.
    stack, stack_of, stack_boundaries
        A stack by its number, the stack of a frame, the first frame of each stack.
    check, plot, to_pandas, to_parquet
        What needs a person, a contact sheet, and tables for other programs.
    convert
        Files of volumes: `dicomdl.convert` of this index.
    export, report
        Samples for nnU-Net, WebDataset and others, and one page with pictures: `dicomdl.export` and
        `dicomdl.report` of this index.

    Examples
    --------
    >>> import os, tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> folder = os.path.join(os.path.dirname(get_testdata_file("DICOMDIR")), "77654033")
    >>> with tempfile.TemporaryDirectory() as out:
    ...     index = dicomdl.scan(folder, out, progress=False)
    >>> len(index), len(index.stacks)
    (7, 4)
    >>> index.select(modality="CT", min_slices=3).stacks  # doctest: +ELLIPSIS
    1 stack
    Stack(CT 4 x 16 x 16, 68.33 x 0.4883 x 0.4883 mm, uneven_spacing, series 2 'Routine Brain'...)
    >>> train, test = index.split([0.8, 0.2], seed=1)
    >>> len(train) + len(test)
    7
    """

    def __init__(
        self,
        generation: Generation,
        ranges: Ranges | None = None,
        joined: Joined = Joined.NONE,
    ) -> None:
        self._generation = generation
        self._joined = joined
        self._ranges = (
            np.array([[0, len(generation.frames)]], dtype=np.int64) if ranges is None else ranges
        )
        self._whole = ranges is None
        self._offsets = np.concatenate([[0], np.cumsum(self._ranges[:, 1] - self._ranges[:, 0])])

    # --- frames ---

    def __len__(self) -> int:
        """Return the number of frames."""
        return int(self._offsets[-1])

    @property
    def path(self) -> str:
        """The folder of the index."""
        return self._generation.folder

    @property
    def generation(self) -> str:
        """The name of the generation that this index reads; a later scan writes another."""
        return self._generation.name

    @property
    def columns(self) -> list[str]:
        """The column names that `select` takes: those of stacks, of frames, and joined ones."""
        return columns_of(self._generation, self._joined)

    @property
    def joined(self) -> Joined:
        """The columns that `join` took out of tables."""
        return self._joined

    def rows(self) -> npt.NDArray[np.int64]:
        """Return (len,) the selected rows of the `frames` table, int64, ascending."""
        return rows_of(self._ranges, self._offsets)

    def row(self, number: int) -> int:
        """Return the row in the `frames` table of frame `number` of this index.

        Negative numbers count from the end.

        Raises
        ------
        UsageError
            There is no such frame, or the number is no integer.
        """
        return row_of(self._ranges, self._offsets, number)

    def frame(self, number: int) -> Frame:
        """Return frame `number` (from 0, in order of stacks and slices) with all its facts."""
        return self._generation.frame(self.row(number))

    def source(self, number: int) -> FrameSource:
        """Return the byte range of frame `number` and the facts that decode it."""
        return self._generation.source(self.row(number))

    def value(self, number: int, column: str) -> Any:
        """Return the fact `column` of frame `number`."""
        return self._cell(column)(self.row(number))

    def _cell(self, column: str) -> Callable[[int], Any]:
        held = self._joined if column in self._joined else self._generation
        return held.cell(column)

    def require_readable(self) -> None:
        """Raise UntrustedRoot if the file of a selected frame may not be read: see `open_index`.

        Datasets call it when they are made, so that no sample fails for this reason later.
        """
        self._generation.require_readable(None if self._whole else self.rows())

    def facts(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return the facts `columns` of frame `number`, by name.

        Faster than `frame`, which reads all facts.
        """
        row = self.row(number)
        return {column: self._cell(column)(row) for column in columns}

    def stack_of(self, number: int) -> "Stack":
        """Return the complete stack of frame `number`, also where only a part of it is selected.

        Raises
        ------
        UsageError
            The frame is an equal copy of another frame (`Frame.duplicate_of`), so it is in no
            stack.
        """
        return _hierarchy.stack_with(self._generation, self.row(number), number)

    def stack_boundaries(self) -> npt.NDArray[np.int64]:
        """Return (n + 1,) the numbers of the first selected frame of each stack, and the end."""
        starts = np.searchsorted(self._generation.stack_starts, self.rows(), side="right")
        return np.concatenate([np.flatnonzero(np.diff(starts, prepend=-1)), [len(self)]]).astype(
            np.int64
        )

    @property
    def stacks(self) -> "Stacks":
        """The stacks of which every frame is selected, in order."""
        return Stacks(self._generation, self._whole_stacks())

    def _whole_stacks(self) -> npt.NDArray[np.int64]:
        """Return the numbers of the stacks of which every frame is selected."""
        starts = self._generation.stack_starts
        return np.arange(len(starts) - 1) if self._whole else complete_stacks(self._ranges, starts)

    @property
    def groups(self) -> list["Group"]:
        """The groups of two or more stacks of which every stack is selected.

        Their stacks are time points, echoes, b-values, ... on one grid. The segments of a SEG are
        labels, and no group.
        """
        return _hierarchy.groups_of(self._generation, self._whole_stacks())

    @property
    def series(self) -> list["Series"]:
        """The Series of the selected stacks."""
        return _hierarchy.series_of(self._generation, self._whole_stacks())

    @property
    def studies(self) -> list["Study"]:
        """The Studies of the selected stacks."""
        return _hierarchy.studies_of(self.series)

    @property
    def problems(self) -> Problems:
        """The files that could not be used, one per row; a selection does not change them."""
        return Problems(self._generation)

    def file_sources(self) -> list[Source]:
        """Return the source of every DICOM file, with or without an image.

        Those of a selection hold its frames.
        """
        return file_sources(self._generation, None if self._whole else self._mask())

    @property
    def annotations(self) -> list[Annotation]:
        """The objects that describe images (SEG, RTSTRUCT, RTDOSE, ...), newest first.

        Those of a selection describe a stack of it.
        """
        return annotations_of(self._generation, None if self._whole else self._whole_stacks())

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Facts of the last scan of this folder: options, passed over, generations."""
        manifest = read_manifest(self.path)
        return manifest | StoredGeneration(self.path, manifest["generation"]).facts()

    @cached_property
    def ledger(self) -> Mapping[str, int]:
        """The number of files that the scan saw, and their number per kind, which add up to it."""
        return ledger_of(self._generation.files)

    # --- selections ---

    def select(self, table: Any = None, /, **conditions: Any) -> "Index":
        """Return the part of the index that meets every condition.

        Parameters
        ----------
        table
            A DataFrame of `to_pandas("stacks")` or `to_pandas("frames")` of this index, filtered or
            joined with other tables: its stacks or frames are selected.
        **conditions
            ``column=value`` (equal), ``column=[a, b]`` (one of), ``column=None`` (absent),
            ``column="*head*"`` (a pattern with ``*`` and ``?``, in upper or lower case),
            ``column=function`` (of the value), ``min_column=low`` and ``max_column=high``
            (inclusive), ``not_column=...`` (none of the above), ``dimension={"echo_time": 4.9}``
            (values of `Stack.dimension`, or functions of them), ``has="SEG"`` (stacks with such
            `annotations`, ok or partial). A column may be named by its DICOM keyword
            (``SeriesDescription``). Columns of stacks (`verdict`, `slices`, `content`, `folder`,
            ...) select complete stacks, without equal copies, which are in no stack. Columns of
            frames (`modality`, `echo_time`, ...) select frames.

        Returns
        -------
        Index
            A new index of the same generation.

        Raises
        ------
        UsageError
            A column or a code that does not exist, a value of another type than the column's, or a
            table of another index or selection.

        Examples
        --------
        >>> import tempfile
        >>> import dicomdl
        >>> from pydicom.data import get_testdata_file
        >>> with tempfile.TemporaryDirectory() as out:
        ...     index = dicomdl.scan(get_testdata_file("CT_small.dcm"), out, progress=False)
        >>> len(index.select(modality="CT", series_description="*body*", max_kvp=120))
        0
        >>> len(index.select(Modality="CT", not_verdict="regular", rows=lambda rows: rows > 100))
        1
        """
        mask = self._mask()
        if table is not None:
            mask &= self._mask_of(table)
        for condition, wanted in conditions.items():
            mask &= meeting(self._generation, condition, wanted, self._joined)
        return self._selection(mask)

    def join(
        self,
        table: Any,
        on: On,
        label: Label = None,
        *,
        level: str | None = None,
        pivot: str | None = None,
        lists: bool | Names = False,
        parse: Names = (),
        on_unmatched: str | Mapping[str, str] = "raise",
    ) -> "Index":
        """Return the index with columns of a table, such as labels, for `select` and samples.

        Parameters
        ----------
        table
            A CSV or Parquet file; a DataFrame of pandas or polars, or a table of Arrow; a dict of
            columns; or a dict of keys to labels.
        on
            What names a row: {key of the index: column of the table}, or a name that both have.
            Several keys must all agree. A key of the index is a column or DICOM keyword
            (``"SOPInstanceUID"``, ``"instance_number"``), ``"stem"`` (the file name without its
            suffix), ``"name"``, ``"parent"`` (the folder of the file), ``"path.parts[-3]"``,
            ``"frame_index"`` (the number of a frame in its file, from 0; blank on both sides for
            files of one frame), or a template such as ``"ID_{stem}"`` or
            ``"{StudyInstanceUID}_study"``. A template of the table has its columns:
            ``"{BraTS21ID:05}"`` pads a number to five digits. A name in the template of the index
            that the index lacks splits off the cells: ``"{stem}_{subtype}"`` at the last ``_``.
            Keys are compared as text.
        label
            The columns that are joined: a name, several, or {column: new name}. By default all that
            are neither keys nor columns of the index.
        level
            "patient", "study", "series", "stack" or "frame", where every entity must have one key.
            By default that of the UIDs; "frame" for names of files; else the coarsest where it
            holds.
        pivot
            A column of a long table (or the part that a template splits off): each of its values
            becomes a column with the label of its row.
        lists
            True, or the columns that have many rows per key, such as boxes, points and readers:
            they become one list per key. A row without any value in them adds nothing.
        parse
            Columns of text that holds dicts, as of JSON or Python: ``"{'x': 2.5, 'y': 3}"`` of a
            column ``coordinates`` becomes ``coordinates_x`` and ``coordinates_y``; lists of dicts
            become lists.
        on_unmatched
            "raise": an error where a frame of this index has no row, or a row has no frame in the
            scan. "drop": the frames are left out. "keep": they stay, with unknown labels. The
            latter two skip such rows of the table; ``{"index": "keep", "table": "raise"}`` tells
            the sides apart. A join of which nothing matches is always an error.

        Returns
        -------
        Index
            The same frames, or fewer with ``on_unmatched="drop"``. `joins` reports what matched.

        Raises
        ------
        UsageError
            The table cannot be read, a column does not exist, frames or rows match nothing, or rows
            with one key have different labels.

        Examples
        --------
        >>> import os, tempfile
        >>> import dicomdl
        >>> from pydicom.data import get_testdata_file
        >>> folder = os.path.join(os.path.dirname(get_testdata_file("DICOMDIR")), "77654033")
        >>> with tempfile.TemporaryDirectory() as out:
        ...     index = dicomdl.scan(folder, out, progress=False)
        ...     table = {"folder": ["CR1", "CR2", "CR3", "CT2"], "view": ["ap", "ap", "lat", None]}
        ...     index = index.join(table, on={"parent": "folder"})
        ...     print(len(index.select(view="ap")), index.value(0, "view"))
        2 ap
        """
        options = JoinOptions(on, label, level, pivot, lists, parse, on_unmatched)
        selected = Selected(self._generation, self._joined, self._mask())
        columns, mask = join(selected, table, options)
        ranges = None if self._whole and mask.all() else ranges_of(mask)
        return Index(self._generation, ranges, self._joined.with_join(columns))

    @property
    def joins(self) -> tuple[JoinReport, ...]:
        """The report of each join: what matched, and what did not, on either side."""
        return self._joined.reports

    def _selection(self, mask: npt.NDArray[np.bool_]) -> "Index":
        """Return the frames with a flag, with the joined columns of this index."""
        return Index(self._generation, ranges_of(mask), self._joined)

    def _mask(self) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self._generation.frames), dtype=bool)
        mask[self.rows()] = True
        return mask

    def of_stacks(self, stacks: Any) -> "Index":
        """Return the selected frames of some stacks.

        Parameters
        ----------
        stacks
            Numbers of stacks (`Stack.number`); stacks, groups, Series or Studies; or a DataFrame of
            ``to_pandas("stacks")``. One or several, in any order.

        Returns
        -------
        Index
            A selection of the same generation.

        Raises
        ------
        UsageError
            There is no stack with such a number, or views or a table are not of this index.
        """
        if hasattr(stacks, "columns"):
            return self.select(stacks)
        return self._selection(self._mask() & flags_of_stacks(self._generation, stacks))

    def of_frames(self, frames: Any) -> "Index":
        """Return some of the selected frames.

        Parameters
        ----------
        frames
            Numbers of frames of this index (from 0), as `frame` takes them, or a DataFrame of
            ``to_pandas("frames")``, in any order.

        Returns
        -------
        Index
            A selection of the same generation.

        Raises
        ------
        UsageError
            There is no such frame, or a table is not of this index and selection.
        """
        if hasattr(frames, "columns"):
            return self.select(frames)
        rows = [self.row(number) for number in whole_numbers(frames, "frames")]
        return self._selection(in_rows(self._generation, rows))

    def _mask_of(self, table: Any) -> npt.NDArray[np.bool_]:
        """Return (frames,) flags of the stacks or frames in a DataFrame of this index."""
        if isinstance(table, Index) or not hasattr(table, "columns"):
            raise UsageError(
                f"select takes conditions and a DataFrame, not {type(table).__name__}: name the "
                "columns, select(modality='CT'), or use of_stacks, of_frames and a & b"
            )
        mask = flags_of_table(self._generation, table)
        if outside := int((mask & ~self._mask()).sum()):
            message = f"{outside} frames of the table are not in this selection: it is of another"
            raise UsageError(message, frames=outside)
        return mask

    def __or__(self, other: "Index") -> "Index":
        """Return the frames that are in either of two selections of one index."""
        return self._combined(other, np.logical_or)

    def __and__(self, other: "Index") -> "Index":
        """Return the frames that are in both of two selections of one index."""
        return self._combined(other, np.logical_and)

    def __invert__(self) -> "Index":
        """Return the frames of the complete index that are not selected."""
        return self._selection(~self._mask())

    def _combined(self, other: "Index", how: Any) -> "Index":
        if not isinstance(other, Index):
            return NotImplemented
        if self._generation.address[:2] != other._generation.address[:2]:
            raise UsageError(
                "the selections are of two indexes, or of two scans: select both from one index"
            )
        joined = self._joined.combined(other._joined)
        return Index(self._generation, ranges_of(how(self._mask(), other._mask())), joined)

    def stack(self, number: int) -> "Stack":
        """Return the stack whose `Stack.number` is `number`, also when it is not selected.

        Raises
        ------
        UsageError
            There is no stack with this number, or it is no integer.
        """
        return _hierarchy.stack_numbered(self._generation, number)

    def __reduce__(self) -> tuple[Any, ...]:
        selection = (None, "") if self._whole else stored(self._ranges)
        return _unpickle, (*self._generation.address, *selection, self._joined.pickled())

    # --- for people ---

    @property
    def counts(self) -> dict[str, int]:
        """The number of patients, studies, series, stacks and frames.

        Frames of a partly selected stack count as frames; the stack does not count.
        """
        return overview.counts(self._part())

    def check(self) -> Check:
        """Check every stack: its verdict with numbers and reason, the ledger, the problems.

        The result prints what needs a person, in a terminal and in a notebook. ``check().ok`` is
        True when nothing needs one, ``check().rows`` holds every complete stack of this selection,
        and ``check().to_dict()`` everything as plain values. Problems are those of the complete
        index. All files of the index are read and their checksums compared.

        Raises
        ------
        IndexDamaged
            A file of the index is not as the scan wrote it.
        """
        read_manifest(self.path)
        self._generation.stored.verify()
        return check(self._part())

    def __repr__(self) -> str:
        return overview.overview(self._part()).text()

    def _repr_html_(self) -> str:
        return overview.overview(self._part()).html()

    def _part(self) -> Part:
        return part_of(
            self._generation,
            is_whole=self._whole,
            chosen=self._whole_stacks(),
            mask=self._mask(),
            joined=self._joined.names,
        )


def _unpickle(
    folder: str,
    generation: str,
    access: Access,
    packed: bytes | None,
    selection: str,
    joins: tuple[Pickled, ...],
) -> Index:
    opened = generation_of(folder, generation, access)
    # Raises GenerationGone now rather than at the first frame.
    len(opened.frames)
    if selection:
        ranges: Ranges | None = read_selection(selection)
    else:
        ranges = None if packed is None else unpacked(packed)
    return Index(opened, ranges, Joined.opened(joins))
