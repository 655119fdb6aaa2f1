"""A DICOMweb server as a root: the scan and epochs of frames, against a bare loop of requests.

    python tests/benchmarks/dicomweb.py [--slices 120] [--rounds 3]

Orthanc serves one CT series of 256 x 256 on loopback. The bare loop asks for the metadata of the
series, then for each frame, on as many threads as dicomdl has connections, and parses nothing.
"""

import argparse
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import dicomdl
from dicomdl.storage.dicomweb import CONNECTIONS, MOST_JSON_BYTES, Session
from dicomdl.storage.web_objects import FRAME

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))
from network_servers import orthanc  # noqa: E402
from phantoms import write_series  # noqa: E402


def timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def bare(url: str) -> float:
    """Time the requests of the metadata, and of every frame."""
    session = Session(url)
    (series,) = session.json("/series")
    path = f"/studies/{_uid(series, '0020000D')}/series/{_uid(series, '0020000E')}"

    def frame(uid: str) -> bytes:
        return session.part(f"{path}/instances/{uid}/frames/1", FRAME, most_bytes=10**7).data

    def work() -> None:
        items = session.json(f"{path}/metadata", most_bytes=MOST_JSON_BYTES)
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            list(threads.map(frame, [_uid(item, "00080018") for item in items]))

    return timed(work)


def _uid(item: Any, tag: str) -> str:
    return str(item[tag]["Value"][0])


def ours(url: str, folder: Path) -> tuple[float, float, float, float]:
    """Time the first scan, an update, and two epochs of frames."""
    os.environ["DICOMDL_CACHE"] = str(folder / "cache")
    root, out = f"dicomweb+{url}", folder / "index"
    scan = timed(lambda: dicomdl.scan(root, out, progress=False))
    update = timed(lambda: dicomdl.scan(root, out, progress=False))
    data = dicomdl.FrameDataset(dicomdl.open_index(out), intensity=None)
    epochs = [timed(lambda: [data[n] for n in range(len(data))]) for _ in range(2)]
    return scan, update, epochs[0], epochs[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_series(folder / "ct", shape=(arguments.slices, 256, 256), bits_stored=16)
        with orthanc(folder / "orthanc") as server:
            for file in files:
                url = f"http://127.0.0.1:{server.http_port}/instances"
                urllib.request.urlopen(url, file.read_bytes()).close()
            rows = []
            for number in range(arguments.rounds):
                each = folder / str(number)
                each.mkdir(mode=0o700)
                rows.append((bare(server.web), *ours(server.web, each)))
    names = ("bare loop: metadata, frames", "scan", "scan again", "epoch 1", "epoch 2")
    for label, times in zip(names, zip(*rows, strict=True), strict=True):
        print(f"{label:30} {median(times):7.2f} s {median(times) / arguments.slices * 1e3:7.2f} ms")


if __name__ == "__main__":
    main()
