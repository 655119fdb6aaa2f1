"""The directory of a medium: which files a DICOMDIR references (PS3.3 F.3, PS3.10 8)."""

from typing import Final

from dicomdl.errors import HeaderError
from dicomdl.headers.data_set import read_data_set
from dicomdl.storage.sources import Source

_RECORDS: Final = 0x00041220
_IN_USE: Final = 0x00041410
_FILE_ID: Final = 0x00041500
_INACTIVE: Final = 0


def referenced_files(source: Source) -> list[str]:
    r"""Return the Referenced File IDs of the records that are in use, as stored: ``IMAGES\IM1``.

    Raises
    ------
    HeaderError
        The file is no DICOM, is damaged, or has no directory. Attribute `reason`.
    PixelError
        The file cannot be opened or read.
    """
    data_set = read_data_set(source)
    if _RECORDS not in data_set:
        raise HeaderError(
            "the DICOMDIR has no Directory Record Sequence (0004,1220): scan its folder instead",
            reason="no_directory",
        )
    # Offsets link the records to a tree (PS3.3 F.3.2.2). The sequence has all of them.
    return [
        record[_FILE_ID].text
        for record in data_set[_RECORDS].items()
        if record[_FILE_ID].raw and record[_IN_USE].binary != _INACTIVE
    ]
