"""Windows by name, from presets.toml."""

import difflib
import functools
import importlib.resources
import tomllib

from dicomdl.errors import UsageError
from dicomdl.values.maps import Window


@functools.cache
def _presets() -> dict[str, Window]:
    text = importlib.resources.files("dicomdl.values").joinpath("presets.toml").read_text("utf-8")
    return {
        f"{modality}.{word}": Window(entry["center"], entry["width"], name=f"{modality}.{word}")
        for modality, words in tomllib.loads(text).items()
        for word, entry in words.items()
    }


def presets() -> dict[str, Window]:
    """Every named window; presets.toml says where each comes from. A new dict each time."""
    return dict(_presets())


def preset(name: str) -> Window:
    """The window called `name`, such as ``"ct.lung"``.

    UsageError with near names (attribute `near`) when there is none.
    """
    known = _presets()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3)
    near += [full for full in known if full.partition(".")[2] == name and full not in near]
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise UsageError(f"no window preset {name!r}: {hint}", near=tuple(near))
