"""Tables of other uses than a join: some columns of a file, and values in text."""

import os
from collections.abc import Sequence

import pyarrow as pa

from dicomdl.index._literals import value_of as value_of
from dicomdl.index._table_reading import given_table


def columns_of_file(path: str | os.PathLike[str], wanted: Sequence[str]) -> pa.Table:
    """Return those of some columns that a CSV or Parquet file has; cells of CSV are text.

    Raises
    ------
    UsageError
        The file is absent, damaged or no table.
    """
    given = given_table(path, keys=wanted)
    return given.read([name for name in given.names if name in wanted])
