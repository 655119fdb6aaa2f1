"""The errors of dicomdl, in one tree.

    DicomdlError (ValueError)
    ├── UsageError            an argument, option or column that does not exist or does not fit
    │   └── EmptySelection    a dataset of which nothing is left
    ├── MissingExtra          a feature whose optional package is not installed
    ├── WorkerDied            a worker of a DataLoader ended while it decoded a frame
    ├── StorageError          a folder or file of dicomdl that cannot be written or read
    ├── NetworkError          a DICOM server that cannot be reached, or went away
    │   ├── AssociationRejected   it refused the association
    │   └── PeerFailure       it answered with a status of failure
    ├── IndexFolderError      an index folder that is absent, damaged or of another format
    │   ├── IndexDamaged      a file of an index that is not as the scan wrote it
    │   ├── GenerationGone    a pickled index whose generation a later scan has removed
    │   └── UntrustedRoot     an index of somebody else, whose files this user has not accepted
    ├── HeaderError           one file whose header cannot be used; becomes a row in `problems`
    ├── PixelError            one frame whose stored values cannot be read
    │   ├── FileChanged       the file is no longer the one that was scanned
    │   ├── TruncatedPixels   fewer bytes than the frame needs
    │   ├── DecodeError       the codestream is damaged or contradicts the header
    │   ├── DecoderDied       the helper process that decoded the frame ended
    │   │   └── DecoderTimeout    it gave no answer in time
    │   ├── TooLarge          the values would need more memory than the file's bytes justify
    │   └── UnsupportedSyntax no installed decoder for this transfer syntax
    ├── IntensityError        a rescale, window or unit that cannot be applied
    │   ├── DoesNotFit        values outside the range of the requested integer dtype
    │   └── SUVError          a PET stack whose header does not define SUV
    ├── GeometryError         positions or orientations that do not form the requested grid
    │   ├── IrregularStack    a stack whose verdict forbids a volume without a policy
    │   └── IncompleteGroup   a group of stacks (time points, ...) with missing slices in some
    └── AnnotationError       a SEG, RTSTRUCT, RTDOSE or mask that does not fit its image

The numbers in the message of an error are its attributes: ``raise TruncatedPixels("…",
expected_bytes=512, found_bytes=100)`` sets ``error.expected_bytes``. Every class takes one string
and pickles with its attributes and notes. `add_note` adds path and frame once, where a public
function ends.

A worker of a DataLoader sends only the class of an error and the text of its traceback, and torch
calls the class with that text in the main process. Therefore the datasets, streams and collate
functions of dicomdl end the text with one line of JSON (`facts_line`), from which the class
restores message, facts and notes. The traceback of the worker becomes the last note. Numbers, text,
None, lists, tuples and dicts arrive equal; NumPy scalars and arrays arrive as numbers and lists,
any other value as its text. If the line is missing (another version of torch, a derived class with
other arguments), only the text arrives. So it does from a dataset of a user's own that calls
`read_frame` or `read_volume`, unless its `__getitem__` is decorated with
`dicomdl.datasets.worker.errors_leave_whole`.
"""

import json
import operator
import re
from typing import Any, Final

from dicomdl.printing import printable_lines

_FACTS: Final = "facts of the error: "
_FROM_WORKER: Final = re.compile(r"Caught \w+ in DataLoader worker")
# Keys of the JSON objects that represent tuples, and dicts with keys other than strings.
_TUPLE, _DICT = "<tuple>", "<dict>"


class DicomdlError(ValueError):
    """The root of all errors that dicomdl raises on purpose; a `ValueError`.

    Parameters
    ----------
    message
        The finding, the expectation and the remedy. Messages contain paths and UIDs, and never the
        identity of a patient.
    **facts
        The numbers and names of the message, which become attributes of the error.

    Examples
    --------
    >>> import dicomdl
    >>> try:
    ...     dicomdl.preset("ct.unknown")
    ... except dicomdl.DicomdlError as error:
    ...     print(type(error).__name__)
    UsageError
    """

    def __init__(self, message: str = "", **facts: Any) -> None:
        if _FROM_WORKER.match(message) and (sent := _sent_facts(type(self), message)) is not None:
            message, facts = sent
        # Messages quote names of files and columns; the facts keep them as they are.
        super().__init__(printable_lines(message))
        # BaseException.__reduce__ includes __dict__, so pickling keeps the facts.
        self.__dict__.update(facts)

    def add_note(self, note: str, /) -> None:
        """Add a line to the traceback.

        Parameters
        ----------
        note
            The line; characters that are not printable are replaced.
        """
        super().add_note(printable_lines(note))

    def __getattr__(self, name: str) -> Any:
        # Python calls this only for names that no fact has set. The type Any lets callers read
        # facts under strict mypy.
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


class DicomdlWarning(UserWarning):
    """The root of the warnings of dicomdl; its text has printable characters only."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable_lines(message))


class UsageError(DicomdlError):
    """An argument, option or column does not exist or does not fit."""


def no_integer(given: Any, name: str) -> UsageError:
    """Return the error for something that is not the number of a sample, frame or stack."""
    return UsageError(f"the number of a {name} is an integer, not a {type(given).__name__}")


def position_in(given: Any, count: int, name: str) -> int:
    """Return the number of one of `count` items, from 0; negative ones count from the end.

    Raises
    ------
    UsageError
        It is no integer.
    IndexError
        There is no such item, which ends the iteration over a sequence.
    """
    try:
        number = operator.index(given)
    except TypeError:
        raise no_integer(given, name) from None
    if not -count <= number < count:
        raise IndexError(f"{name} {number} of {count}")
    return number % count


def rows_of_slice(given: slice, count: int, name: str) -> range:
    """Return the numbers, from 0, that a slice takes of `count` items.

    Raises
    ------
    UsageError
        The slice has a bound that is no integer, or a step of 0.
    """
    try:
        return range(*given.indices(count))
    except (TypeError, ValueError):
        raise UsageError(
            f"a slice of {name}s has integers or nothing as its bounds, and no step of 0"
        ) from None


class EmptySelection(UsageError):
    """Nothing is left of what was given to a dataset.

    Attributes
    ----------
    left_out : list
        (reason, stacks, frames) of everything left out.
    """

    left_out: list[tuple[str, int, int]]


class MissingExtra(DicomdlError):
    """A feature needs an optional package that is not installed, or whose import failed.

    Attributes
    ----------
    package : str
        The package.
    extra : str
        The extra of dicomdl that installs it.
    """

    package: str
    extra: str


class WorkerDied(DicomdlError, RuntimeError):
    """A worker of a DataLoader ended while it decoded a frame; torch's error is the cause.

    Attributes
    ----------
    path : str
        The file.
    frame_number : int
        The frame, from 1.
    decoder : str
        The decoder.
    pid : int
        The process.
    """

    path: str
    frame_number: int
    decoder: str
    pid: int


class StorageError(DicomdlError):
    """A folder or file of dicomdl (index, cache, output) cannot be written or read."""


class NetworkError(DicomdlError):
    """A DICOM server cannot be reached, cannot be trusted, or went away.

    Attributes
    ----------
    is_transient : bool
        Whether the same request may succeed later.
    """

    is_transient: bool


class AssociationRejected(NetworkError):
    """A DICOM server refused the association, or every presentation context of it.

    Attributes
    ----------
    result, source, reason : int
        The numbers of the A-ASSOCIATE-RJ (PS3.8 table 9-21); 0 where the contexts were refused.
    """

    result: int
    source: int
    reason: int


class PeerFailure(NetworkError):
    """A DICOM server answered a request with a status of failure.

    Attributes
    ----------
    status : int
        The status: of DIMSE (PS3.7 annex C), or of HTTP.
    """

    status: int


class IndexFolderError(DicomdlError):
    """An index folder is absent, damaged or of another format."""


class IndexDamaged(IndexFolderError):
    """A file of an index is not as the scan wrote it: scan again, which makes the index anew.

    Attributes
    ----------
    path : str
        The index folder.
    table : str
        The table ("frames", ...) or the file.
    block : int or None
        The first damaged block, of 64 KiB, from 0; None for the file as a whole.
    """

    path: str
    table: str
    block: int | None


class GenerationGone(IndexFolderError):
    """A pickled index names a generation that a later scan has removed.

    Open or scan the index again.
    """


class UntrustedRoot(IndexFolderError):
    """A file that an index names is below no root that this user accepted.

    What an index says of its roots counts if a scan of this user wrote it. The roots of any other
    index are given: ``open_index(path, root=...)`` or ``DICOMDL_ROOT``. No `on_error` of a dataset
    skips this error.
    """


class HeaderError(DicomdlError):
    """The header of one file cannot be used.

    Attributes
    ----------
    reason : str
        The word that the table `problems` stores.
    """

    reason: str


class PixelError(DicomdlError):
    """The stored values of one frame cannot be read."""


class FileChanged(PixelError):
    """The file has changed since the scan, in size or in times: scan again."""


class TruncatedPixels(PixelError):
    """The file or its codestream holds fewer bytes than the frame needs."""


class DecodeError(PixelError):
    """The codestream is damaged or contradicts the header."""


class DecoderDied(PixelError):
    """The helper process that decoded the frame ended.

    Attributes
    ----------
    path : str
        The file.
    frame_number : int
        The frame, from 1.
    decoder : str
        The decoder.
    exit_code : int
        The exit code of the helper, negative for a signal.
    """

    path: str
    frame_number: int
    decoder: str
    exit_code: int


class DecoderTimeout(DecoderDied):
    """The helper process gave no answer within `timeout_s` and was stopped.

    Attributes
    ----------
    timeout_s : float
        The deadline per frame, in seconds.
    """

    timeout_s: float


class TooLarge(PixelError):
    """The values would need more memory than the bytes of the file justify.

    Pass `max_bytes` to read them nevertheless.

    Attributes
    ----------
    needed_bytes : int
        The memory that the values need.
    limit_bytes : int
        The memory that is allowed.
    """

    needed_bytes: int
    limit_bytes: int


class UnsupportedSyntax(PixelError):
    """No decoder for the transfer syntax is installed; the message names a package with one."""


class IntensityError(DicomdlError):
    """A rescale, window or unit cannot be applied."""


class DoesNotFit(IntensityError):
    """Values lie outside the range of the requested integer dtype.

    Attributes
    ----------
    minimum, maximum : int
        The range of the values.
    dtype : str
        The requested dtype.
    """

    minimum: int
    maximum: int
    dtype: str


class SUVError(IntensityError):
    """The header of a PET stack does not define SUV.

    Attributes
    ----------
    attribute : str
        The DICOM attributes at fault.
    """

    attribute: str


class GeometryError(DicomdlError):
    """Positions or orientations do not form the requested grid."""


class IrregularStack(GeometryError):
    """The verdict of a stack forbids a volume without a policy for irregular stacks.

    Attributes
    ----------
    verdict : str
        The verdict.
    detail : dict
        The measured defects.
    """

    verdict: str
    detail: dict[str, Any]


class IncompleteGroup(GeometryError):
    """Some stacks of a group lack slices that others have.

    Attributes
    ----------
    missing : dict
        The missing slices per stack: {dimension value: [slice, ...]}.
    """

    missing: dict[Any, list[int]]


class AnnotationError(DicomdlError):
    """An annotation (SEG, RTSTRUCT, RTDOSE, a mask in a file) cannot be brought onto an image."""


def facts_line(error: DicomdlError) -> str:
    """Return one line of JSON with class, message, facts and notes of an error.

    As a note of the error, the line restores it in another process.
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
    """Return whether a note is a line from `facts_line`."""
    return note.startswith(_FACTS)


def _sent_facts(kind: type[DicomdlError], text: str) -> tuple[str, dict[str, Any]] | None:
    """Return message and attributes from the line of facts in a worker's text.

    The result is None without such a line, or when the line belongs to another class.
    """
    # The causes of an error come before it in the text, each under a heading.
    *_, last = text.split("\nTraceback (most recent call last):\n")
    line = next((line for line in last.split("\n") if is_facts_line(line)), "")
    traceback = "\n".join(line for line in text.split("\n") if not is_facts_line(line))
    try:
        sent = json.loads(line.removeprefix(_FACTS), object_hook=_from_json)
        if sent["class"] != kind.__qualname__:
            return None
        notes = [*sent["notes"], printable_lines(traceback)]
        return sent["message"], {**sent["facts"], "__notes__": notes}
    except (ValueError, TypeError, KeyError):
        return None


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        if all(type(key) is str and not key.startswith("<") for key in value):
            return {key: _as_json(item) for key, item in value.items()}
        return {_DICT: [[_as_json(key), _as_json(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_as_json(item) for item in value]}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _as_json(value.tolist()) if hasattr(value, "tolist") else str(value)


def _from_json(value: dict[str, Any]) -> Any:
    if _TUPLE in value:
        return tuple(value[_TUPLE])
    return dict(value[_DICT]) if _DICT in value else value
