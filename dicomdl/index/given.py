"""What users pass where an index is expected: an index, its path, its stacks, Series or groups."""

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

from dicomdl.errors import EmptySelection, IndexFolderError, UsageError
from dicomdl.index._numbers import View, parts_of
from dicomdl.index.defaults import find_default
from dicomdl.index.index import Index
from dicomdl.index.opening import open_index
from dicomdl.index.text import counted, format_ledger
from dicomdl.index.views import Group
from dicomdl.storage.folders import require_no_url

Indexed: TypeAlias = Index | str | os.PathLike[str] | View | Sequence[View]

_EXPECTED = "takes an Index of dicomdl.scan or dicomdl.open_index, the path of one, or its stacks"


def as_index(given: Any, taker: str, others: Sequence[Any] = ()) -> Index:
    """Return the index that a user means.

    Parameters
    ----------
    given
        An Index; the path of one, or of a folder that was scanned without `out`; stacks, groups,
        Series or Studies of one index, one or several. Stacks are taken in the order of the index.
    taker
        The name of the function that takes it, for messages.
    others
        Its other arguments. An Index among them tells that the arguments are swapped.

    Raises
    ------
    UsageError
        Anything else. The message says what to pass.
    IndexFolderError
        There is no index at the path, or it cannot be read.
    """
    if isinstance(given, Index):
        return given
    if any(isinstance(other, Index) for other in others):
        raise UsageError(f"{taker}: the index comes first, before the other arguments")
    if isinstance(given, str | os.PathLike):
        return _opened(os.fspath(given), taker)
    parts = list(parts_of(given))
    if not parts:
        raise UsageError(f"{taker} {_advice(given)}")
    addresses = {generation.address for generation, _ in parts}
    if len(addresses) > 1:
        raise UsageError(
            f"{taker} takes stacks of one index, not of {len(addresses)}: make one dataset of "
            "each, and join them with torch.utils.data.ConcatDataset"
        )
    return Index(parts[0][0]).of_stacks([number for _, numbers in parts for number in numbers])


def require_frames(index: Index, taker: str) -> None:
    """Raise an EmptySelection for an index without images, or a selection of no frame."""
    if not len(index):
        raise EmptySelection(f"{taker}: {why_no_frames(index)}", left_out=[])


def why_no_frames(index: Index) -> str:
    """Return the reason why an index or a selection has no frame, with counts."""
    if not index.ledger["image"]:
        return f"the index has no image: {format_ledger(index.ledger)}"
    files = counted(index.ledger["image"], "files")
    return (
        f"no frame is selected of the {files} with images in the index: see the conditions of "
        "select(), or the fractions of split(), whose parts may be empty with few patients"
    )


def as_groups(given: Any) -> list[Group] | None:
    """Return the groups among what a user gives for an index; None where there is none.

    Raises
    ------
    UsageError
        Groups are mixed with other views.
    """
    if isinstance(given, Group):
        return [given]
    if not isinstance(given, list | tuple) or not any(isinstance(each, Group) for each in given):
        return None
    groups = [each for each in given if isinstance(each, Group)]
    if len(groups) < len(given):
        raise UsageError(
            f"{len(groups)} groups and {len(given) - len(groups)} other views: a dataset takes "
            "groups, a sample each, or stacks. `stack.group` is the group of a stack, "
            "index.of_stacks(groups) has the stacks of groups"
        )
    return groups


def _opened(path: str, taker: str) -> Index:
    """Return the index at a path; raise an IndexFolderError for a folder or file that is none."""
    require_no_url(path)
    folder = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(os.path.join(folder, "generations")) or find_default(folder) is not None:
        return open_index(path)
    if os.path.isfile(folder):
        words = f"{path!r} is a file: scan its folder with dicomdl.scan, and pass the index"
    elif os.path.isdir(folder):
        words = f"the folder {path!r} was never scanned: pass dicomdl.scan({path!r})"
    else:
        words = f"{path!r} does not exist: pass an Index of dicomdl.scan, or the path of one"
    raise IndexFolderError(f"{taker}: {words}", path=folder)


def _advice(given: Any) -> str:
    """Return what to pass instead of something that is no index, for a message."""
    kind, several = type(given).__name__, isinstance(given, list | tuple)
    if several and given and all(isinstance(each, str | os.PathLike) for each in given):
        return "takes an index, not a list of paths: dicomdl.scan(paths) makes one of them"
    if several and given and all(isinstance(each, Index) for each in given):
        return (
            f"takes one Index, not {len(given)} (such as the parts of a split): pass one of them, "
            "or join a dataset of each with torch.utils.data.ConcatDataset"
        )
    if several and given and all(isinstance(each, int | float) for each in given):
        return f"{_EXPECTED}, and that comes first; not {given!r}"
    if kind == "DataFrame":
        return (
            f"{_EXPECTED}, not a table: select its rows, such as "
            "index.select(series_instance_uid=table['series_instance_uid'].tolist())"
        )
    if any(base.__module__.startswith("torch.utils.data") for base in type(given).__mro__):
        return f"{_EXPECTED}, not a {kind}: pass the index that it was made of (dataset.index)"
    article = "an empty" if several and not given else "an" if kind[0] in "aeiouAEIOU" else "a"
    return f"{_EXPECTED}, not {article} {kind}"
