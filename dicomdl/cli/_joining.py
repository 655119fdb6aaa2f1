"""The options of commands that join a table of targets: --join, --on and --target."""

import argparse
from collections.abc import Sequence
from typing import Any

from dicomdl.errors import UsageError


def add(command: Any, purpose: str, targets: str) -> None:
    """Add the options; `purpose` says what the table has, `targets` what its columns become."""
    command.add_argument(
        "--join", metavar="TABLE", help=f"CSV or Parquet file with {purpose}; needs --on"
    )
    command.add_argument(
        "--on",
        nargs="+",
        default=[],
        metavar="KEY=COLUMN",
        help="what names a row of the table: SOPInstanceUID=image_id, stem=name, ...",
    )
    command.add_argument("--target", nargs="+", metavar="COLUMN", help=targets)


def joined(index: Any, given: argparse.Namespace, lists: Sequence[str] = ()) -> Any:
    """Return the index with the columns of the table, if one is given; frames without a row stay.

    Raises
    ------
    UsageError
        An option is missing, or the table does not fit.
    """
    if given.join is None:
        if given.on or given.target:
            raise UsageError("--on and --target are of a table: name it by --join TABLE")
        return index
    keys = dict(each.partition("=")[::2] for each in given.on)
    if not keys or not all(keys.values()):
        raise UsageError("--join needs --on KEY=COLUMN, such as --on SOPInstanceUID=image_id")
    labels = [*lists, *(name for name in given.target or () if name not in lists)]
    return index.join(given.join, keys, labels or None, lists=lists, on_unmatched="keep")
