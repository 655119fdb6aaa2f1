"""scratch: what a killed process leaves in the temporary folder goes with the next one."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dicomdl.storage import scratch

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")

WRITER = """
import os, sys, tempfile
from dicomdl.storage.scratch import scratch_prefix
open(os.path.join(sys.argv[1], scratch_prefix("skipped") + "00.jsonl"), "w").close()
os.mkdir(os.path.join(sys.argv[1], scratch_prefix("pixels") + "00"))
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@posix_only
def test_only_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    (tmp_path / "dicomdl-skipped-other.jsonl").touch()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        before = sorted(os.listdir(tmp_path))
        assert len(before) == 3
        scratch.remove_left(str(tmp_path))
        assert sorted(os.listdir(tmp_path)) == before
        process.kill()
    scratch.remove_left(str(tmp_path))
    assert os.listdir(tmp_path) == ["dicomdl-skipped-other.jsonl"]


@posix_only
def test_a_name_whose_process_number_another_one_has_now_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_start_of", {os.getpid(): 7}.get)
    mine = scratch.scratch_prefix("skipped") + "00.jsonl"
    (tmp_path / mine).touch()
    (tmp_path / mine.replace("-7-", "-6-")).touch()
    elsewhere = mine.replace(scratch._realm(), "0" * 12).replace("-7-", "-6-")
    (tmp_path / elsewhere).touch()
    scratch.remove_left(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([mine, elsewhere])


def test_names_are_in_the_temporary_folder_with_a_suffix_of_tempfile() -> None:
    with tempfile.TemporaryDirectory(prefix=scratch.scratch_prefix("pixels")) as folder:
        assert scratch._OURS.fullmatch(os.path.basename(folder))
