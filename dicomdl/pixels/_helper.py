"""The helper process that decodes frames for `isolation`.

Its decoders are those of the process that asks, found by their names.
"""

import contextlib
import importlib
import warnings
from collections.abc import Mapping
from typing import Any

from dicomdl.arrays import Values
from dicomdl.errors import TruncatedPixels
from dicomdl.headers.frame_source import FrameSource
from dicomdl.pixels._job import Job
from dicomdl.pixels.codestreams import Codestream
from dicomdl.pixels.decoders import find_syntax, reason_of
from dicomdl.storage.children import Answer
from dicomdl.storage.messages import packed, packed_array, unpacked


def answering(_: Any = None) -> Answer:
    """Return the function by which the helper answers a request: samples, or a refusal."""
    # Warnings quote values of headers.
    warnings.simplefilter("ignore")
    return _answer


def _answer(message: bytes) -> list[Any]:
    head, stream = unpacked(message)
    if "prepare" in head:
        return _prepared(head["prepare"])
    try:
        return packed_array(_decoded(head, bytes(stream)))
    except (KeyboardInterrupt, SystemExit):
        raise
    except ImportError as error:
        return _refusal("missing", type(error).__name__)
    except MemoryError as error:
        return _refusal("memory", type(error).__name__)
    except TruncatedPixels as error:
        return _refusal("truncated", str(error), vars(error))
    # Rust decoders panic with a BaseException.
    except BaseException as error:
        return _refusal("other", reason_of(error))


def _prepared(module: str) -> list[Any]:
    """Import a decoder's module; a missing one shows at the first frame."""
    with contextlib.suppress(Exception):
        importlib.import_module(module)
    return packed({})


def _decoded(head: Mapping[str, Any], stream: bytes) -> Values:
    source = FrameSource(**head["source"])
    syntax = find_syntax(source.transfer_syntax_uid)
    decoder = next(
        each for each in (*syntax.decoders, *syntax.reducers) if each.name == head["decoder"]
    )
    return decoder.decode(Job(stream, source, Codestream(**head["facts"]), **head["options"]))


def _refusal(kind: str, reason: str, facts: Mapping[str, Any] | None = None) -> list[Any]:
    return packed({"refused": kind, "reason": reason, "facts": dict(facts or {})})
