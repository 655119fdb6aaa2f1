"""An epoch of volumes from shards, against an epoch from DICOM with the same options.

    python tests/benchmarks/shards.py --slices 512 --repeat 5

Both deliver volumes of 128 x 512 x 512 float32 of modality values, from uncompressed CT, and from
the same CT in JPEG 2000 (of at most 64 slices). Every sample is compared before the clock starts,
and files are in the page cache. Rounds alternate; a ratio above 1 means that shards are faster.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import phantom_ct
import torch
from rounds import arguments

import dicomdl


def epoch_s(dataset: Any) -> tuple[float, float]:
    """Read every sample; return the seconds on the clock, and those of the CPU in all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    for row in range(len(dataset)):
        dataset[row]
    return time.perf_counter() - start, time.process_time() - cpu


def compare(title: str, shards: Any, dicom: Any, repeat: int) -> None:
    """Print medians of both ways, and of their ratios."""
    rounds = [(epoch_s(shards), epoch_s(dicom)) for _ in range(repeat)]
    print(f"{title}: {len(dicom)} volumes")
    for place, name in enumerate(("clock", "CPU")):
        of_shards, of_dicom = (
            statistics.median(each[way][place] for each in rounds) for way in range(2)
        )
        ratio = statistics.median(dicom[place] / shards[place] for shards, dicom in rounds)
        print(f"  {name:<6} shards {of_shards:7.3f} s   DICOM {of_dicom:7.3f} s   x {ratio:.2f}")


def main() -> None:
    """Compare both ways over both codings and all dtypes."""
    given = arguments(__doc__, slices=(512, "slices of the CT"))
    torch.set_num_threads(1)
    folders = {
        "uncompressed": phantom_ct.ct_folder(given.slices),
        "JPEG 2000": phantom_ct.compressed_folder("j2k", min(given.slices, 64)),
    }
    for coding, folder in folders.items():
        with tempfile.TemporaryDirectory() as scratch:
            index = dicomdl.scan(folder, Path(scratch) / "index", progress=False)
            dicom = dicomdl.VolumeDataset(index, "modality")
            for dtype in ("auto", "float16", "float32"):
                out = Path(scratch) / dtype
                dicomdl.export(index, "webdataset", out, dtype=dtype, progress=False)
                shards = dicomdl.ShardDataset(out)
                for a, b in zip(shards, dicom, strict=True):
                    image = b["image"].half().float() if dtype == "float16" else b["image"]
                    assert torch.equal(a["image"], image)
                compare(f"{coding}, shards of {dtype}", shards, dicom, given.repeat)


if __name__ == "__main__":
    main()
