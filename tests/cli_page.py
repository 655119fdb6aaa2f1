"""Write the page of the command line from the texts of `--help`: python tests/cli_page.py."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
COMMANDS: Final = ("scan", "show", "check", "cache", "demo")
HEAD: Final = """# Command line

Every command has `--help`. Exit codes: 0 success, 1 done with problems found, 2 wrong use or
failure, 130 interrupted. `--json` prints results for machines; `python -m dicomdl` is the same
command.

```text
dicomdl scan data/chest -o chest.index     # exit code 1 when files could not be used
dicomdl show chest.index --problems        # which files, and why
dicomdl show chest.index --stacks --where modality=CT --where 'slices>=20'  # or --csv
dicomdl scan data/chest                    # without -o, in the user's cache folder:
dicomdl show data/chest                    # the folder's own name finds its index
dicomdl check chest.index                  # what needs a person, and why
dicomdl check --pixels chest.index         # compares two decoders; --sample all
dicomdl scan --move /data/chest /scratch/chest -o chest.index  # the data were moved:
                                           # reads no header again
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
