"""`dicomdl demo`: every step, from files to batches, on data that it writes."""

import argparse
import json
import os
import time
from typing import Any

from dicomdl.cli._output import FINE, facts, print_text


def add(commands: Any) -> None:
    """Add the command to the parser."""
    demo = commands.add_parser(
        "demo",
        help="run every step, from files to batches, on a made-up head and on the DICOM files that "
        "pydicom ships",
    )
    demo.add_argument(
        "-o",
        "--out",
        metavar="FOLDER",
        default="dicomdl-demo",
        help="folder for the data, the index and the pictures (default: %(default)s)",
    )
    demo.add_argument("--json", action="store_true", help="print the result as JSON")
    demo.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run the demo: data, a scan, volumes, labels, repairs, epochs, pictures."""
    say = _discard if given.json else print_text
    start = time.perf_counter()
    from dicomdl.cli._demo_steps import Demo, import_heavy, one_thread

    import_heavy()
    imports_s = time.perf_counter() - start
    say(f"imports: {imports_s:.1f} s (torch, SimpleITK, matplotlib, ...), in no time below\n")
    before = time.process_time()
    demo = Demo(os.path.abspath(given.out), say)
    steps = (
        demo.data,
        demo.scan,
        demo.volumes,
        demo.labels,
        demo.repairs,
        demo.epochs,
        demo.pictures,
    )
    with one_thread():
        result = {step.__name__: step(number) for number, step in enumerate(steps, 1)}
    cpu_s = time.process_time() - before
    say(f"all steps: {cpu_s:.1f} s of CPU\nnext: dicomdl scan YOUR_FOLDER -o YOUR.index")
    if given.json:
        cost = {"imports_s": round(imports_s, 2), "cpu_s": round(cpu_s, 2)}
        print(json.dumps(facts(demo.index) | result | cost, indent=1))
    return FINE


def _discard(text: str) -> None:
    del text
