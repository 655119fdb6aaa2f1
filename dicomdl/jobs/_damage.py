"""The lines of a check about what is damaged."""

from collections.abc import Sequence
from typing import Final

_MOST_LISTED: Final = 10


def damage_lines(damaged: Sequence[tuple[str, str]], everything: bool) -> list[str]:
    """Return a line per (name, detail): the first ones with the count of the others, or all."""
    shown = damaged if everything else damaged[:_MOST_LISTED]
    lines = [f"  {name}: {detail}" for name, detail in shown]
    if len(shown) < len(damaged):
        lines.append(f"  ... and {len(damaged) - len(shown):,} more: --all lists them")
    return lines
