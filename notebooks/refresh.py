"""Run the notebooks and store their outputs: python notebooks/refresh.py [NAME ...].

Outputs are stored so that a notebook can be read without running it. They are small (pictures are
JPEG) and the same on every machine: names of temporary folders and of the folders of packages are
removed, and DICOMDL_CORPUS is unset, which keeps pictures of other people's data out.
A digest of the sources shows when outputs are older than the code (tests/test_notebooks.py).
"""

import base64
import hashlib
import io
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
# Folders of one machine: the working folder of a notebook, and where packages are installed.
MACHINE = re.compile(r"(?:/[^\s'\"<>,:]*)?/(?:tmp[a-z0-9_]{8}|site-packages)/")

QUALITY = 75


def digest(notebook: Any) -> str:
    """Return a digest of the cells without their outputs."""
    cells = [[cell["cell_type"], cell["source"]] for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def refresh(path: Path) -> None:
    """Run one notebook, and store it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    before = os.times()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(HERE)}}).execute()
    used = os.times()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [made for output in cell.outputs for made in stored(output)]
    notebook.metadata["dicomdl"] = {"sources": digest(notebook)}
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)
    cpu_s = sum(used[2:4]) - sum(before[2:4])
    print(f"{path.name}: {cpu_s:.0f} s of CPU, {path.stat().st_size / 1000:.0f} kB")


def stored(output: Any) -> list[Any]:
    """Return an output as it is stored; warnings of one run are not."""
    if output.output_type == "stream":
        output.text = shortened(output.text)
        return [] if output.name == "stderr" else [output]
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data:
        return []
    for kind in list(data):
        if kind == "image/png":
            data["image/jpeg"] = smaller(data.pop(kind))
            data["text/plain"] = ""
        else:
            data[kind] = shortened(data[kind])
    if "text/html" in data:
        data["text/plain"] = ""
    return [output]


def shortened(text: str) -> str:
    """Remove the folders of this machine from a text."""
    return MACHINE.sub("", text)


def smaller(png: str) -> str:
    """Return a picture as JPEG."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    made = io.BytesIO()
    picture.save(made, format="jpeg", quality=QUALITY, optimize=True)
    return base64.b64encode(made.getvalue()).decode()


def main(names: list[str]) -> None:
    """Refresh some notebooks, by default all."""
    os.environ.pop("DICOMDL_CORPUS", None)
    start = time.perf_counter()
    for path in [HERE / name for name in names] or sorted(HERE.glob("*.ipynb")):
        refresh(path)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
