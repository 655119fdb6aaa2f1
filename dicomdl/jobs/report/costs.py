"""What decoding costs per transfer syntax: an estimate, by figures of docs/measured.md."""

from collections.abc import Mapping
from typing import Final

from dicomdl.headers import uids

# Milliseconds of one core per million pixels of 16 bits; None for what is not decoded.
_BY_FAMILY: Final[Mapping[str, float | None]] = {
    "": 1,
    "deflate": 5,
    "rle": 4,
    "jpeg": 8,
    "jpegls": 27,
    "jpeg2000": 130,
    "jpegxl": 60,
    "video": None,
    "jpip": None,
}
_HTJ2K_MS: Final = 13.0
_HTJ2K: Final = frozenset({uids.HTJ2K, uids.HTJ2K_LOSSLESS, uids.HTJ2K_LOSSLESS_RPCL})
# Milliseconds that the slices of one stack may take in a report.
_BUDGET_MS: Final = 100.0
_MOST_SLICES: Final = 64


def decoding_ms(transfer_syntax_uid: str) -> float | None:
    """Return the milliseconds of one core per million pixels; None for what is not decoded."""
    if transfer_syntax_uid in _HTJ2K:
        return _HTJ2K_MS
    return _BY_FAMILY.get(uids.family_of(transfer_syntax_uid))


def slices_to_read(
    transfer_syntax_uid: str, shape: tuple[int, int, int], side: int
) -> tuple[int, int]:
    """Return how many slices of a stack are read for planes of `side` pixels, and the halvings.

    JPEG 2000 decodes at a lower resolution, for a quarter of the time per halving.
    """
    _, rows, columns = shape
    halvings = max(0, (max(rows, columns) // max(side, 1)).bit_length() - 1)
    family = uids.family_of(transfer_syntax_uid)
    cost = (decoding_ms(transfer_syntax_uid) or 1.0) * rows * columns / 1e6
    cost /= 4**halvings if family == "jpeg2000" else 1
    slices = int(_BUDGET_MS / cost) if cost else _MOST_SLICES
    return max(1, min(_MOST_SLICES, slices)), halvings if family else 0
