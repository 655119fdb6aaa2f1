"""Decoding in helper processes, which may abort, hang or be killed without harm to this one.

A helper is a child process (`storage.children`) that receives codestreams and answers with samples,
both as bytes through pipes. A frame of 512 x 512 x 2 bytes takes 0.9 to 1.3 ms of CPU more, of both
processes; the pipes alone take 0.35 ms of time on an idle machine. It has a deadline per frame,
and is the first process that Linux kills when memory runs out. A process has one helper per thread
that decodes at the same time. A helper starts with the first frame that needs it, in 0.3 s, and
again after a death. It ends with the process that it serves, however that ends.
"""

import dataclasses
import functools
import math
import os
from typing import Any, Final, Literal, TypeAlias, get_args

from dicomdl.arrays import Values
from dicomdl.errors import DecoderDied, DecoderTimeout, StorageError, TruncatedPixels, UsageError
from dicomdl.headers.frame import Frame
from dicomdl.headers.frame_source import SOURCE_FIELDS
from dicomdl.pixels._job import Decoder, Job
from dicomdl.storage.children import START_S, UNREADABLE, Child, Death
from dicomdl.storage.messages import LONGEST_HEAD, LONGEST_SAMPLE, array_of, packed, unpacked
from dicomdl.storage.system import physical_memory

VARIABLE: Final = "DICOMDL_ISOLATION"
# The slowest frame of the corpus takes 3 s.
TIMEOUT_S: Final = 60.0
_TARGET: Final = "dicomdl.pixels._helper:answering"

Isolated: TypeAlias = Literal["unproven", "all", "none"]
Mode: TypeAlias = Literal["auto", "process", "none"]


@dataclasses.dataclass(frozen=True, slots=True)
class Isolation:
    """Which decoders run in a helper process, and how long they may take.

    A decoder is native code: on a damaged frame it may end its process, or never return. In a
    helper process that is the error of one frame, `DecoderDied` or `DecoderTimeout`, and the next
    frame gets a new helper. A frame of 512 x 512 pixels takes about 1 ms longer. This is no
    sandbox: the helper runs as the same user.

    Parameters
    ----------
    decoders
        "all"; "none"; or "unproven", those that have not read 15,000 damaged frames without a
        crash or a hang: JPEG by the extra `gpl`, and JPEG-LS by pyjpegls. Both are asked only where
        imagecodecs has refused a frame or is not installed.
    timeout_s
        Seconds per frame, after which the helper is stopped. Decoders outside of a helper have no
        deadline.
    memory_bytes
        Limit of the memory of a helper (Linux). None is the memory of the machine.

    Raises
    ------
    UsageError
        An option has no such value.

    Examples
    --------
    >>> import dicomdl
    >>> strict = dicomdl.Isolation(timeout_s=5)  # for FrameDataset(index, isolation=strict)
    >>> strict.decoders
    'all'
    """

    decoders: Isolated = "all"
    timeout_s: float = TIMEOUT_S
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.decoders not in get_args(Isolated):
            raise UsageError(
                f"decoders={self.decoders!r}: expected one of "
                f"{', '.join(map(repr, get_args(Isolated)))}"
            )
        seconds, limit = self.timeout_s, self.memory_bytes
        if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
            raise UsageError(f"timeout_s={seconds!r}: expected seconds above 0")
        if limit is not None and not (isinstance(limit, int) and limit > 0):
            raise UsageError(f"memory_bytes={limit!r}: expected a number of bytes above 0, or None")

    def includes(self, decoder: Decoder) -> bool:
        """Return whether a decoder, `decoder`, runs in a helper."""
        return self.decoders == "all" or (self.decoders == "unproven" and not decoder.proven)


IsolationOption: TypeAlias = Mode | Isolation
_BY_NAME: Final = {
    "auto": Isolation("unproven"),
    "process": Isolation("all"),
    "none": Isolation("none"),
}


def as_isolation(option: IsolationOption) -> Isolation | None:
    """Return the isolation of an option; None for "auto", which the environment decides.

    Raises
    ------
    UsageError
        It is no isolation.
    """
    if isinstance(option, Isolation):
        return option
    if not isinstance(option, str) or option not in _BY_NAME:
        raise UsageError(
            f"isolation={option!r}: expected {', '.join(map(repr, _BY_NAME))} or an Isolation"
        )
    return None if option == "auto" else _BY_NAME[option]


@functools.cache
def isolation_here() -> Isolation:
    """Return the isolation that the environment of this process asks for.

    Raises
    ------
    UsageError
        The variable has no such value.
    """
    text = os.environ.get(VARIABLE) or "auto"
    if text not in _BY_NAME:
        raise UsageError(f"{VARIABLE}={text!r}: expected {', '.join(_BY_NAME)}")
    return _BY_NAME[text]


class Refused(Exception):
    """The reason of a decoder in a helper, as `decoders` words it."""


class _Helper:
    """A child that decodes, and the decoders whose modules it has imported."""

    def __init__(self, memory_bytes: int | None) -> None:
        self.memory_bytes = memory_bytes
        self.child = Child(_TARGET, memory_bytes=memory_bytes or physical_memory(), dies_first=True)
        self._prepared: set[str] = set()

    def ask(self, decoder: Decoder, job: Job, isolation: Isolation) -> bytes | Death:
        """Return the answer to a job. The deadline starts when the decoder is imported."""
        if decoder.needs not in self._prepared:
            prepare = packed({"prepare": decoder.needs})
            answer = self.child.ask(*prepare, timeout_s=START_S, longest=LONGEST_HEAD)
            if isinstance(answer, Death):
                return dataclasses.replace(answer, was_ready=False)
            self._prepared.add(decoder.needs)
        return self.child.ask(
            *packed(_request(decoder, job)),
            job.stream,
            timeout_s=isolation.timeout_s,
            longest=LONGEST_HEAD + LONGEST_SAMPLE * _samples(job),
        )


class _Helpers:
    """The helpers of this process that wait for a job."""

    def __init__(self) -> None:
        self.process = os.getpid()
        # `append` and `pop` are atomic: threads need no lock.
        self.idle: list[_Helper] = []
        # Those of the parent of a forked process. Freed, they would be waited for.
        self._inherited: list[_Helper] = []

    def take(self, memory_bytes: int | None) -> _Helper:
        """Return an idle helper with this limit, or a new one."""
        if self.process != os.getpid():
            self.process, self._inherited, self.idle = os.getpid(), self.idle, []
        while True:
            try:
                helper = self.idle.pop()
            except IndexError:
                return _Helper(memory_bytes)
            if helper.child.is_alive and helper.memory_bytes == memory_bytes:
                return helper
            helper.child.end()


_helpers: Final = _Helpers()


def decode_apart(decoder: Decoder, job: Job, isolation: Isolation) -> Values:
    """Decode in a helper process; the array is read-only.

    Raises
    ------
    DecoderDied, DecoderTimeout
        The helper ended, or gave no answer in time.
    TruncatedPixels, MemoryError, ImportError, Refused
        As the decoder raised them; `Refused` is any other error.
    StorageError
        The helper cannot start.
    """
    helper = _helpers.take(isolation.memory_bytes)
    try:
        answer = helper.ask(decoder, job, isolation)
    except BaseException:
        # An interrupt: the answer is still to come.
        helper.child.end()
        raise
    if isinstance(answer, Death):
        raise _error_of(answer, decoder, job, isolation)
    try:
        head, values = _read(answer, job)
    except (ValueError, KeyError, TypeError) as error:
        helper.child.end()
        raise _error_of(Death(UNREADABLE, 0), decoder, job, isolation) from error
    _helpers.idle.append(helper)
    if values is None:
        raise _refusal(head)
    return values


def _request(decoder: Decoder, job: Job) -> dict[str, Any]:
    source = job.source.source if isinstance(job.source, Frame) else job.source
    # Decoders need the coding of the samples, not the file.
    coding = dataclasses.replace(source, path="")
    return {
        "decoder": decoder.name,
        "source": {field: getattr(coding, field) for field in SOURCE_FIELDS},
        "facts": job.facts._asdict(),
        "options": {"rgb": job.rgb, "reduce": job.reduce, "threads": job.threads},
    }


def _samples(job: Job) -> int:
    return job.source.rows * job.source.columns * job.source.samples_per_pixel


def _read(answer: bytes, job: Job) -> tuple[dict[str, Any], Values | None]:
    """Return the head of an answer, and the samples unless it is a refusal."""
    head, data = unpacked(answer)
    return head, None if "refused" in head else array_of(head, data, _samples(job))


def _refusal(head: dict[str, Any]) -> Exception:
    """Return the error that a decoder raised in a helper."""
    reason = str(head.get("reason"))
    if head["refused"] == "truncated":
        return TruncatedPixels(reason, **head.get("facts", {}))
    if head["refused"] == "missing":
        return ImportError(reason)
    return MemoryError(reason) if head["refused"] == "memory" else Refused(reason)


def _error_of(
    death: Death, decoder: Decoder, job: Job, isolation: Isolation
) -> DecoderDied | StorageError:
    """Return the error for a helper that ended."""
    if not death.was_ready:
        return StorageError(
            f"the process that {decoder.name} runs in cannot start: {death}; isolation='none' "
            "decodes in this process"
        )
    kind, advice = DecoderDied, "the frame is damaged, or the decoder has a fault"
    if death.is_late:
        kind, advice = DecoderTimeout, "isolation=Isolation(timeout_s=...) allows more"
    return kind(
        f"{decoder.name} did not decode the frame: {death}; {advice}",
        path=job.source.path,
        frame_number=job.source.frame_number,
        decoder=decoder.name,
        exit_code=death.code,
        timeout_s=isolation.timeout_s,
    )
