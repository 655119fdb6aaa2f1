"""Random patches from a cached CT, against a memory map of an .npy file, blosc2 and zarr.

    python tests/benchmarks/cache.py --slices 128 --repeat 9

The memory map is the floor. All contenders read patches of 64 x 128 x 128 int16 at the same 40
random positions, from (slices) x 512 x 512. "opened": the process has read the patches before.
"first touch": the entry is opened anew per round, and its checksums are verified on reading. "not
verified": the same, with checksums already known. Further tables compare checksums, the cost of a
key, and sizes. All results are compared before the clock starts. blosc2, zarr and xxhash are peers;
missing ones are listed as absent.
"""

import functools
import itertools
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rounds import Contender, Task, arguments, race

from dicomdl.storage.cache import _layout as layout_module
from dicomdl.storage.cache import folder as cachefolder
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.entries import Arrays
from dicomdl.storage.cache.keys import Key, KeyFile, stack_key
from dicomdl.storage.cache.memory import MemoryCache
from dicomdl.storage.sources import Source, look_up

Array = NDArray[Any]
Where = tuple[slice, slice, slice]
PATCH = (64, 128, 128)
PLACES = 40


def body(slices: int) -> Array:
    """A body in air as in a CT: 12 bits with noise, padding outside the field of view."""
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    tissue = np.where(
        (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1,
        60 * np.sin(9 * x) * np.cos(7 * y) + 250 * (x * y > 0.12),
        -1000,
    )
    noise = np.random.default_rng(0).normal(0, 18, (slices, 512, 512)).astype(np.float32)
    values = np.rint(tissue.astype(np.float32) + noise).astype(np.int16)
    values[:, x**2 + y**2 > 1] = -2048
    return values


def places(shape: tuple[int, ...]) -> list[Where]:
    rng = np.random.default_rng(1)
    corners = [
        [int(rng.integers(0, max(1, n - p + 1))) for n, p in zip(shape, PATCH, strict=True)]
        for _ in range(PLACES)
    ]
    return [
        tuple(slice(a, a + p) for a, p in zip(corner, PATCH, strict=True)) for corner in corners
    ]  # type: ignore[misc]


def never() -> Arrays:
    raise AssertionError("this entry is there")


class Race:
    """Patches that all contenders read, and the comparison of their results."""

    def __init__(self, values: Array, scratch: Path) -> None:
        self.values, self.scratch, self.places = values, scratch, places(values.shape)
        self.key = stack_key([], {"benchmark": "1"})

    def reading(self, read: Callable[[Where], Array]) -> Task:
        for where in self.places:
            if not np.array_equal(read(where), self.values[where]):
                raise AssertionError("wrong values")

        def task() -> None:
            for where in self.places:
                read(where)  # one result at a time, as a loader has it

        return task

    def disk(self, name: str, **options: Any) -> DiskCache:
        made = DiskCache(self.scratch / name, **options)
        made.get(self.key, lambda: Arrays(self.values)).part()
        return made

    def ours(self, made: DiskCache | MemoryCache) -> Task:
        return self.reading(lambda where: made.get(self.key, never).part(*where))

    def first_touch(self, made: DiskCache, verified: bool) -> Task:
        """Read as a process that opens the entry for the first time in each round."""
        task = self.ours(made)

        def anew() -> None:
            made._opened.clear()
            made._known.clear()
            if verified:
                made.get(self.key, never)
                made._opened[self.key.digest].verified[:] = True
            task()

        return anew

    def npy(self) -> Task:
        np.save(self.scratch / "floor.npy", self.values)
        stored = np.load(self.scratch / "floor.npy", mmap_mode="r")
        return self.reading(lambda where: np.array(stored[where]))

    def blosc2(self, chunks: tuple[int, int, int], blocks: tuple[int, int, int]) -> Task:
        import blosc2

        parameters = {
            "codec": blosc2.Codec.LZ4,
            "clevel": 5,
            "filters": [blosc2.Filter.SHUFFLE],
            "nthreads": 1,
        }
        path = self.scratch / f"peer-{chunks[1]}.b2nd"
        blosc2.asarray(
            self.values,
            chunks=chunks,
            blocks=blocks,
            cparams=parameters,
            urlpath=str(path),
            mode="w",
        )
        stored = blosc2.open(str(path), mode="r", dparams={"nthreads": 1}, mmap_mode="r")
        return self.reading(lambda where: stored[where])

    def zarr(self) -> Task:
        import zarr

        stored = zarr.create_array(
            self.scratch / "peer.zarr",
            data=self.values,
            chunks=(32, 64, 64),
            compressors=zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        )
        return self.reading(lambda where: stored[where])


def race_patches(values: Array, scratch: Path, repeat: int) -> None:
    one = Race(values, scratch)
    raw, small = one.disk("raw"), one.disk("small", format="blosc2")
    read, network = cachefolder.may_be_mapped, None
    cachefolder.may_be_mapped = lambda folder: False
    network = one.disk("network")
    cachefolder.may_be_mapped = read
    memory = MemoryCache(values.nbytes + 2**20)
    memory.get(one.key, lambda: Arrays(values))
    contenders = [
        Contender("dicomdl disk raw, opened", lambda: one.ours(raw)),
        Contender("floor: np.memmap of an .npy", one.npy),
        Contender("dicomdl disk raw, first touch", lambda: one.first_touch(one.disk("raw"), False)),
        Contender(
            "dicomdl disk raw, first touch, not verified",
            lambda: one.first_touch(one.disk("raw"), True),
        ),
        Contender("dicomdl disk raw, network file system", lambda: one.ours(network)),
        Contender("dicomdl memory", lambda: one.ours(memory)),
        Contender("dicomdl disk blosc2", lambda: one.ours(small)),
        Contender(
            "blosc2, chunks 64^3, blocks 16 x 32 x 32",
            lambda: one.blosc2((64, 64, 64), (16, 32, 32)),
        ),
        Contender(
            "blosc2, chunks 64 x 128 x 128, 16 x 64 x 64",
            lambda: one.blosc2((64, 128, 128), (16, 64, 64)),
        ),
        Contender("zarr, chunks 32 x 64 x 64", one.zarr),
    ]
    race(
        f"patches {' x '.join(map(str, PATCH))} out of {' x '.join(map(str, values.shape))}",
        contenders,
        repeat=repeat,
        units=PLACES,
    )
    sizes = {
        name: sum(file.stat().st_size for file in (scratch / name).glob("*.entry"))
        for name in ("raw", "small")
    }
    print(
        "size / values: "
        + ", ".join(f"{name} {size / values.nbytes:.2f}" for name, size in sizes.items())
        + "\n"
    )


def race_checksums(values: Array, repeat: int) -> None:
    """Checksum 64 MiB in blocks of 64 KiB, as in verification."""
    whole = values.reshape(-1).view(np.uint8)
    blocks = [whole[at : at + 65536] for at in range(0, len(whole), 65536)]

    def over(function: Callable[[Any], object]) -> Task:
        return lambda: [function(block) for block in blocks]

    def xxh3() -> Task:
        import xxhash

        return over(xxhash.xxh3_64_intdigest)

    contenders = [
        Contender(
            "dicomdl (libdeflate's crc32 if it is there)", lambda: over(layout_module.checksum_of())
        ),
        Contender("zlib.crc32", lambda: over(zlib.crc32)),
        Contender("xxhash xxh3_64", xxh3),
        Contender("floor: copy", lambda: over(np.copy)),
    ]
    race(f"checksums of {whole.nbytes / 2**20:.0f} MiB in blocks", contenders, repeat=repeat)


def race_writing(values: Array, scratch: Path, repeat: int) -> None:
    keys = (Key(f"{number:064x}") for number in itertools.count())

    def write(made: DiskCache | MemoryCache) -> Task:
        return lambda: made.get(next(keys), lambda: Arrays(values))

    def plain(sync: bool) -> None:
        with open(scratch / "floor.bin", "wb") as file:
            file.write(memoryview(values).cast("B"))
            file.flush()
            if sync:
                os.fsync(file.fileno())

    limit = 3 * values.nbytes
    contenders = [
        Contender("dicomdl disk raw", lambda: write(DiskCache(scratch / "w1", max_bytes=limit))),
        Contender("floor: write", lambda: functools.partial(plain, False)),
        Contender("write and fsync", lambda: functools.partial(plain, True)),
        Contender(
            "dicomdl disk blosc2",
            lambda: write(DiskCache(scratch / "w2", max_bytes=limit, format="blosc2")),
        ),
        Contender("dicomdl memory", lambda: write(MemoryCache(limit))),
    ]
    race("storing it", contenders, repeat=repeat)


def tell_overhead(scratch: Path) -> None:
    """Overhead of a hit: the look-up, the opening of an entry, and a key of 128 files."""
    files = []
    for number in range(128):
        path = scratch / f"{number}.bin"
        path.write_bytes(b"x" * 1000)
        files.append(str(path))
    made = DiskCache(scratch / "small-entries")
    key = Key("0" * 64)
    made.get(key, lambda: Arrays(np.zeros((1, 4, 4), np.int16)))

    def reopen() -> None:
        made._opened.clear()
        made.get(key, never)

    told = {
        "look-up of an opened entry": lambda: made.get(key, never),
        "opening an entry": reopen,
        "a key of 128 files, asked for again": lambda: stack_key(
            [KeyFile(look_up(Source(str(path))), f"1.2.{path}") for path in files], {"a": "b"}
        ),
    }
    for name, task in told.items():
        task()
        rounds = []
        for _ in range(200):
            start = time.perf_counter()
            task()
            rounds.append(time.perf_counter() - start)
        print(f"  {name:<44}{1e6 * float(np.median(rounds)):>10.1f} us")
    print()


def main() -> None:
    """Run all parts."""
    given = arguments(__doc__, slices=(128, "slices of the CT"))
    values = body(given.slices)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        race_patches(values, scratch, given.repeat)
        race_checksums(values, given.repeat)
        race_writing(values, scratch, given.repeat)
        tell_overhead(scratch)


if __name__ == "__main__":
    main()
