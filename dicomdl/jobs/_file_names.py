"""Names of written files: templates with facts of headers, in characters that every system takes.

Values of headers come from strangers. A value never adds a folder, leaves the output folder, hides
a file or names a device of Windows.
"""

import os
import re
import string
from collections.abc import Callable, Mapping
from typing import Any, Final

from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.index.views import Stack

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+=-]+")
# Bytes of one folder or file name, without its suffix; systems take 255.
_LONGEST: Final = 120
_DEVICES: Final = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
UNKNOWN: Final = "unknown"


def output_folder(out: str | os.PathLike[str]) -> str:
    """Return the absolute path of an output folder.

    Raises
    ------
    UsageError
        The name is empty, as that of a shell's variable without a value: it would be the working
        directory, which "." names.
    """
    name = os.fspath(out)
    if not name:
        raise UsageError("the name of the output folder is empty: '.' names the working directory")
    return os.path.abspath(os.path.expanduser(name))


def safe_name(text: str) -> str:
    """Return a text as the name of one folder or file; "" where no safe character is left."""
    name = _UNSAFE.sub("_", text).strip("._ ")[:_LONGEST].rstrip("._ ")
    return f"_{name}" if _DEVICES.fullmatch(name) else name


class NameTemplate:
    """A template of file names such as ``"{patient_id}/{series_number:03}_{modality}"``.

    Parameters
    ----------
    text
        Folders and a name without suffix, with fields in braces. A format behind a colon pads
        numbers.
    known
        Whether a field exists.

    Raises
    ------
    UsageError
        The template is malformed, names no such field, or leads out of the output folder.
    """

    def __init__(self, text: str, known: Callable[[str], bool]) -> None:
        self.text = text
        try:
            parts = [list(string.Formatter().parse(part)) for part in text.split("/")]
        except ValueError as error:
            raise UsageError(
                f"the template {text!r} is malformed: {error}", template=text
            ) from None
        self._parts = parts
        for literal, field, form, conversion in (piece for part in parts for piece in part):
            if conversion or "{" in (form or "") or (field is not None and not known(field)):
                raise UsageError(
                    f"the template {text!r} has no such field: {{{field}}}", template=text
                )
            if literal != _UNSAFE.sub("_", literal):
                raise UsageError(
                    f"the template {text!r} has characters that not every system takes: "
                    f"{literal!r}",
                    template=text,
                )
        if not all(parts) or any(_is_dots(part) for part in parts):
            raise UsageError(
                f"the template {text!r} leads out of the output folder, or has an empty name",
                template=text,
            )

    @property
    def fields(self) -> frozenset[str]:
        """The names of the fields."""
        return frozenset(field for part in self._parts for _, field, _, _ in part if field)

    def name(self, value: Callable[[str], Any]) -> str:
        """Return the name for the values of the fields; unknown values are left out."""
        return "/".join(
            safe_name("".join(_piece(piece, value) for piece in part)) or UNKNOWN
            for part in self._parts
        )


def facts_of(stack: Stack, index: Index, own: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return the values of the fields of a template for a stack: `own` ones, then columns."""
    identities = ("patient_id", "study_instance_uid")

    def value(name: str) -> Any:
        if name in own:
            return own[name]
        if name in identities:
            return getattr(stack, name)
        if name in index.joined:
            return index.joined.cell(name)(stack.rows.start)
        return stack.value(name)

    return value


def _is_dots(part: list[Any]) -> bool:
    return len(part) == 1 and part[0][1] is None and not part[0][0].strip(".")


def _piece(piece: Any, value: Callable[[str], Any]) -> str:
    literal, field, form, _ = piece
    if field is None:
        return str(literal)
    found = value(field)
    if found is None:
        return str(literal)
    try:
        text = format(found, form or "")
    except (ValueError, TypeError):
        text = str(found)
    return f"{literal}{_UNSAFE.sub('_', text)}"
