"""What a release consists of: its version, its files, and the recipe of conda-forge."""

import os
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
KERNELS = ROOT / "dicomdl/_kernels"
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


def _build(folder: Path, *options: str, **environment: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", *options, "--directory", str(folder)]
    env = {**os.environ, **environment}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=env)


@pytest.mark.slow
def test_sdist_and_wheel_hold_the_package_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    _build(tmp_path, DICOMDL_PURE="1")
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
    sources = {path.relative_to(ROOT).as_posix() for path in KERNELS.glob("*.[ch]")}
    assert len(sources) >= 5
    assert sources | {"hatch_build.py"} <= packed
    assert not [name for name in packed if "_compiled" in name]
    assert package | {"pyproject.toml", "LICENSE", "CITATION.cff", "tests/conftest.py"} <= packed
    tops = {name.partition("/")[0] for name in packed}
    tops -= {path.name for path in ROOT.glob("*.md")}
    assert tops == {
        *("dicomdl", "tests", "notebooks", "configs", "docs"),
        *(
            "pyproject.toml",
            "hatch_build.py",
            "zensical.toml",
            "CITATION.cff",
            "LICENSE",
            "PKG-INFO",
            ".gitignore",
        ),
    }


@pytest.mark.slow
def test_a_wheel_with_the_compiled_module_names_its_platform(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    if not dicomdl.accelerated:
        pytest.skip("there is no compiler, or DICOMDL_PURE=1")
    _build(tmp_path, "--target", "wheel", DICOMDL_KERNELS="required")
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"dicomdl-{dicomdl.__version__}-cp311-abi3-")
    with zipfile.ZipFile(wheel) as archive:
        held = [name for name in archive.namelist() if name.startswith("dicomdl/_kernels/")]
        (about,) = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        assert b"Root-Is-Purelib: false" in archive.read(about)
    assert len(held) == 2 and "dicomdl/_kernels/__init__.py" in held


def test_the_recipe_of_cibuildwheel_builds_for_the_oldest_python() -> None:
    wanted = tomllib.loads((ROOT / "configs/cibuildwheel.toml").read_text())["tool"]["cibuildwheel"]
    oldest = PROJECT["requires-python"].removeprefix(">=").replace(".", "")
    assert wanted["build"] == f"cp{oldest}-*"
    assert wanted["environment"] == {"DICOMDL_KERNELS": "required"}
