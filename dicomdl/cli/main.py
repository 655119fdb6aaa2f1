"""The command `dicomdl`: its arguments, its exit codes, and how a failure looks.

Exit codes: 0 success, 1 done with problems found, 2 wrong use or failure, 130 interrupted. Heavy
packages are imported by the commands that need them: `dicomdl --help` takes 25 ms instead of the
seconds of torch.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence

from dicomdl.cli import (
    _cache,
    _card,
    _check,
    _convert,
    _demo,
    _echo,
    _export,
    _fetch,
    _idc,
    _prepare,
    _receive,
    _report,
    _scan,
    _send,
    _show,
    _view,
)
from dicomdl.cli._output import FINE, INTERRUPTED, WRONG_USE, print_text
from dicomdl.errors import DicomdlError
from dicomdl.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # Characters of a path that a terminal cannot show are printed as escapes.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _flushed():
            return _run(arguments)
    except DicomdlError as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        print_text(f"dicomdl: {error}{notes}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("dicomdl: interrupted; an existing index is untouched", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # `dicomdl show ... | head`
        _drop_output()
        return FINE
    except OSError as error:
        # The output goes to a full disk, or the working directory is gone.
        _drop_output()
        print_text(f"dicomdl: {error}", file=sys.stderr)
        return WRONG_USE


@contextlib.contextmanager
def _flushed() -> Iterator[None]:
    """Flush the output at the end, also that of ``--help``, while `main` can say what fails."""
    try:
        yield
    except SystemExit:
        _flush()
        raise
    _flush()


def _flush() -> None:
    # There is none in a shell's `>&-`.
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Send what the output still holds nowhere; Python would try again when it ends."""
    with contextlib.suppress(AttributeError, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return WRONG_USE
    return int(given.run(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dicomdl",
        description="From a folder of DICOM to PyTorch batches: right, fast, and without a detour "
        "through another file format.",
        epilog="exit codes: 0 success, 1 problems found, 2 wrong use or failure",
    )
    parser.add_argument("--version", action="version", version=f"dicomdl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in (
        _scan,
        _show,
        _check,
        _report,
        _view,
        _convert,
        _export,
        _prepare,
        _card,
        _idc,
        _fetch,
        _echo,
        _receive,
        _send,
        _cache,
        _demo,
    ):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
