"""Damaged headers on the whole way: nothing that a file holds leaves as an exception."""

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import phantoms
import phantoms_labels
import pytest
from mutations import Seed, mutant, seed_of, seeds

pytest.importorskip("torch")
from faults.whole_way import Way

pytestmark = pytest.mark.slow
PER_FOLDER = 40
SHAPE = (4, 5, 7)


@pytest.fixture
def originals(tmp_path: Path) -> list[list[Seed]]:
    """Groups of files of which the mutants of one folder are: all, and one series with labels."""
    images = phantoms.write_series(tmp_path / "good", shape=SHAPE)
    square = phantoms_labels.contour([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]])
    masks = [(1, (0.0, 0.0, float(z)), np.ones(SHAPE[1:], np.uint8)) for z in range(SHAPE[0])]
    others = tmp_path / "labels"
    labels = [
        phantoms_labels.write_structure_set(others / "rt.dcm", images[0], {"square": [square]}),
        phantoms_labels.write_seg(others / "seg.dcm", images[0], masks),
        phantoms_labels.write_dose(others / "d.dcm", images[0], np.ones(SHAPE, np.uint16)),
    ]
    series = [seed_of(path) for path in (*images[:2], *labels)]
    return [series, [*series, *seeds(tmp_path / "seeds")]]


def folders(
    into: Path, originals: Sequence[Sequence[Seed]], random_seed: int, count: int
) -> Iterator[Path]:
    """Write `count` mutants, 40 to a folder: of one group, or of one file."""
    rng = random.Random(random_seed)
    for first in range(0, count, PER_FOLDER):
        group = rng.choice([*originals, [rng.choice(originals[-1])]])
        folder = into / f"{first:06}"
        folder.mkdir(parents=True)
        for number in range(PER_FOLDER):
            (folder / f"{number:02}.dcm").write_bytes(mutant(rng, group))
        yield folder


@pytest.mark.timeout(600)
def test_damaged_headers_end_in_rows_and_errors_of_dicomdl(
    tmp_path: Path, originals: list[list[Seed]]
) -> None:
    """DICOMDL_FUZZ_COUNT=40000 is the nightly run; a failing folder stays in the test's folder."""
    random_seed = int(os.environ.get("DICOMDL_FUZZ_SEED", "20261129"))
    count = int(os.environ.get("DICOMDL_FUZZ_COUNT", "400"))
    print(f"DICOMDL_FUZZ_SEED={random_seed}")
    way = Way()
    for folder in folders(tmp_path / "mutants", originals, random_seed, count):
        index = way.walk(folder, tmp_path / "indexes" / folder.name)
        assert not way.escapes, (folder, sorted(set(way.escapes)))
        assert index is not None
        assert index.ledger["files"] == PER_FOLDER
    assert way.outcomes["volume raise", "fine"] > count // 20
    assert way.outcomes["frame", "fine"] > count // 4
