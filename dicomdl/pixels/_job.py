"""One codestream to decode, and one way to decode it."""

from collections.abc import Callable
from typing import NamedTuple

from dicomdl.arrays import Values
from dicomdl.pixels.codestreams import Codestream, FrameLike


class Job(NamedTuple):
    """One codestream to decode, into `out` where the codec can.

    `rgb` requests RGB from a decoder that `converts`; `reduce` is the number of halvings of rows
    and columns.
    """

    stream: bytes
    source: FrameLike
    facts: Codestream
    out: Values | None = None
    rgb: bool = False
    reduce: int = 0
    threads: int = 1


class Decoder(NamedTuple):
    """One way to decode. `decode` returns the filled `out` of its job, or a new array.

    `needs` is the module that it imports. `proven` decoders have read 15,000 mutated frames without
    a crash or a hang; the others run in a process of their own by default.
    """

    name: str
    decode: Callable[[Job], Values]
    needs: str
    converts: bool = False
    proven: bool = False
