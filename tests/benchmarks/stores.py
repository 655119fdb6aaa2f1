"""Object stores: headers, patches and second epochs, against a loop and against bare ranged GETs.

    python tests/benchmarks/stores.py [--files 10000] [--delay-ms 20]

A server of its own on loopback serves slices of 0.5 MB from memory, and counts requests and bytes.
Times are of this machine. Ratios are of the medians of rounds that alternate, `--rounds` of them.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from obstore import get
from obstore.store import S3Store

import dicomdl

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))
from phantoms import write_series  # noqa: E402


class Server:
    """A process that serves a folder as the bucket "b"."""

    def __init__(self, folder: Path, copies: int) -> None:
        program = str(HERE.parents[1] / "object_server.py")
        words = [sys.executable, program, str(folder), "b", str(copies)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def counts(self, command: str = "") -> tuple[int, int, int]:
        """Requests, bytes sent and most requests in flight since the last call."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        requests, sent, flight = map(int, self._process.stdout.readline().split())
        return requests, sent, flight

    def close(self) -> None:
        self._process.kill()


def timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def bare_ranges(
    server: Server, keys: list[str], start: int = 0, stop: int = 16384, at_once: int = 64
) -> None:
    """Ask for the first 16 kB of each object, or another range, with obstore alone."""
    store = S3Store(
        "b",
        endpoint=server.url,
        skip_signature=True,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    left: Iterator[str] = iter(keys)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                key = next(left, None)
            if key is None:
                return
            get(store, key, options={"range": (start, stop)}).bytes()

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def whole_downloads(server: Server, keys: list[str]) -> None:
    """Download each object and read its header with pydicom."""
    store = S3Store(
        "b",
        endpoint=server.url,
        skip_signature=True,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    for key in keys:
        pydicom.dcmread(io.BytesIO(bytes(get(store, key).bytes())), stop_before_pixels=True)


def headers(
    server: Server, keys: list[str], options: dict[str, Any], out: Path, rounds: int
) -> None:
    count, few = len(keys), keys[: max(100, len(keys) // 50)]

    def scan(number: int) -> None:
        where = out / str(number)
        dicomdl.scan("s3://b/set", where, progress=False, storage_options=options, workers=1)

    ours, bare = [], []
    for number in range(rounds):
        server.counts()
        ours.append(timed(lambda: scan(number)))  # noqa: B023
        requests, sent, flight = server.counts()
        bare.append(timed(lambda: bare_ranges(server, keys)))
    mine, theirs = np.median(ours), np.median(bare)
    loop = timed(lambda: whole_downloads(server, few)) * count / len(few)
    print(
        f"{count} headers: {mine:.2f} s; {sent / count / 1000:.1f} kB and {requests / count:.3f} "
        f"requests per file, {flight} in flight; bare ranged GETs {theirs:.2f} s, rate "
        f"{theirs / mine:.2f} of theirs; a loop of downloads with pydicom {loop:.1f} s, "
        f"{loop / mine:.1f} x"
    )


def patches(
    server: Server, options: dict[str, Any], local: Path, out: Path, cache: str, rounds: int
) -> None:
    os.environ["DICOMDL_CACHE"] = cache
    remote = dicomdl.scan("s3://b/stack", out / "stack", progress=False, storage_options=options)
    here = dicomdl.scan(local / "stack", out / "here", progress=False)
    size = (96, 96, 96)

    def dataset(index: dicomdl.Index) -> Any:
        return dicomdl.PatchDataset(index, size, sampler="grid", intensity="modality")

    ours, theirs = dataset(remote), dataset(here)
    _ = theirs[0]
    keys = [f"stack/{path.name}" for path in sorted((local / "stack").iterdir())[:96]]
    span = 512 * 2 * 96
    fresh, bare = [], []
    for number in range(rounds):
        # Another folder: no range of an earlier round is in the byte cache.
        os.environ["DICOMDL_CACHE"] = f"{cache}-{number}"
        server.counts()
        fresh.append(timed(lambda: ours[0]))
        requests, sent, flight = server.counts()
        bare.append(timed(lambda: bare_ranges(server, keys, 1000, 1000 + span)))
    rows = requests * 96 * 512 * 2
    again, near = [], []
    for _ in range(15):
        again.append(timed(lambda: ours[0]))
        near.append(timed(lambda: theirs[0]))
    assert np.array_equal(ours[0]["image"], theirs[0]["image"])
    print(
        f"96^3 patch: {np.median(fresh) * 1000:.0f} ms, the first {fresh[0] * 1000:.0f}; "
        f"{requests} requests, {sent / rows:.3f} x the bytes of its rows, {flight} in flight; bare "
        f"ranged GETs of them {np.median(bare) * 1000:.0f} ms; from the byte cache "
        f"{np.median(again) * 1000:.2f} ms, from the folder {np.median(near) * 1000:.2f}: "
        f"{np.median(again) / np.median(near):.2f} x"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--delay-ms", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["DICOMDL_CACHE"] = str(folder / "cache")
        write_series(folder / "data" / "stack", shape=(128, 512, 512), bits_stored=16)
        names = sorted(path.name for path in (folder / "data" / "stack").iterdir())
        copies = -(-given.files // len(names))
        server = Server(folder / "data", copies)
        options = {"endpoint": server.url, "skip_signature": True, "region": "us-east-1"}
        keys = [f"set/{number}/{name}" for number in range(copies) for name in names]
        try:
            for delay_s in (0.0, given.delay_ms / 1000):
                print(f"delay {delay_s * 1000:.0f} ms")
                server.counts(f"delay_s={delay_s}")
                out = folder / f"out{delay_s}"
                headers(server, keys, options, out, given.rounds)
                cache = str(folder / f"cache{delay_s}")
                patches(server, options, folder / "data", out, cache, given.rounds)
        finally:
            server.close()


if __name__ == "__main__":
    main()
