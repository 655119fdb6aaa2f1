"""Every error that dicomdl raises on purpose, as one tree.

    DicomdlError (ValueError)
    ├── UsageError            an argument, option or column that does not exist or does not fit
    ├── MissingExtra          a feature whose optional package is not installed
    ├── StorageError          a folder or file of ours that cannot be written or read
    ├── IndexFolderError      an index folder that is absent, damaged or of another format
    │   └── GenerationGone    a pickled index whose generation a later scan has removed
    ├── HeaderError           one file whose header cannot be used; becomes a row in `problems`
    ├── PixelError            one frame whose stored values cannot be given
    │   ├── FileChanged       the file is no longer the one that was scanned
    │   ├── TruncatedPixels   fewer bytes than the frame needs
    │   ├── DecodeError       the codestream is damaged or contradicts the header
    │   ├── TooLarge          the values would need more memory than the file's bytes justify
    │   └── UnsupportedSyntax no decoder for this transfer syntax is at hand
    ├── IntensityError        a rescale, window or unit that cannot be applied
    │   ├── DoesNotFit        values that the integer dtype asked for does not hold
    │   └── SUVError          a PET stack whose header does not give SUV
    └── GeometryError         positions or orientations that do not make the asked-for grid
        ├── IrregularStack    a stack whose verdict forbids a volume without a policy
        └── IncompleteGroup   a group of stacks (time points, echoes, ...) with slices missing in some

Numbers that an error speaks of are its attributes: ``raise TruncatedPixels("…", expected_bytes=512,
found_bytes=100)`` gives ``error.expected_bytes``. Every class takes one string and pickles with its
attributes and notes. Path and frame are added once, at the edge, by `add_note`.

A worker of a DataLoader sends only the class of an error and the text of its traceback, and torch
calls the class with that text in the main process. So a worker ends the text with one line of JSON
(`facts_line`), which the class reads back: class, message, facts and notes arrive, and the worker's
traceback is the last note. Numbers, text, None, lists, tuples and dicts arrive equal; NumPy scalars
and arrays arrive as numbers and lists, anything else as its text. Without the line (another torch,
a class derived from ours with other arguments) the text alone arrives.
"""

import json
import re
from typing import Any, Final

_FACTS: Final = "facts of the error: "
_FROM_WORKER: Final = re.compile(r"Caught \w+ in DataLoader worker")
_TUPLE, _DICT = "<tuple>", "<dict>"  # keys of objects that stand for what JSON lacks


class DicomdlError(ValueError):
    """Root of the tree: `except DicomdlError` catches whatever dicomdl found wrong.

    Parameters
    ----------
    message
        What was found, what was expected, what to do.
    **facts
        The numbers and names behind the message; they become attributes of the error.
    """

    def __init__(self, message: str = "", **facts: Any) -> None:
        if _FROM_WORKER.match(message) and (sent := _sent_facts(type(self), message)) is not None:
            message, facts = sent
        super().__init__(message)
        # BaseException.__reduce__ carries __dict__, so these survive pickling.
        self.__dict__.update(facts)

    def __getattr__(self, name: str) -> Any:
        # Only reached for names that no fact set; typed as Any so that callers may read
        # facts under strict mypy.
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


class UsageError(DicomdlError):
    """An argument, option or column that does not exist or does not fit."""


class MissingExtra(DicomdlError):
    """A feature whose optional package is not installed; the message names the extra to install."""


class StorageError(DicomdlError):
    """A folder or file of dicomdl's own that cannot be written or read."""


class IndexFolderError(DicomdlError):
    """An index folder that is absent, damaged or of another format."""


class GenerationGone(IndexFolderError):
    """A pickled index names a generation that a later scan has removed.

    Open or scan the index again.
    """


class HeaderError(DicomdlError):
    """One file whose header cannot be used.

    Attribute `reason` is the word that the `problems` table stores.
    """

    reason: str


class PixelError(DicomdlError):
    """One frame whose stored values cannot be given."""


class FileChanged(PixelError):
    """The file is no longer the one that was scanned (size or modification time differ).

    Scan again.
    """


class TruncatedPixels(PixelError):
    """The file or its codestream holds fewer bytes than the frame needs."""


class DecodeError(PixelError):
    """The codestream is damaged or contradicts the header."""


class TooLarge(PixelError):
    """The values would need more memory than the file's bytes justify.

    Pass `max_bytes` to read them all the same.

    Attributes `needed_bytes`, `limit_bytes`.
    """

    needed_bytes: int
    limit_bytes: int


class UnsupportedSyntax(PixelError):
    """No decoder for this transfer syntax is at hand; the message says which package brings one."""


class IntensityError(DicomdlError):
    """A rescale, window or unit that cannot be applied."""


class DoesNotFit(IntensityError):
    """Values that the integer dtype asked for does not hold.

    Attributes `minimum`, `maximum`, `dtype`.
    """

    minimum: int
    maximum: int
    dtype: str


class SUVError(IntensityError):
    """A PET stack whose header does not give SUV.

    Attribute `attribute` names the DICOM attributes at fault.
    """

    attribute: str


class GeometryError(DicomdlError):
    """Positions or orientations that do not make the asked-for grid."""


class IrregularStack(GeometryError):
    """A stack whose verdict forbids a volume without a policy. Attributes.

    `verdict`, `detail` (a dict).
    """

    verdict: str
    detail: dict[str, Any]


class IncompleteGroup(GeometryError):
    """A group of stacks in which some lack slices that others have. Attribute `missing`.

    {dimension value: [slice, ...]}.
    """

    missing: dict[Any, list[int]]


def missing_extra(feature: str, package: str, extra: str) -> MissingExtra:
    """The error for a feature whose optional package is absent, with the command that installs it."""
    return MissingExtra(
        f"{feature} needs the package {package}, which is not installed: pip install 'dicomdl[{extra}]'",
        package=package,
        extra=extra,
    )


def facts_line(error: DicomdlError) -> str:
    """One line of JSON with everything an error knows.

    A note that makes it arrive whole in another process.
    """
    facts = dict(vars(error))
    notes = [note for note in facts.pop("__notes__", ()) if not is_facts_line(note)]
    sent = {
        "class": type(error).__qualname__,
        "message": str(error),
        "facts": facts,
        "notes": notes,
    }
    return _FACTS + json.dumps(_as_json(sent))


def is_facts_line(note: str) -> bool:
    """Whether a note is what `facts_line` gave."""
    return note.startswith(_FACTS)


def _sent_facts(kind: type[DicomdlError], text: str) -> tuple[str, dict[str, Any]] | None:
    """The message and attributes that the last line of facts in a worker's text gives a class.

    None without such a line.
    """
    # What an error was raised from stands before it, under a heading of its own.
    *_, own = text.split("\nTraceback (most recent call last):\n")
    line = next((line for line in own.split("\n") if is_facts_line(line)), "")
    traceback = "\n".join(line for line in text.split("\n") if not is_facts_line(line))
    try:
        sent = json.loads(line.removeprefix(_FACTS), object_hook=_from_json)
        if sent["class"] != kind.__qualname__:
            return None
        return sent["message"], {**sent["facts"], "__notes__": [*sent["notes"], traceback]}
    except (ValueError, TypeError, KeyError):
        return None


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        if all(type(key) is str and not key.startswith("<") for key in value):
            return {key: _as_json(one) for key, one in value.items()}
        return {_DICT: [[_as_json(key), _as_json(one)] for key, one in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_as_json(one) for one in value]}
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _as_json(value.tolist()) if hasattr(value, "tolist") else str(value)


def _from_json(value: dict[str, Any]) -> Any:
    if _TUPLE in value:
        return tuple(value[_TUPLE])
    return dict(value[_DICT]) if _DICT in value else value
