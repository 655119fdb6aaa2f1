"""Write the page of the command line from the texts of `--help`: python tests/cli_page.py."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
COMMANDS: Final = (
    *(
        "scan",
        "show",
        "check",
        "report",
        "convert",
        "export",
        "prepare",
        "card",
        "idc",
        "fetch",
        "cache",
        "demo",
    ),
)
HEAD: Final = """# Command line

Every command has `--help`. Exit codes: 0 success, 1 done with problems found, 2 wrong use or
failure, 130 interrupted. `--json` prints results for machines; `python -m dicomdl` is the same
command.

```text
dicomdl scan demo -o demo.index     # exit code 1 when files could not be used
dicomdl show demo.index --problems  # which files, and why
# or --csv
dicomdl show demo.index --stacks --where modality=CT --where 'slices>=20'
dicomdl scan demo                   # without -o: an index in the user's cache folder,
dicomdl show demo                   # which the folder's own name finds
dicomdl check demo.index            # what needs a person, and why
dicomdl report demo.index -o report.html  # one page, with pictures of every stack
dicomdl check --pixels demo.index   # compares two decoders; --sample all
# moved data: reads no header again
dicomdl scan --move /data/demo /scratch/demo -o demo.index
```
"""


def help_of(*command: str) -> str:
    """Return what `dicomdl COMMAND --help` prints in 80 columns."""
    ran = subprocess.run(
        [sys.executable, "-m", "dicomdl", *command, "--help"],
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.rstrip("\n")


def page() -> str:
    """Return the whole page."""
    texts = [("dicomdl", help_of())]
    texts += [(f"dicomdl {command}", help_of(command)) for command in COMMANDS]
    return HEAD + "".join(f"\n## {name}\n\n```text\n{text}\n```\n" for name, text in texts)


if __name__ == "__main__":
    PAGE.write_text(page())
