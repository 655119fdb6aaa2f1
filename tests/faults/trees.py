"""Folders that are odd: links, loops, devices, names, depth, and what changes during the scan.

Each tree holds an image `a.dcm` beside what is odd. Its outcome is what the scan counts.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from faults.writing import image_file, text

GOOD = image_file()


@dataclass(frozen=True, slots=True)
class Tree:
    """One folder.

    Attributes
    ----------
    name
        What is odd.
    build
        Makes it below a folder, which holds `a.dcm`.
    images, files
        Image files and files of the ledger.
    passed
        What the scan passes over, by its name in the manifest.
    follow_links
        The option of the scan.
    """

    name: str
    build: Callable[[Path], None]
    images: int = 1
    files: int = 1
    passed: dict[str, int] = field(default_factory=dict)
    follow_links: bool = False

    @property
    def passed_over(self) -> str:
        """What the scan passes over, as text."""
        parts = (f"{count} {name.replace('_', ' ')}" for name, count in self.passed.items())
        return ", ".join(part if part[:2] != "1 " else part.removesuffix("s") for part in parts)


def loops(count: int) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for number in range(count):
            (root / f"loop{number}").symlink_to(root, target_is_directory=True)

    return build


def link(target: str, name: str = "link.dcm") -> Callable[[Path], None]:
    def build(root: Path) -> None:
        outside = root.parent / "outside"
        outside.mkdir()
        (outside / "b.dcm").write_bytes(image_file({0x00080018: text("1.2.3.9", b"UI")}))
        (root / name).symlink_to(target.format(root=root, outside=outside))

    return build


def hard_link(root: Path) -> None:
    os.link(root / "a.dcm", root / "b.dcm")


def pipe(root: Path) -> None:
    os.mkfifo(root / "pipe.dcm")


def listening(root: Path) -> None:
    here = Path.cwd()
    os.chdir(root)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s.dcm")
    finally:
        os.chdir(here)


def named(*names: bytes) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for name in names:
            with open(os.path.join(os.fsencode(root), name), "wb") as file:
                file.write(b"no image")

    return build


def deep(root: Path, levels: int = 1000) -> None:
    """Make folders within each other, whose path is longer than the system takes at once."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        for _ in range(levels):
            os.mkdir("d", dir_fd=descriptor)
            inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
    finally:
        os.close(descriptor)


def flatten(root: Path) -> None:
    """Remove the folders of `deep` one by one, which is too deep for pytest."""
    while (root / "d").exists():
        (root / "d").rename(root / "outer")
        if (root / "outer" / "d").exists():
            (root / "outer" / "d").rename(root / "d")
        (root / "outer").rmdir()


def many(count: int) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for number in range(count):
            (root / f"{number}.txt").touch()

    return build


TREES = (
    Tree("a link to its own folder", loops(1), passed={"linked_folders": 1}),
    Tree("10 links to their own folder", loops(10), passed={"linked_folders": 10}),
    Tree("a link to its own folder, followed", loops(1), follow_links=True),
    Tree("10 links to their own folder, followed", loops(10), follow_links=True),
    Tree("a link to a file outside", link("{outside}/b.dcm"), passed={"outside_links": 1}),
    Tree(
        "a link to a file outside, followed",
        link("{outside}/b.dcm"),
        images=2,
        files=2,
        follow_links=True,
    ),
    Tree("a link to a folder outside", link("{outside}", "more"), passed={"linked_folders": 1}),
    Tree("a link to a file inside", link("{root}/a.dcm")),
    Tree("a hard link", hard_link),
    Tree("a link to nothing", link("{root}/nowhere"), passed={"special_files": 1}),
    Tree("a link to itself", link("link.dcm"), passed={"special_files": 1}),
    Tree("a link to /dev/zero", link("/dev/zero"), passed={"outside_links": 1}),
    Tree("a link to /proc/self/mem", link("/proc/self/mem"), passed={"outside_links": 1}),
    Tree("a pipe", pipe, passed={"special_files": 1}),
    Tree("a socket", listening, passed={"special_files": 1}),
    Tree("names of bytes that are no UTF-8", named(b"\xff\xfe.dcm", b"\x80"), files=3),
    Tree("names of 255 bytes", named(b"a" * 255, b"\xc3\xa9" * 127), files=3),
    Tree(
        "names alike but for case and composition", named(b"A", b"a\xcc\x88", b"\xc3\xa4"), files=4
    ),
    Tree("names with lines, dashes and sequences", named(b"a\nb", b"-rf", b"\x1b[31m"), files=4),
    Tree("1,000 folders within each other", deep),
    Tree("2,000 empty files", many(2000), files=2001),
)
