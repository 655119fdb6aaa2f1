"""What every test may ask for: the corpus of real files, and a cache folder that belongs to the test alone."""

import os
from pathlib import Path

import pytest

CORPUS = Path(os.environ.get("DICOMDL_CORPUS") or Path(__file__).parents[2] / "shared" / "corpus")


@pytest.fixture
def corpus() -> Path:
    """The folder of real files; tests that need it are skipped by name without it."""
    if not CORPUS.is_dir():
        pytest.skip("needs the corpus (DICOMDL_CORPUS)")
    return CORPUS


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test writes to the user's cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DICOMDL_CACHE", str(folder))
    return folder
