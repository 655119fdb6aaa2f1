"""The pages of the documentation: their blocks of code, headings and links, without a renderer.

A block in ```` ```python ```` runs; a block in ```` ```text ```` directly behind it is what it
prints, with ``...`` for anything. Lines of a ```` ```console ```` block that begin with ``$`` run
as commands of `dicomdl`. The blocks of a page share names, and a folder of their own. Two comments,
which readers do not see, stand directly in front of a block: ``<!-- not run: REASON -->``, and
``<!-- before: CODE -->`` for lines that run first.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"
PAGES: Final = [
    path
    for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), DOCS / "llms.txt")
    if path.name not in ("LICENSE",)
]

_FENCE = re.compile(r"^( *)(```+|~~~+) *(.*)$")
_COMMENT = re.compile(r"<!-- (before|not run): *(.*?) *-->", re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *#*$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^()\s>]+)>?(?: +\"[^\"]*\")?\)")
_SPAN = re.compile(r"`+[^`\n]*`+")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Attributes
    ----------
    line
        Number of its first line of code in the page, from 1.
    language, code
        The word behind the fence, and the lines.
    before
        Lines to run first, which the page does not show.
    why_not
        The reason why the block does not run; "" if it does.
    follows
        Whether nothing but empty lines separates it from the block before.
    """

    line: int
    language: str
    code: str
    before: str
    why_not: str
    follows: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its blocks of code, and its lines outside of them."""

    path: Path
    blocks: tuple[Block, ...]
    prose: tuple[tuple[int, str], ...]

    @property
    def anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub and Zensical make them."""
        found: dict[str, int] = {}
        anchors = set()
        for _, line in self.prose:
            if heading := _HEADING.match(line):
                anchor = slug(heading[2])
                found[anchor] = found.get(anchor, 0) + 1
                anchors.add(anchor)
        return anchors

    @property
    def links(self) -> list[tuple[int, str]]:
        """The targets of links and pictures, with their line numbers."""
        text = _SPAN.sub("`code`", "\n".join(line for _, line in self.prose))
        return [
            (self.prose[text.count("\n", 0, found.start())][0], found[1])
            for found in _LINK.finditer(text)
        ]


def slug(heading: str) -> str:
    """Return the anchor of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[^\w\s-]", "", text.lower())
    return re.sub(r"\s+", "-", text.strip())


def read_page(path: Path) -> Page:
    """Return the blocks and the prose of a page."""
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    lines = path.read_text().split("\n")
    number = since = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            prose.append((number + 1, lines[number]))
            number += 1
            continue
        end = number + 1
        while end < len(lines) and lines[end].strip() != fence[2]:
            end += 1
        assert end < len(lines), f"{path}:{number + 1}: a block of code without an end"
        code = [line.removeprefix(fence[1]) for line in lines[number + 1 : end]]
        blocks.append(_block(number + 2, fence[3], code, "\n".join(lines[since:number])))
        number = since = end + 1
    return Page(path, tuple(blocks), tuple(prose))


def _block(line: int, language: str, code: list[str], between: str) -> Block:
    """Return a block, given the text between the block in front of it and this one."""
    said = {"before": "", "not run": ""}
    at_end = re.search(r"((<!--.*?-->)\s*)+\Z", between, re.DOTALL)
    for comment in _COMMENT.finditer(at_end[0] if at_end else ""):
        said[comment[1]] = comment[2]
    language = language.split()[0] if language else ""
    text = "\n".join(code) + "\n"
    return Block(line, language, text, said["before"], said["not run"], not between.strip())
