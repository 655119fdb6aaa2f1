"""Fetch and send: C-GET and C-STORE against dcmtk, WADO-RS against a plain loop.

    python tests/benchmarks/network.py [--instances 1000] [--size 256] [--series 10]

Orthanc runs on loopback and holds one study. All contenders write the files to a folder that is
empty before. Rounds alternate; ratios are of the medians. The loop asks for one instance after the
other over one connection, or for one series after the other, and takes the answer apart with
`bytes.split`. `fetch` looks at each data set, flushes each file to the disk, writes its ledger and
asks the archive first for what it has. `send` is compared with storescu. Programs of dcmtk run as
they come, and with TCP_NODELAY=1, which spares them a wait of 40 ms per message.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import urllib3

import dicomdl

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))
from network_servers import Orthanc, orthanc, program  # noqa: E402
from phantoms import write_series  # noqa: E402

STUDY = "1.2.826.9"
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'


def fill(server: Orthanc, given: argparse.Namespace, folder: Path) -> None:
    """Store the study in the archive."""
    values = np.random.default_rng(0)
    slices = given.instances // given.series
    for number in range(given.series):
        shape = (slices, given.size, given.size)
        stored = values.integers(0, 4000, shape, dtype=np.uint16)
        series = folder / str(number)
        write_series(
            series,
            shape=shape,
            stored=stored,
            bits_stored=12,
            study_uid=STUDY,
            series_uid=f"{STUDY}.{number}",
            seed=number,
        )
        for path in series.iterdir():
            url = f"http://127.0.0.1:{server.http_port}/instances"
            urllib.request.urlopen(urllib.request.Request(url, path.read_bytes())).close()


def storescu(server: Orthanc, folder: Path, sent: Path, **variables: str) -> None:
    """Send the study with dcmtk; `folder` stays empty."""
    words = [program("storescu"), "+sd", "+r", "-aec", server.title, "127.0.0.1"]
    environment = {**os.environ, **variables}
    subprocess.run([*words, str(server.port), str(sent)], check=True, env=environment)


def send(server: Orthanc, folder: Path, sent: Path) -> None:
    """Send the study; `folder` stays empty."""
    done = dicomdl.send(server.address, sent, progress=False)
    assert done.ok, done


def getscu(server: Orthanc, folder: Path, **variables: str) -> None:
    """Get the study with dcmtk, bit by bit as it comes."""
    keys = ("-k", "0008,0052=STUDY", "-k", f"0020,000d={STUDY}")
    words = [program("getscu"), "-S", "+B", *keys, "-aec", server.title, "-od", str(folder)]
    environment = {**os.environ, **variables}
    subprocess.run(
        [*words, "127.0.0.1", str(server.port)], check=True, capture_output=True, env=environment
    )


def loop(server: Orthanc, folder: Path, *, by_instance: bool) -> None:
    """Ask for each instance, or each series, and write what comes."""
    http = urllib3.PoolManager()
    base = f"{server.web}/studies/{STUDY}"
    headers = {"Accept": ACCEPT}
    count = 0
    for series in _uids(http, f"{base}/series", "0020000E"):
        place = f"{base}/series/{series}"
        uids = _uids(http, f"{place}/instances", "00080018") if by_instance else []
        for url in [f"{place}/instances/{uid}" for uid in uids] or [place]:
            answer = http.request("GET", url, headers=headers)
            boundary = answer.headers["content-type"].rpartition("boundary=")[2].strip('"')
            for part in answer.data.split(f"--{boundary}".encode())[1:-1]:
                (folder / f"{count}.dcm").write_bytes(part.partition(b"\r\n\r\n")[2][:-2])
                count += 1


def _uids(http: urllib3.PoolManager, url: str, tag: str) -> list[str]:
    headers = {"Accept": "application/dicom+json"}
    found = http.request("GET", url, headers=headers).json()
    return [each[tag]["Value"][0] for each in found]


def fetch(address: str, folder: Path, jobs: int) -> None:
    """Fetch the study."""
    fetched = dicomdl.fetch(address, folder, study=STUDY, jobs=jobs, progress=False)
    assert fetched.ok, fetched


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--series", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--only", action="append", help="the name of a contender, as printed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        with orthanc(place / "orthanc") as server:
            fill(server, given, place / "sent")
            at_once, sent = {"TCP_NODELAY": "1"}, place / "sent"
            contenders: dict[str, Callable[[Path], None]] = {
                "storescu": lambda folder: storescu(server, folder, sent),
                "storescu, no delay": lambda folder: storescu(server, folder, sent, **at_once),
                "send": lambda folder: send(server, folder, sent),
                "getscu": lambda folder: getscu(server, folder),
                "getscu, no delay": lambda folder: getscu(server, folder, **at_once),
                "fetch, C-GET": lambda folder: fetch(server.address, folder, given.jobs),
                "loop by instance": lambda folder: loop(server, folder, by_instance=True),
                "loop by series": lambda folder: loop(server, folder, by_instance=False),
                "fetch, WADO": lambda folder: fetch(server.web, folder, given.jobs),
            }
            chosen = given.only or list(contenders)
            print_table({name: contenders[name] for name in chosen}, given, place)


def print_table(
    contenders: dict[str, Callable[[Path], None]], given: argparse.Namespace, place: Path
) -> None:
    """Time the contenders in alternating rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(given.rounds):
        for name, work in contenders.items():
            folder = place / "got"
            folder.mkdir()
            begin = time.perf_counter()
            work(folder)
            seconds[name].append(time.perf_counter() - begin)
            count = sum(len(files) for path, _, files in os.walk(folder) if ".fetch" not in path)
            assert count == (0 if name.startswith(("send", "storescu")) else given.instances)
            shutil.rmtree(folder)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print(f"{given.instances} instances of {given.size} x {given.size}, {given.series} series")
    for name, median in medians.items():
        print(f"  {name:<18} {median:7.2f} s   {' '.join(f'{s:.2f}' for s in seconds[name])}")
    pairs = (("send", "storescu"), ("fetch, C-GET", "getscu"), ("fetch, WADO", "loop"))
    for mine, other in pairs:
        for name in (name for name in medians if mine in medians and name.startswith(other)):
            print(f"  speed, {mine} / {name:<18} {medians[name] / medians[mine]:.2f}")


if __name__ == "__main__":
    main()
