"""The report of a join: what matched, and what did not, on either side."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dicomdl.printing import printable


@dataclass(frozen=True, slots=True)
class JoinReport:
    """What a join matched. It prints as a table.

    Entities are those of the joined selection, at the level of the keys.

    Attributes
    ----------
    table
        The name of the file, or the kind of the table.
    on
        (key of the index, key of the table) per key.
    level
        The level of the keys: "patient", "study", "series", "stack" or "frame".
    columns
        {name: kind} of the joined columns.
    keys, keys_matched, keys_unmatched
        The number of distinct keys of the index; with rows; without rows.
    frames, frames_matched
        The number of frames; with rows.
    frames_without_key
        The frames whose fact is blank.
    rows, rows_matched, rows_unmatched, rows_without_key
        The number of rows of the table; with frames of the index; without them; with a blank key.
    rows_elsewhere
        The matched rows whose frames are not in this selection.
    duplicates_equal
        The rows that repeat a key with equal labels.
    examples, row_examples
        Some keys of the index without rows; the places of some rows without frames.
    left_out
        The columns of the table that the index has by itself.
    hint
        What makes keys differ, where that can be seen; else "".
    """

    table: str
    on: tuple[tuple[str, str], ...]
    level: str
    columns: Mapping[str, str]
    keys: int
    keys_matched: int
    keys_unmatched: int
    frames: int
    frames_matched: int
    frames_without_key: int
    rows: int
    rows_matched: int
    rows_unmatched: int
    rows_without_key: int
    rows_elsewhere: int
    duplicates_equal: int
    examples: tuple[str, ...] = ()
    row_examples: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain values, which JSON takes."""
        return asdict(self) | {"on": [list(pair) for pair in self.on]}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "JoinReport":
        """Return the report that `to_dict` wrote."""
        facts = {field.name: given[field.name] for field in fields(cls)}
        lists = {name: tuple(value) for name, value in facts.items() if isinstance(value, list)}
        return cls(**facts | lists | {"on": tuple(map(tuple, given["on"]))})

    def __repr__(self) -> str:
        on = ", ".join(left if left == right else f"{left} = {right}" for left, right in self.on)
        columns = ", ".join(f"{name} ({kind})" for name, kind in self.columns.items())
        lines = [
            f"Join of {self.table} by {on}, level {self.level}",
            f"  columns  {columns}",
            f"  index    {self.keys_matched:,} of {self.keys:,} keys matched, "
            f"{self.frames_matched:,} of {self.frames:,} frames",
            f"  table    {self.rows_matched:,} of {self.rows:,} rows matched",
        ]
        for count, words, examples in (
            (self.keys_unmatched, "keys without rows", self.examples),
            (self.frames_without_key, "frames without a key", ()),
            (self.rows_unmatched, "rows without frames", self.row_examples),
            (self.rows_without_key, "rows without a key", ()),
            (self.rows_elsewhere, "rows of frames outside of this selection", ()),
            (self.duplicates_equal, "rows that repeat a key with equal labels", ()),
        ):
            if count:
                shown = f": {', '.join(examples)}" if examples else ""
                more = ", ..." if examples and count > len(examples) else ""
                lines.append(f"  {count:,} {words}{shown}{more}")
        if self.left_out:
            lines.append(f"  not joined, the index has them: {', '.join(self.left_out)}")
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(printable(line) for line in lines)
