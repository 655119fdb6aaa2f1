"""The hunt itself: escapes, crashes and hangs are found and named, and nothing behind them is lost.

Without these tests, a hunt that takes nothing would look like one that finds nothing.
"""

import os
import signal
import time
from pathlib import Path

import pytest
from faults import hunting
from faults.hunting import hunt

from dicomdl.errors import HeaderError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


def take(raw: bytes) -> None:
    match raw:
        case b"3":
            raise HeaderError("damaged")
        case b"5":
            raise StopIteration
        case b"7":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"8":
            os._exit(0)
        case b"11":
            time.sleep(60)
        case b"13":
            bytearray(64 << 20)


@pytest.mark.slow
def test_every_kind_of_end_is_counted_and_the_others_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hunting, "HANG_S", 0.5)
    found = hunt(15, lambda number: str(number).encode(), take, tmp_path / "hunt")
    assert found.outcomes == {"fine": 10, "typed error": 1, "escape": 1, "signal": 2, "hang": 1}
    assert found.failed == (5, 7, 8, 11)
    assert (tmp_path / "hunt" / "7.input").read_bytes() == b"7"
    assert "StopIteration" in (tmp_path / "hunt" / "5.traceback").read_text()
    assert found.peak_mib >= 60
    assert found.figure.startswith("10 fine, 1 typed error, 4 escapes")
