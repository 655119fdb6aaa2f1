"""Whether the fractions of a segmentation are bit masks, as a private element says."""

import re
from typing import Final

from dicomdl.headers.web import opened
from dicomdl.storage.sources import Source, read_range

# (0117,xxD3), Explicit VR Little Endian: the legend of the bits in the analysis masks of ISPY2 and
# ACRIN-6698, whose bytes are flags under the name of fractions.
_LEGEND: Final = re.compile(rb"\x17\x01\xd3[\x10-\xff][A-Z]{2}")
# The header of 20,000 frames is shorter.
_MOST_BYTES: Final = 1 << 26


def names_bits(source: Source, header_bytes: int) -> bool:
    """Return whether the header, the first bytes of a file, has a legend of bits."""
    with opened(source) as handle:
        length = min(header_bytes, handle.size, _MOST_BYTES)
        return _LEGEND.search(read_range(handle, 0, length)) is not None
