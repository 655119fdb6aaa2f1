"""Hostile index folders and cache entries: an audit hook sees no pickle, no program, no import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import index_of
from faults.sizes import SEED, sizes
from phantoms import write_series

pytestmark = pytest.mark.slow
# In a process of its own: an audit hook cannot be removed.
ATTACK = """
import io, json, os, pickle, random, sys, warnings, zipfile
from pathlib import Path
import numpy as np
import dicomdl
from dicomdl.errors import DicomdlError

index_folder, cache_folder, canary, count, seed = sys.argv[1:]
warnings.simplefilter("ignore")

class Evil:
    def __reduce__(self):
        return os.system, (f"touch {canary}",)

def hostile(rng, good):
    npy = io.BytesIO()
    np.save(npy, np.array([Evil()], dtype=object), allow_pickle=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Evil()))
    flipped = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return rng.choice([
        pickle.dumps(Evil()), npy.getvalue(), packed.getvalue(), bytes(flipped),
        good + pickle.dumps(Evil()), good[: rng.randrange(len(good))], rng.randbytes(2000), b"",
    ])

def put(path, raw):
    # Another file in its place: a file that shrinks under a map ends the process by SIGBUS.
    path.with_name("put").write_bytes(raw)
    os.replace(path.with_name("put"), path)

index = dicomdl.open_index(index_folder)
def use():
    found = dicomdl.open_index(index_folder)
    repr(found), repr(found.check())
    dicomdl.read_volume(found.stacks[0])
def cached():
    cache = dicomdl.DiskCache(cache_folder)
    data = dicomdl.VolumeDataset(index, cache=cache)
    data[0]
use(), cached()
targets = [p for folder in (index_folder, cache_folder) for p in Path(folder).rglob("*")
           if p.is_file() and p.suffix != ".lock"]
seen = []
# pyarrow and others import parts of themselves at first use: these have been used above.
FORBIDDEN = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn",
             "marshal.loads", "ctypes.dlopen")
active = False
def watch(event, arguments):
    if active and event in FORBIDDEN:
        seen.append(event)
sys.addaudithook(watch)
outcomes = {}
rng = random.Random(int(seed))
for number in range(int(count)):
    target = rng.choice(targets)
    good = target.read_bytes()
    raw = hostile(rng, good or b"{}")
    put(target, raw)
    active = True
    for step in (use, cached):
        try:
            step()
            word = "fine"
        except DicomdlError as error:
            word = type(error).__name__
        except Exception as error:
            word = f"ESCAPE {type(error).__name__}: {error}"
        outcomes[word] = outcomes.get(word, 0) + 1
    active = False
    put(target, good)
print(json.dumps({"seen": seen, "outcomes": outcomes, "canary": os.path.exists(canary)}))
"""


@sizes("count", smoke=30, full=2000)
def test_nothing_in_an_index_or_a_cache_is_run(
    count: int, tmp_path: Path, record_property: object
) -> None:
    write_series(tmp_path / "dicom", transfer_syntax="1.2.840.10008.1.2.4.80")
    index_of(tmp_path / "dicom")
    arguments = [tmp_path / "dicom.index", tmp_path / "cache", tmp_path / "canary", count, SEED]
    command = [sys.executable, "-c", ATTACK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"DICOMDL_FUZZ_SEED={SEED}: {found}")
    assert (found["seen"], found["canary"]) == ([], False)
    assert not [word for word in found["outcomes"] if word.startswith("ESCAPE")]
