"""Draw the pictures of README and docs from demo data: python tests/pictures.py."""

import io
import tempfile
from pathlib import Path
from typing import Any, Final

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

import dicomdl

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"


def save(figure: Figure, name: str) -> None:
    """Save a figure in 64 colours, which halves its size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    IMAGES.mkdir(exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(64).save(IMAGES / f"{name}.png", optimize=True)


def head(index: dicomdl.Index, data: Any) -> Figure:
    """Return three planes of the first head, with its lesion."""
    volume = dicomdl.read_volume(index.select(modality="CT", verdict="regular").stacks[0])
    return volume.plot("ct.brain", mask=data.labels(volume.stack))


def main() -> None:
    """Draw all pictures."""
    plt.switch_backend("Agg")
    with tempfile.TemporaryDirectory() as folder:
        data = dicomdl.demo_data(Path(folder) / "demo")
        index = dicomdl.scan(data, Path(folder) / "demo.index", progress=False)
        save(head(index, data), "head")


if __name__ == "__main__":
    main()
