"""An epoch with unreadable samples: what is delivered and what is reported are all samples.

20 of 200 frames cannot be read, each for one of five reasons. No process may hang, and none may
end the epoch early.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from phantoms import write_series

import dicomdl

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
JPEG_LS = "1.2.840.10008.1.2.4.80"
FRAMES, POISON = 200, 20
SIDE = 8


def removed(path: Path) -> None:
    path.unlink()


def changed(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def overwrite(path: Path, edit: Callable[[bytearray, int], None]) -> None:
    """Change a file before the scan; `edit` gets its bytes and the begin of the codestream."""
    raw = bytearray(path.read_bytes())
    edit(raw, raw.rindex(b"\xff\xd8"))
    path.write_bytes(raw)


def without_end(raw: bytearray, at: int) -> None:
    end = raw.rindex(b"\xff\xd9")
    raw[end : end + 2] = b"\0\0"


def of_other_size(raw: bytearray, at: int) -> None:
    start = raw.index(b"\xff\xf7", at)
    raw[start + 5 : start + 7] = struct.pack(">H", 60_000)


def of_zeros(raw: bytearray, at: int) -> None:
    raw[at : at + 20] = bytes(20)


BEFORE = (without_end, of_other_size, of_zeros)
AFTER = (removed, changed)


@dataclass(frozen=True, slots=True)
class Poisoned:
    """An index, and the rows that cannot be read."""

    index: dicomdl.Index
    rows: frozenset[int]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    folder = tmp_path_factory.mktemp("epoch") / "dicom"
    paths = [
        path
        for seed in range(4)
        for path in write_series(
            folder / str(seed),
            shape=(FRAMES // 4, SIDE, SIDE),
            transfer_syntax=JPEG_LS,
            seed=seed,
            patient_id=f"P{seed}",
        )
    ]
    chosen = np.random.default_rng(7).choice(FRAMES, POISON, replace=False).tolist()
    kinds = (*BEFORE, *AFTER)
    for number, which in enumerate(chosen):
        if (kind := kinds[number % len(kinds)]) in BEFORE:
            overwrite(paths[which], kind)
    index = index_of(folder)
    for number, which in enumerate(chosen):
        if (kind := kinds[number % len(kinds)]) in AFTER:
            kind(paths[which])
    bad = {str(paths[which]) for which in chosen}
    rows = frozenset(row for row in range(len(index)) if str(index.source(row).path) in bad)
    assert (len(index), len(rows)) == (FRAMES, POISON)
    return Poisoned(index, rows)


def rows_of(batch: Any) -> list[int]:
    return [int(row) for row in np.ravel(batch["row"])]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.full), 2])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize("kind", ["map", "stream"])
@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(m, marks=pytest.mark.full) for m in ("spawn", "forkserver"))]
)
def test_delivered_and_reported_samples_are_all_samples(
    workers: int, batch_size: int | None, kind: str, method: str, poisoned: Poisoned
) -> None:
    frames = dicomdl.FrameDataset(poisoned.index, "modality", on_error="skip")
    source = frames if kind == "map" else dicomdl.StackStream(frames, seed=0)
    loader = torch.utils.data.DataLoader(
        source,
        batch_size=batch_size,
        num_workers=workers,
        multiprocessing_context=method if workers else None,
        collate_fn=dicomdl.collate if batch_size else None,
    )
    delivered = [row for batch in loader for row in rows_of(batch)]
    assert {entry.row for entry in frames.skipped} == poisoned.rows
    good = set(range(FRAMES)) - poisoned.rows
    assert set(delivered) == good
    if batch_size == 4 or kind == "stream":
        assert len(delivered) == len(good)
    else:
        # Another row takes the place of a sample alone.
        assert len(delivered) == FRAMES
    assert all("file: " in entry.error for entry in frames.skipped)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_unreadable_sample_names_its_file(workers: int, poisoned: Poisoned) -> None:
    frames = dicomdl.FrameDataset(poisoned.index, "modality")
    for row in sorted(poisoned.rows)[:: 1 if workers == 0 else 7]:
        alone = torch.utils.data.Subset(frames, [row])
        loader = iter(torch.utils.data.DataLoader(alone, batch_size=1, num_workers=workers))
        with pytest.raises(dicomdl.DicomdlError) as caught:
            next(loader)
        if workers:
            loader._shutdown_workers()
        told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
        assert str(poisoned.index.source(row).path) in told
