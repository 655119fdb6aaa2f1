"""Draw the pictures of README and docs: python tests/pictures.py.

Two are those of `dicomdl demo`, one is a volume of the demo's data with its label, and one is a
screenshot of a report, by Chromium.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import matplotlib.pyplot as plt
from PIL import Image

import dicomdl
from dicomdl.cli.main import main as command

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"
COLOURS: Final = 128


def keep(picture: Path, width: int, method: Image.Quantize = Image.Quantize.MAXCOVERAGE) -> None:
    """Put a picture into the docs, in few colours and up to a width, so that it is small."""
    image = Image.open(picture).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.LANCZOS)
    IMAGES.mkdir(exist_ok=True)
    # The colours of a legend are few pixels: the median cut would lose them.
    image.quantize(COLOURS, method).save(IMAGES / picture.name, optimize=True)


def draw_head(data: Any, folder: Path) -> None:
    """Draw three planes of the first head, with its lesion."""
    index = dicomdl.scan(data, folder / "head.index", progress=False)
    volume = dicomdl.read_volume(index.select(modality="CT", verdict="regular").stacks[0])
    volume.plot("ct.brain", labels="SEG").savefig(folder / "head.png", dpi=110)


def draw_report(data: Any, folder: Path) -> None:
    """Draw the cards of a report of the demo's data, as Chromium shows them."""
    index = dicomdl.scan(data, folder / "demo.index", progress=False)
    page = index.report(pictures=96, progress=False).html
    others = ".head, nav, section:not(#stacks), footer { display: none }"
    others += ".tools { position: static }"
    (folder / "report.html").write_text(page.replace("</style>", f"{others}</style>", 1))
    browser = ["chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars"]
    window = ["--window-size=1240,830", "--virtual-time-budget=4000"]
    shot = f"--screenshot={folder / 'report.png'}"
    command = [*browser, *window, shot, f"file://{folder / 'report.html'}"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    """Draw all pictures."""
    plt.switch_backend("Agg")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert command(["demo", "--out", name]) == 0
        draw_head(dicomdl.demo_data(folder / "data"), folder)
        draw_report(dicomdl.demo_data(folder / "all"), folder)
        keep(folder / "report.png", 1000, Image.Quantize.MEDIANCUT)
        for picture in ("repairs.png", "planes.png", "head.png"):
            keep(folder / picture, 1000)


if __name__ == "__main__":
    main()
