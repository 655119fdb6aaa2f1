"""Loaders started again and again in a process that has used threads, decoders or an index.

    python tests/faults/starts.py METHOD STATE RUNS INDEX

prints "RUNS equal" if each run gave the samples that this process gives.
"""

import sys
import warnings

import torch

import dicomdl

STATES = ("torch threads", "a decoded frame", "an opened index")
# A worker that gives nothing for so long hangs, on a machine that has other work, too.
HANG_S = 120.0


def main(method: str, state: str, runs: int, folder: str) -> None:
    """Run the loaders."""
    index = dicomdl.open_index(folder)
    if state == "torch threads":
        torch.set_num_threads(2)
        _ = torch.rand(600, 600) @ torch.rand(600, 600)
    elif state == "a decoded frame":
        _ = [dicomdl.read_frame(index.source(row)) for row in range(len(index))]
    else:
        _ = len(index.stacks), index.problems, index.frame(0)
    dataset = dicomdl.FrameDataset(index, intensity="modality")
    expected = torch.stack([dataset[row]["image"] for row in range(len(dataset))])
    if method == "forkserver":
        torch.multiprocessing.get_context(method).set_forkserver_preload(["torch", "dicomdl"])
    # An interpreter takes seconds to start.
    workers = 1 if method == "spawn" else 2
    for _ in range(runs):
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=2,
            num_workers=workers,
            multiprocessing_context=method,
            timeout=HANG_S,
        )
        found = torch.cat([batch["image"] for batch in loader])
        assert torch.equal(found, expected)
    print(f"{runs} equal")


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
