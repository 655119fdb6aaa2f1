"""Recipes that come with dicomdl, by name.

They lie in ``configs/recipes`` of the repository, and beside this file in an installed package.
"""

import difflib
import os
from collections.abc import Iterator
from typing import Final

from dicomdl.errors import UsageError

_ENDINGS: Final = (".yaml", ".yml")
_HERE: Final = os.path.dirname(os.path.abspath(__file__))
_INSTALLED: Final = os.path.join(_HERE, "shipped")
_REPOSITORY: Final = os.path.join(_HERE, *[os.pardir] * 3, "configs", "recipes")


def shipped_recipes() -> dict[str, str]:
    """Return {name: path} of the recipes that come with dicomdl, by name."""
    return dict(sorted(_found()))


def recipe_path(given: str) -> str:
    """Return the path of a recipe: of a file, or of one that comes with dicomdl.

    Raises
    ------
    UsageError
        There is no such file, and no such name.
    """
    path = os.path.abspath(os.path.expanduser(given))
    if os.path.isfile(path):
        return path
    shipped = shipped_recipes()
    if given in shipped:
        return shipped[given]
    near = difflib.get_close_matches(given, shipped, n=1, cutoff=0.4)
    advice = f"did you mean {near[0]!r}?" if near else f"those are {', '.join(shipped)}"
    raise UsageError(
        f"there is no recipe {given!r}, neither a file nor a name that comes with dicomdl: {advice}"
    )


def _found() -> Iterator[tuple[str, str]]:
    for folder in (_INSTALLED, os.path.normpath(_REPOSITORY)):
        if os.path.isdir(folder):
            for name in os.listdir(folder):
                stem, ending = os.path.splitext(name)
                if ending in _ENDINGS:
                    yield stem, os.path.join(folder, name)
            return
