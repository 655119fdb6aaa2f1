"""The page of a report: one HTML file with its styles, its script, its data and its pictures.

Text from files is escaped by Jinja2 in HTML, and by JSON without ``<`` in data. The policy of the
page lets one script run, by its hash: nothing else runs even if an escape were forgotten.
"""

import base64
import functools
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any, Final

from dicomdl.extras import import_extra

_ESCAPES: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
_ALARMING: Final = frozenset({"missing_slices", "uneven_spacing", "duplicates"})


def require_jinja() -> None:
    """Raise MissingExtra unless Jinja2 is installed."""
    import_extra("jinja2", "report()", "report")


def rendered(facts: Mapping[str, Any], data: Any, sheets: Mapping[str, str]) -> str:
    """Return the page.

    Parameters
    ----------
    facts
        The variables of the template.
    data
        The stacks, as plain values for JSON.
    sheets
        {id: base64 of a WebP file}.
    """
    jinja2 = import_extra("jinja2", "report()", "report")
    markup = import_extra("markupsafe", "report()", "report").Markup
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False
    )
    environment.filters |= {"size": size, "duration": duration, "words": words, "kind": kind}
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text: str = environment.from_string(_file("page.html")).render(
        **facts,
        css=markup(_file("page.css")),
        script=markup(script),
        script_hash=markup(digest),
        data=markup(as_json(data)),
        sheets=[{"id": name, "text": markup(held)} for name, held in sheets.items() if held],
    )
    return text


def as_json(data: Any) -> str:
    """Return JSON that may stand in a script element: ASCII without ``<``, ``>`` and ``&``."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


# Small: three files of the package.
@functools.lru_cache(maxsize=4)
def _file(name: str) -> str:
    return importlib.resources.files("dicomdl.jobs.report").joinpath(name).read_text("utf-8")


def size(count: float) -> str:
    """Return bytes for people: "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if count < 999.5 else f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def duration(seconds: float) -> str:
    """Return seconds for people: "40 ms", "12 s", "3 min", "2 h"."""
    if seconds < 0.9995:
        return f"{max(seconds * 1000, 1):.0f} ms"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def words(name: str) -> str:
    """Return a word of the index for people: "missing slices"."""
    return name.replace("_", " ")


def kind(verdict: str) -> str:
    """Return the class of the tag of a verdict."""
    return "warn" if verdict in _ALARMING else "good" if verdict != "no_geometry" else ""
