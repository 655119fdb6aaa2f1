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
    │   └── SUVError          a PET stack whose header does not give SUV
    └── GeometryError         positions or orientations that do not make the asked-for grid
        ├── IrregularStack    a stack whose verdict forbids a volume without a policy
        └── IncompleteGroup   a group of stacks (time points, echoes, ...) with slices missing in some

Numbers that an error speaks of are its attributes: ``raise TruncatedPixels("…", expected_bytes=512, found_bytes=100)``
gives ``error.expected_bytes``. Every class takes one string and pickles with its attributes and notes, so
errors cross the processes of a DataLoader whole. Path and frame are added once, at the edge, by `add_note`.
"""

from typing import Any


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
        super().__init__(message)
        self.__dict__.update(
            facts
        )  # BaseException.__reduce__ carries __dict__, so these survive pickling

    def __getattr__(self, name: str) -> Any:
        # Only reached for names that no fact set; typed as Any so that callers may read facts under strict mypy.
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
    """A pickled index names a generation that a later scan has removed: open or scan the index again."""


class HeaderError(DicomdlError):
    """One file whose header cannot be used. Attribute `reason` is the word that the `problems` table stores."""


class PixelError(DicomdlError):
    """One frame whose stored values cannot be given."""


class FileChanged(PixelError):
    """The file is no longer the one that was scanned (size or modification time differ): scan again."""


class TruncatedPixels(PixelError):
    """The file or its codestream holds fewer bytes than the frame needs."""


class DecodeError(PixelError):
    """The codestream is damaged or contradicts the header."""


class TooLarge(PixelError):
    """The values would need more memory than the file's bytes justify: pass `max_bytes` to read them all the same.

    Attributes `needed_bytes`, `limit_bytes`.
    """


class UnsupportedSyntax(PixelError):
    """No decoder for this transfer syntax is at hand; the message says which package brings one."""


class IntensityError(DicomdlError):
    """A rescale, window or unit that cannot be applied."""


class SUVError(IntensityError):
    """A PET stack whose header does not give SUV. Attribute `attribute` names the DICOM attributes at fault."""


class GeometryError(DicomdlError):
    """Positions or orientations that do not make the asked-for grid."""


class IrregularStack(GeometryError):
    """A stack whose verdict forbids a volume without a policy. Attributes: `verdict`, `detail` (a dict)."""


class IncompleteGroup(GeometryError):
    """A group of stacks in which some lack slices that others have. Attribute `missing`: {dimension value: [slice, ...]}."""


def missing_extra(feature: str, package: str, extra: str) -> MissingExtra:
    """The error for a feature whose optional package is absent, with the command that installs it."""
    return MissingExtra(
        f"{feature} needs the package {package}, which is not installed: pip install 'dicomdl[{extra}]'",
        package=package,
        extra=extra,
    )
