"""Presets: windows by name, from presets.toml, which states the source of each."""

import difflib
import functools
import importlib.resources
import tomllib
from typing import Final

from dicomdl.errors import UsageError
from dicomdl.values.windows import Window


@functools.cache
def _presets() -> dict[str, Window]:
    text = importlib.resources.files("dicomdl.values").joinpath("presets.toml").read_text("utf-8")
    return {
        f"{modality}.{word}": Window(entry["center"], entry["width"], name=f"{modality}.{word}")
        for modality, words in tomllib.loads(text).items()
        for word, entry in words.items()
    }


# The DX module, which MG shares, fixes Rescale Type to US, unspecified (PS3.3 C.8.11.3); CR and US
# state no units; MR has no absolute scale.
_WITHOUT_SCALE: Final = frozenset({"cr", "dx", "io", "mg", "mr", "px", "rf", "rg", "us", "xa"})


def presets() -> dict[str, Window]:
    """Return every named window, in a new dict.

    Returns
    -------
    dict
        Name, such as "ct.lung", to `Window`.

    Examples
    --------
    >>> import dicomdl
    >>> len(dicomdl.presets())
    18
    """
    return dict(_presets())


def preset(name: str) -> Window:
    """Return a window by its name.

    Parameters
    ----------
    name
        The name of a preset, such as "ct.lung".

    Returns
    -------
    Window
        The window, with this name.

    Raises
    ------
    UsageError
        There is no such preset; attribute `near`, the nearest names.

    Examples
    --------
    >>> import dicomdl
    >>> window = dicomdl.preset("ct.lung")
    >>> window.center, window.width
    (-600.0, 1500.0)
    """
    known = _presets()
    if name in known:
        return known[name]
    modality = name.partition(".")[0].lower()
    if modality in _WITHOUT_SCALE:
        raise UsageError(
            f"no window preset {name!r}: values of {modality.upper()} have no units that compare "
            "between devices; expected 'auto' or 'file', the window of the file, or Percentile",
            near=(),
        )
    near = difflib.get_close_matches(name, known, n=3)
    near += [full for full in known if full.partition(".")[2] == name and full not in near]
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise UsageError(f"no window preset {name!r}: {hint}", near=tuple(near))
