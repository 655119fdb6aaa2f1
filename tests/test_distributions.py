"""What a release consists of: its version, its files, and the recipe of conda-forge."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import dicomdl

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECIPE = (ROOT / "configs/conda-recipe.yaml").read_text()


def test_the_version_stands_in_one_file_and_others_repeat_it() -> None:
    assert PROJECT["dynamic"] == ["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.M)[1] == dicomdl.__version__
    assert re.search(r'^  version: "(.+)"$', RECIPE, re.M)[1] == dicomdl.__version__
    assert f"## {dicomdl.__version__} (" in (ROOT / "CHANGELOG.md").read_text()


def test_the_recipe_of_conda_forge_requires_what_pyproject_requires() -> None:
    run = RECIPE.partition("  run:\n")[2].partition("\n\n")[0]
    wanted = {line.strip("- ").strip() for line in run.splitlines()} - {
        "python >=${{ python_min }}"
    }
    names = {"torch": "pytorch", "SimpleITK": "simpleitk", "xxhash": "python-xxhash"}
    floors = dict(each.split(">=") for each in PROJECT["dependencies"])
    assert wanted == {f"{names.get(name, name)} >={floor}" for name, floor in floors.items()}


def test_the_changelog_has_the_headings_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = set(re.findall(r"^### (.+)$", text, re.M))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for release in re.split(r"^## ", text, flags=re.M)[1:]:
        each = re.findall(r"^### (.+)$", release, re.M)
        assert len(each) == len(set(each))


@pytest.mark.slow
def test_sdist_and_wheel_hold_the_package_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert wheel.name == f"dicomdl-{dicomdl.__version__}-py3-none-any.whl"
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "dicomdl").rglob("*")
        if path.suffix in (".py", ".pyi", ".toml", ".typed", ".html", ".css", ".js")
    }
    assert {"dicomdl/py.typed", "dicomdl/values/presets.toml", "dicomdl/__init__.pyi"} < package
    assert {f"dicomdl/jobs/report/page.{kind}" for kind in ("html", "css", "js")} < package
    info = f"dicomdl-{dicomdl.__version__}.dist-info/"
    held = set(zipfile.ZipFile(wheel).namelist())
    recipes = {
        f"dicomdl/jobs/recipes/shipped/{path.name}"
        for path in (ROOT / "configs/recipes").glob("*.yaml")
    }
    assert len(recipes) >= 9
    assert {name for name in held if not name.startswith(info)} == package | recipes
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert package | {"pyproject.toml", "LICENSE", "CITATION.cff", "tests/conftest.py"} <= packed
    tops = {name.partition("/")[0] for name in packed}
    tops -= {path.name for path in ROOT.glob("*.md")}
    assert tops == {
        *("dicomdl", "tests", "notebooks", "configs", "docs"),
        *("pyproject.toml", "zensical.toml", "CITATION.cff", "LICENSE", "PKG-INFO", ".gitignore"),
    }
