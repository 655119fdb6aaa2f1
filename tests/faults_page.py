"""Write the page of the cases from their tables: python tests/faults_page.py."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from faults.bombs import OUTCOMES
from faults.cases import GROUPS
from faults.trees import TREES

PAGE: Final = Path(__file__).parent.parent / "docs" / "reference" / "faults.md"
HEAD: Final = """# What becomes of odd files

Every row is one hand-made file, folder or bomb of the tests, with the one outcome that it must
have. A test makes and reads each of them, so the tables are what dicomdl does.

| outcome | meaning |
|---|---|
| loads | the scan lists the image; stored and modality values are right |
| loads, flag:NAME | as above; [`Frame.flags`][flags] names what is odd |
| no volume: ERROR | frames have the right values; `read_volume` raises the [error](errors.md) |
| refused: ERROR | the scan lists the image; `read_frame` raises the error |
| problem: REASON | the file is a row of `index.problems` |
| no image | DICOM without an image, counted in the ledger |
| not DICOM | counted in the ledger |

Series of several files (missing slices, time points, tilted ones, ...) are judged by their
[verdict](../concepts/verdicts.md).

[flags]: ../how-to/damaged-files.md#odd-files-are-flagged
"""


def table(heading: str, names: str, rows: Iterable[tuple[str, ...]]) -> str:
    lines = [names, "|" + "---|" * (names.count("|") - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return f"\n## {heading}\n\n" + "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for heading, cases in GROUPS.items():
        parts.append(
            table(heading, "| file | outcome |", ((case.name, case.outcome) for case in cases))
        )
    bombs = (
        (name, reason if reason == "image" else f"problem: {reason}", f"{scan} MiB", f"{read} MiB")
        for name, (reason, scan, read) in OUTCOMES.items()
    )
    parts.append(
        table(
            "Bombs, and the memory that they may cost",
            "| file | outcome | scan, at most | read, at most |",
            bombs,
        )
    )
    parts.append(
        table(
            "Folders, each with one image",
            "| folder | files | images | passed over |",
            ((tree.name, f"{tree.files:,}", str(tree.images), tree.passed_over) for tree in TREES),
        )
    )
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
