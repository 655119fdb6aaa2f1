"""The page about a data set and the viewer: stacks per second, and the first picture of a stack.

    python tests/benchmarks/report.py [--slices 8192]

The slices are CT of 512 x 512 in series of 128, uncompressed, in a warm page cache. The page is
made once without cached pictures and once with them.
"""

import argparse
import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path

import phantom_ct

import dicomdl
from dicomdl.jobs.viewer.server import ViewServer


def pages(index: dicomdl.Index, folder: Path) -> None:
    """Print what a page costs."""
    for state in ("nothing cached", "pictures cached"):
        start = time.perf_counter()
        made = index.report(folder / "page.html", overwrite=True, progress=False)
        took = time.perf_counter() - start
        print(
            f"report, {state}: {took:.2f} s for {made.stacks} stacks, "
            f"{1000 * took / made.stacks:.1f} s per 1,000, {len(made.html) / 1e3:.0f} kB"
        )


def viewer(index: dicomdl.Index) -> None:
    """Print how long the viewer takes for the first picture of a stack, and for others."""
    server = ViewServer(index)
    server.start()

    def get(path: str) -> bytes:
        with urllib.request.urlopen(server.url + path) as reply:
            body: bytes = reply.read()
        return body

    get("stacks.json")
    start = time.perf_counter()
    count = json.loads(get("stack/0/facts.json"))["planes"][0]["count"]
    get(f"stack/0/picture?plane=axial&number={count // 2}")
    print(f"view, first picture: {1000 * (time.perf_counter() - start):.0f} ms")
    start = time.perf_counter()
    for number in range(count):
        get(f"stack/0/picture?plane=axial&number={number}")
    print(f"view, pictures per second: {count / (time.perf_counter() - start):.0f}")
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=8192)
    slices = parser.parse_args().slices
    with tempfile.TemporaryDirectory() as name:
        # Pictures of an earlier run are in the cache folder of the user.
        os.environ["DICOMDL_CACHE"] = os.path.join(name, "cache")
        index = dicomdl.scan(phantom_ct.ct_folder(slices), Path(name, "index"), progress=False)
        pages(index, Path(name))
        viewer(index)


if __name__ == "__main__":
    main()
