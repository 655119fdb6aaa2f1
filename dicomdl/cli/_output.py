"""What the commands print: plain text without control characters, in the words of a shell."""

import re
from typing import Any, Final

from dicomdl.printing import printable_lines

FINE: Final = 0
PROBLEMS: Final = 1
WRONG_USE: Final = 2
INTERRUPTED: Final = 130

# Parts of messages that name Python, and what a shell calls them.
_IN_SHELL: Final = (
    (r"dicomdl\.scan\(folder, out=\.\.\.\)", "dicomdl scan FOLDER -o INDEX"),
    (r"dicomdl\.scan\(([^)]*)\)", r"dicomdl scan \1"),
    (r"\bdicomdl\.idc\.columns\(\)", "dicomdl idc --columns"),
    (r"\bdicomdl\.open_index\(([^)]*)\)", r"dicomdl show \1"),
    (r"\ballow_phi=True\b", "--allow-phi"),
    (r"\bworkers=(\d+)", r"--workers \1"),
    (r"\bworkers is (-?\d+)", r"--workers is \1"),
    (r"\bout=(\.\.\.)?", "--out INDEX"),
    (r"\bout is an empty name\b", "--out is an empty name"),
    (r"\bpatient_id='(\w+)'", r"--patient-id \1"),
    (r"\birregular='(\w+)'", r"--irregular \1"),
    (r"\btilt='(\w+)'", r"--tilt \1"),
    (r"\boverwrite=True\b", "--overwrite"),
    (r"\bname=", "--name "),
    (r"\bdtype='(\w+)'", r"--dtype \1"),
    (r"\blabels='(\w+)'", r"--labels \1"),
    (r"\bsliders\b", "--sliders"),
    (r"\bpictures=", "--pictures "),
    (r"\bmove=", "--move OLD NEW"),
    (r"\bTLS\(certificate=, key=\)", "--tls-cert FILE --tls-key FILE"),
    (r"\bwork=", "--work FOLDER"),
    (r"\bmake one with plan\b", "make one with --plan"),
    (r"\b(make) (part \d+/\d+)", r"\1 --\2"),
    (r"\bor part all, and merge then", "or --part all, and --merge then"),
    (r", and merge( then)?$", r", and --merge\1"),
    (r"\bpart is '", "--part is '"),
    (r"\bopen_index\(path, root=\.\.\.\)", "dicomdl scan --move OLD NEW"),
    (r"; trust=True believes all that the index says", ""),
    (r", or open_index\(path, trust=True\)", ""),
    (r"\battributes=(\.\.\.)?", "--attribute KEYWORD"),
    (r",? or `(check|index)\.\w+`", ""),
    (r" \(index\.groups\)", ""),
)


def print_text(text: str, file: Any = None) -> None:
    """Print text in the words of a shell, without control characters.

    Text from files could command the terminal.
    """
    print(printable_lines(in_shell(text)), file=file)


def in_shell(text: str) -> str:
    """Replace names of Python functions and arguments by commands and options."""
    for pattern, replacement in _IN_SHELL:
        text = re.sub(pattern, replacement, text)
    return text


def facts(index: Any) -> dict[str, Any]:
    """Return the summary of an index as plain values for JSON."""
    return {
        "index": index.path,
        "generation": index.generation,
        "counts": index.counts,
        "verdicts": dict(sorted(index.stacks.verdicts().items())),
        "ledger": dict(index.ledger),
        "passed_over": index.manifest.get("passed_over", {}),
        "problems": [
            {"path": p.path, "reason": p.reason, "detail": p.detail} for p in index.problems
        ],
    }
