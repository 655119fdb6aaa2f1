"""The built site: it is whole, and asks no other server for anything."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from pages import ROOT

ZENSICAL = shutil.which("zensical", path=str(Path(sys.executable).parent)) or shutil.which(
    "zensical"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ZENSICAL is None, reason="needs the extra docs (zensical)"),
]


class Parsed(HTMLParser):
    """The targets of a page: its links and everything it loads, and its own anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "action", "data", "poster"):
                self.targets.append(value or "")
            elif name in ("id", "name"):
                self.anchors.add(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in a copy of the checkout."""
    copy = tmp_path_factory.mktemp("site")
    for name in ("docs", "dicomdl"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", copy)
    ran = subprocess.run(
        [str(ZENSICAL), "build", "--clean", "--strict"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return copy / "site"


def test_every_page_is_built(site: Path) -> None:
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in ROOT.glob("docs/**/*.md")}
    assert pages <= built


def test_nothing_is_loaded_from_or_linked_to_another_server(site: Path) -> None:
    found = []
    for path in site.rglob("*.html"):
        targets = Parsed(path.read_text()).targets
        found += [f"{path}: {each}" for each in targets if re.match(r"(https?:)?//", each)]
    for path in site.rglob("*.css"):
        found += re.findall(r"url\(['\"]?(?:https?:)?//[^)]*|@import[^;]*//[^;]*", path.read_text())
    assert not found, "\n".join(found)


def test_links_and_anchors_of_the_site_exist(site: Path) -> None:
    parsed = {path: Parsed(path.read_text()) for path in site.rglob("*.html")}
    dead = []
    for path, page in parsed.items():
        if path.name == "404.html":
            continue
        for target in page.targets:
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = unquote(target).partition("#")
            found = (path.parent / file.partition("?")[0]).resolve() if file else path
            if not found.exists():
                dead.append(f"{path.relative_to(site)}: {target}")
            elif anchor and found in parsed and anchor not in parsed[found].anchors:
                dead.append(f"{path.relative_to(site)}: no anchor {target}")
    assert not dead, "\n".join(sorted(set(dead)))
