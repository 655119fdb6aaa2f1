"""The methods of an index that write it, or parts of it, for other programs."""

import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError
from dicomdl.index._exporting import exported, write_parquet
from dicomdl.index._numbers import STACK_NUMBERS
from dicomdl.index.joined import Joined
from dicomdl.index.kerchunk import write_kerchunk
from dicomdl.index.rows import Generation
from dicomdl.index.table import Table
from dicomdl.index.views import Stacks


class Exportable:
    """An index whose tables and pixels other programs read."""

    _generation: Generation
    _joined: Joined
    # Whether all frames are selected.
    _whole: bool

    def rows(self) -> npt.NDArray[np.int64]:
        """Return (len,) the selected rows of the `frames` table, int64, ascending."""
        raise NotImplementedError

    @property
    def stacks(self) -> Stacks:
        """The stacks whose frames are all selected."""
        raise NotImplementedError

    def to_parquet(self, folder: str | os.PathLike[str]) -> None:
        """Write the tables as Parquet files into a folder.

        These are `files`, `frames` (the selected ones), `stacks`, `problems` and `annotations`.

        Parameters
        ----------
        folder
            A folder, which is created when it does not exist.

        Raises
        ------
        StorageError
            The folder or a file cannot be written.
        """
        write_parquet(self._exported(), os.fspath(folder))

    def to_pandas(self, table: str = "frames") -> Any:
        """Return one of the tables as a pandas DataFrame.

        Parameters
        ----------
        table
            "frames" (the selected ones), "stacks" (the selected ones, with `Stack.number` as the
            index, and what labels are joined by), "files", "problems" or "annotations".

        Returns
        -------
        pandas.DataFrame
            A table that `select` takes again, filtered or joined. Whole numbers of which some are
            unknown are float64 with NaN, or Int64 where float64 would round one of them.

        Raises
        ------
        UsageError
            There is no such table.
        """
        tables = self._exported()
        if not isinstance(table, str) or table not in tables:
            raise UsageError(f"there is no table {table!r}: {', '.join(tables)}", table=table)
        frame = tables[table]().to_pandas()
        return frame.set_index(STACK_NUMBERS[0]) if table == "stacks" else frame

    def to_kerchunk(
        self,
        path: str | os.PathLike[str],
        *,
        on_unsupported: Literal["raise", "skip"] = "raise",
    ) -> list[int]:
        """Write a reference file, by which xarray and zarr open the stacks in the DICOM files.

        The file is JSON of kerchunk with a path, an offset and a length per slice; no pixel is
        copied. Stack 3 is the group ``stack-3`` with the array ``pixels`` (slice, row, column, or
        with ``sample`` in the order of the file): stored values, in the dtype and byte order of the
        file. Rescale slope and intercept that are the same in all slices are its ``scale_factor``
        and ``add_offset``, which xarray applies; others are arrays beside it. Attributes of the
        group hold the affine in LPS mm.

        Parameters
        ----------
        path
            The file, which only its owner can read. It names the files of the index.
        on_unsupported
            "raise" or "skip" for stacks that cannot be read in place: compressed, of single bits,
            tiles of mosaics, or with bits outside of BitsStored. Slices with room for such bits are
            read once to see that they have none.

        Returns
        -------
        list of int
            The numbers of the stacks in the file.

        Raises
        ------
        UsageError
            Stacks cannot be referenced (attribute `refused`), or the index holds no whole stack.
        StorageError
            The file cannot be written.

        Examples
        --------
        >>> import os, tempfile
        >>> import dicomdl
        >>> from pydicom.data import get_testdata_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out = os.path.join(folder, "index")
        ...     index = dicomdl.scan(get_testdata_file("CT_small.dcm"), out, progress=False)
        ...     index.to_kerchunk(os.path.join(folder, "stack.json"))
        [0]
        """
        if on_unsupported not in ("raise", "skip"):
            raise UsageError(f"on_unsupported={on_unsupported!r}: expected 'raise' or 'skip'")
        # The programs that read the file believe each path in it.
        self._generation.require_readable(self.rows())
        return write_kerchunk(self.stacks, os.fspath(path), skip=on_unsupported == "skip")

    def citations(self) -> list[str]:
        """Return the texts to cite for the selected frames, each once, with its license.

        The index of `dicomdl.idc` has them as joined column ``citation``, with ``license`` beside
        it; any other index gets them by `Index.join`.

        Returns
        -------
        list of str
            ``"TEXT (LICENSE)"``, in the order of the frames.

        Raises
        ------
        UsageError
            There is no joined column ``citation``.

        Examples
        --------
        >>> import tempfile
        >>> import dicomdl
        >>> from pydicom.data import get_testdata_file
        >>> with tempfile.TemporaryDirectory() as out:
        ...     index = dicomdl.scan(get_testdata_file("CT_small.dcm"), out, progress=False)
        ...     source = {"Modality": ["CT"], "citation": ["Doe 2020"], "license": ["CC BY 4.0"]}
        ...     index.join(source, on="Modality").citations()
        ['Doe 2020 (CC BY 4.0)']
        """
        if "citation" not in self._joined:
            raise UsageError(
                "the index has no column citation: make it by dicomdl.idc, or join a table with "
                "the columns citation and license"
            )
        texts, citations = self._joined.codes("citation", self.rows())
        names, licenses = np.full_like(texts, -1), ()
        if "license" in self._joined:
            names, licenses = self._joined.codes("license", self.rows())
        pairs = np.stack([texts, names], axis=1)[texts >= 0]
        _, first = np.unique(pairs, axis=0, return_index=True)
        return [
            f"{citations[text]} ({licenses[name]})" if name >= 0 else str(citations[text])
            for text, name in pairs[np.sort(first)].tolist()
        ]

    def _exported(self) -> dict[str, Callable[[], Table]]:
        selected = None if self._whole else (self.rows(), self.stacks.numbers)
        return exported(self._generation, selected, self._joined)
