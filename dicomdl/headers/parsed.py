"""The elements of a header before the pixels, as a data set of pydicom."""

import io
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

from dicomdl.headers.inflate import inflate_data_set
from dicomdl.headers.requirement import require_pydicom
from dicomdl.headers.uids import DEFLATED
from dicomdl.headers.web import opened
from dicomdl.storage.sources import Source, as_stream

# Limit of the header of a deflated file, in bytes. A file of 1 MB can inflate to 1 GB.
MOST_INFLATED: Final = 1 << 26
_DEFLATED: Final = b"\x02\x00\x10\x00UI\x16\x00" + DEFLATED.encode()


def parsed_header(source: Source, tags: Sequence[int] | None = None) -> Any:
    """Read a header, or the wanted elements of it. That of a file without DICOM is empty."""
    require_pydicom()
    import pydicom

    with opened(source) as handle:
        stream: BinaryIO = as_stream(handle)
        if _DEFLATED in handle.read_at(0, 1024):
            stream = io.BytesIO(inflate_data_set(handle.read_at, handle.size, MOST_INFLATED))
        # force=True accepts files without the preamble of PS3.10.
        return pydicom.dcmread(
            stream,
            force=True,
            stop_before_pixels=True,
            specific_tags=None if tags is None else list(tags),
        )
