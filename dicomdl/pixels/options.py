"""Options of decoding, and the limits on the memory that a frame may take."""

import dataclasses
from collections.abc import Iterable
from typing import Final, Literal

from dicomdl.errors import TooLarge, UsageError
from dicomdl.pixels.codestreams import FrameLike
from dicomdl.pixels.isolation import Isolation
from dicomdl.storage.sources import look_up

Colour = Literal["rgb", "stored"]
# Memory that compressed bytes may expand to in any case: every codec codes a blank frame in a few
# bytes, but no real file holds a frame of more than 128 MiB, or values of 1 GiB in all, that is
# compressed to less than a thousandth.
FREE_FRAME_BYTES: Final = 128 * 2**20
FREE_VOLUME_BYTES: Final = 2**30
MAX_EXPANSION: Final = 1000
# Of frames in a deflated data set, whose bytes in the file are not known each. Zeros deflate to a
# thousandth, images to no less than a hundredth.
MAX_DEFLATED_EXPANSION: Final = 250
MAX_REDUCE: Final = 15


@dataclasses.dataclass(frozen=True, slots=True)
class Decoding:
    """Options of decoding a frame, the keywords of `read_frame` as one value."""

    colour: Colour = "rgb"
    reduce: int = 0
    threads: int = 1
    max_bytes: int | None = None
    # None: as the environment says.
    isolation: Isolation | None = None

    def __post_init__(self) -> None:
        if self.colour not in ("rgb", "stored"):
            raise UsageError(f"colour is {self.colour!r}; it is 'rgb' or 'stored'")
        if not (isinstance(self.reduce, int) and 0 <= self.reduce <= MAX_REDUCE):
            raise UsageError(
                f"reduce is {self.reduce!r}: rows and columns can be halved "
                f"0 to {MAX_REDUCE} times",
                reduce=self.reduce,
            )
        if not (isinstance(self.threads, int) and self.threads >= 1):
            raise UsageError(
                f"threads is {self.threads!r}, expected at least 1", threads=self.threads
            )

    def with_threads(self, threads: int) -> "Decoding":
        """Return the same options with another number of threads."""
        if threads == self.threads:
            return self
        # Every frame that a main process reads comes here, and `dataclasses.replace` takes 3 us.
        return Decoding(self.colour, self.reduce, threads, self.max_bytes, self.isolation)

    def at_full_size(self) -> "Decoding":
        """Return the same options without halvings."""
        return dataclasses.replace(self, reduce=0) if self.reduce else self


WHOLE: Final = Decoding()


def _justified(source: FrameLike) -> int:
    """Return the memory that the bytes of a frame in the file justify.

    The index of somebody else may state bytes that the file does not have, so it is looked up.
    """
    if type(source.path) is not str:
        look_up(source.file)
    if source.deflated:
        return MAX_DEFLATED_EXPANSION * min(source.byte_length, source.file_bytes)
    return MAX_EXPANSION * source.byte_length


def require_justified(
    needed_bytes: int, sources: Iterable[FrameLike], free_bytes: int, max_bytes: int | None
) -> None:
    """Refuse values that need more memory than their bytes justify or the caller allows.

    Raises
    ------
    TooLarge
        They need more.
    PixelError
        A file that would justify them is absent, or in another state than during the scan.
    """
    if max_bytes is None:
        if needed_bytes <= free_bytes:
            return
        max_bytes = max(free_bytes, sum(map(_justified, sources)))
    if needed_bytes > max_bytes:
        raise TooLarge(
            f"the values need {needed_bytes} bytes of memory, more than the {max_bytes} that are "
            f"allowed: if the file is sound, pass max_bytes={needed_bytes}",
            needed_bytes=needed_bytes,
            limit_bytes=max_bytes,
        )
