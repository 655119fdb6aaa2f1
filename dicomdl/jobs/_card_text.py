"""The README.md of a data card: front matter that the Hugging Face Hub reads, and a page."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dicomdl.index.text import counted, format_counts
from dicomdl.jobs._card_facts import Part
from dicomdl.printing import printable

_SIZES: Final = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_LEVELS: Final = ("patients", "series", "stacks", "frames")
_LARGEST: Final = "10M<n<100M"
# A license of Creative Commons by its usual names: "CC BY-NC 4.0", "CC-BY-4.0".
_CREATIVE: Final = re.compile(r"(?i)\s*cc[ -]?by((?:-(?:nc|nd|sa))*)[ -]?([1-4]\.[0-9])\s*")
_KNOWN: Final = frozenset({"apache-2.0", "cc0-1.0", "mit", "other", "unknown"})
Configs = Mapping[str, Mapping[str, str]]


def license_id(license_name: str) -> str:
    """Return the identifier that the Hub has for a license; "other" for one that it does not know.

    "CC BY-NC 4.0" is "cc-by-nc-4.0".
    """
    if found := _CREATIVE.fullmatch(license_name):
        return f"cc-by{found[1].lower()}-{found[2]}"
    name = license_name.strip().lower().replace(" ", "-")
    return name if name in _KNOWN else "other"


def readme(facts: Mapping[str, Any], parts: Sequence[Part], configs: Configs) -> str:
    """Return the text of README.md for the facts of `write_card`."""
    body = [
        f"# {_text(facts['name'])}",
        _text(facts["description"]),
        f"Fingerprint of instances and options: `{facts['fingerprint']}`",
        "## Contents",
        ", ".join(counted(n, nouns) for nouns, n in facts["counts"].items()) + ".",
        _modalities(facts["modalities"]),
    ]
    if facts["labels"]:
        body.append(f"Label objects: {format_counts(facts['labels'])}.")
    if facts["columns"]:
        body.append(f"Columns of joined tables: {_codes(facts['columns'])}.")
    if facts["problems"]:
        body.append(f"Files that could not be read: {format_counts(facts['problems'])}.")
    body += [
        "## Splits",
        _table(
            ["split", *_LEVELS],
            [[part.name, *(f"{part.counts[level]:,}" for level in _LEVELS)] for part in parts],
        ),
        "`stacks/*.csv` have a row per stack of images. Patients are numbers; names, PatientIDs "
        "and dates are not in them.",
        "## Licenses and citations",
        _listed(facts["licenses"]) or "No license is stated.",
        _listed(facts["citations"]) or "No citation is stated.",
        "## How it was made",
        f"dicomdl {facts['dicomdl']}, index format {facts['index_format']}. Options:",
        "```json\n" + json.dumps(facts["options"], indent=1, sort_keys=True) + "\n```",
        "`card.json` has the same facts in Croissant 1.1, with the SHA-256 of each file.",
    ]
    return _front_matter(facts, parts, configs) + "\n" + "\n\n".join(body) + "\n"


def _front_matter(facts: Mapping[str, Any], parts: Sequence[Part], configs: Configs) -> str:
    """Return YAML whose texts are in the quotes of JSON, which are those of YAML, too."""
    ids = sorted({license_id(name) for name in facts["licenses"]}) or ["unknown"]
    lines = ["---", f"pretty_name: {_quoted(facts['name'])}", *_items("license", ids)]
    if "other" in ids:
        lines.append(f"license_name: {_quoted('; '.join(facts['licenses']))}")
    lines += _items("task_categories", facts["task_categories"])
    lines += _items("size_categories", [_size(facts["counts"]["stacks"])])
    lines += _items("tags", facts["tags"])
    lines.append("configs:")
    tables = {part.name: f"stacks/{part.name}.csv" for part in parts}
    for config, files in {"stacks": tables, **configs}.items():
        lines += [f"- config_name: {_quoted(config)}", "  data_files:"]
        for split, path in files.items():
            lines += [f"  - split: {_quoted(split)}", f"    path: {_quoted(path)}"]
    return "\n".join([*lines, "---", ""])


def _items(name: str, values: Sequence[str]) -> list[str]:
    return [f"{name}:", *(f"- {_quoted(value)}" for value in values)] if values else []


def _quoted(text: str) -> str:
    return json.dumps(printable(text))


def _size(stacks: int) -> str:
    return next((name for limit, name in _SIZES if stacks < limit), _LARGEST)


def _modalities(modalities: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ["modality", "stacks", "slices", "verdicts", "size", "spacing in mm"],
        [
            [
                _text(each["modality"]),
                f"{each['stacks']:,}",
                f"{each['slices']:,}",
                format_counts(each["verdicts"]),
                _median(each["size"]),
                _median(each["spacing_mm"]),
            ]
            for each in modalities
        ],
    ) + (
        "\n\nSizes and spacings are medians (slices, rows, columns); `card.json` has the smallest "
        "and largest."
    )


def _median(ranges: Sequence[Sequence[float] | None]) -> str:
    return " x ".join("?" if axis is None else f"{axis[1]:.4g}" for axis in ranges)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _listed(texts: Sequence[str]) -> str:
    return "\n".join(f"- {_text(text)}" for text in texts)


def _codes(texts: Sequence[str]) -> str:
    return ", ".join(f"`{printable(text).replace('`', ' ')}`" for text in texts)


def _text(text: str) -> str:
    """Return a text that is no markup and no HTML of a page."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", printable(text))
