"""Problems of an index: the files that could not be used."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from dicomdl.errors import position_in, rows_of_slice
from dicomdl.index.overview import SHOWN_PROBLEMS
from dicomdl.index.rows import Generation
from dicomdl.index.text import Problem, counted, escaped, html_table
from dicomdl.printing import printable

# Instances that an archive promised to a fetch, and did not deliver.
NOT_DELIVERED: Final = "not_delivered"


class Problems(Sequence[Problem]):
    """The problems of an index, a sequence of `Problem` that reads the table on access."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __len__(self) -> int:
        return len(self._generation.problems)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in rows_of_slice(number, len(self), "problem")]
        number = position_in(number, len(self), "problem")
        table = self._generation.problems
        path = self._generation.path(
            self._generation.files.value("path", table.value("file", number))
        )
        return Problem(path, table.value("reason", number), table.value("detail", number))

    def reasons(self) -> Counter[str]:
        """Count the problems per reason, the most frequent first."""
        codes, values = self._generation.problems.codes("reason")
        return Counter(dict(Counter(str(values[code]) for code in codes.tolist()).most_common()))

    def __repr__(self) -> str:
        shown = "\n".join(
            f"{printable(f'{p.reason:<20} {p.path}')}\n{'':<20} {printable(p.detail)}"
            for p in self[:SHOWN_PROBLEMS]
        )
        more = f"\n... and {len(self) - SHOWN_PROBLEMS} more" if len(self) > SHOWN_PROBLEMS else ""
        return f"{counted(len(self), 'problems')}\n{shown}{more}" if len(self) else "no problems"

    def _repr_html_(self) -> str:
        if not len(self):
            return "<p>no problems</p>"
        rows = [[p.reason, p.path, p.detail] for p in self[:SHOWN_PROBLEMS]]
        more = (
            f"<p>... and {len(self) - SHOWN_PROBLEMS:,} more</p>"
            if len(self) > SHOWN_PROBLEMS
            else ""
        )
        head = ", ".join(f"{n:,} {reason}" for reason, n in self.reasons().items())
        table = html_table(["reason", "path", "detail"], rows)
        title = f"<b>{counted(len(self), 'problems')}</b>: {escaped(head)}"
        return f"<div><p>{title}</p>{table}{more}</div>"
