"""List the changes of the public names that break a caller, for the section Changed.

Run ``python tests/breaking_changes.py [COMMIT]``. The list compares the working tree with a commit:
the last tag, or until there is one, the commit with which the layout of packages was finished.
"""

import contextlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import griffe
from public_face import found, public_names

ROOT = Path(__file__).parent.parent
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FIRST = "2f93f34a6ddc5673dd902d7c5d6c58a0dca5e953"


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def last_release() -> str:
    """The last tag of a version that this checkout contains, else `FIRST`."""
    tags = git("tag", "--merged", "HEAD", "--sort=version:refname", "v*").decode().split()
    return tags[-1] if tags else FIRST


def face(root: Path) -> griffe.Module:
    """A module of the public names alone, without those that the code makes at their first use."""
    made = griffe.Module("dicomdl")
    # griffe compares what a package exports; other aliases are imports to it.
    made.exports = []
    for name in public_names(root):
        flat = name.replace(".", "_")
        with contextlib.suppress(griffe.AliasResolutionError):
            made.set_member(flat, griffe.Alias(flat, found(root, name), parent=made))
            made.exports.append(flat)
    return made


def changes(old: Path, new: Path) -> list[str]:
    """One line per change: the name, and what became of it."""
    lines = set()
    for change in griffe.find_breaking_changes(face(old), face(new)):
        _place, _, line = COLOUR.sub("", change.explain()).partition(": ")
        # Nobody constructs a Frame.
        if not line.startswith("Frame.__init__"):
            lines.add(line)
    return sorted(lines)


def main(commit: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        packed = io.BytesIO(git("archive", commit, "dicomdl"))
        with tarfile.open(fileobj=packed) as archive:
            archive.extractall(folder, filter="data")
        found_changes = changes(Path(folder), ROOT)
    print(f"# since {commit[:12]}: {len(found_changes)} breaking changes")
    print(*found_changes, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else last_release())
