"""The result of a report: the page, what was found, and how a notebook shows it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dicomdl.index.audits import Audit
from dicomdl.index.text import counted, escaped, format_counts
from dicomdl.jobs.report import page
from dicomdl.printing import printable

# Bytes up to which a notebook shows the page itself.
_INLINE_BYTES: Final = 6_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A page about an index; a notebook shows it inline.

    Attributes
    ----------
    path
        The file; None where none was asked for.
    stacks
        The number of stacks.
    drawn
        The number of stacks with a picture.
    undrawn
        {number of a stack: why it has no picture}.
    needing
        The numbers of the stacks that need a person.
    problems
        The number of files that could not be used.
    audit
        What the parts of the split share; None without a split.
    compared
        The number of stacks in both indexes, changed, only here, and only there; None without
        another index.
    """

    path: str | None
    stacks: int
    drawn: int
    undrawn: Mapping[int, str]
    needing: tuple[int, ...]
    problems: int
    audit: Audit | None
    compared: Mapping[str, int] | None
    _page: str = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether there are stacks, and no stack, file, leak or missing picture needs a person."""
        is_apart = self.audit is None or self.audit.ok
        return (
            bool(self.stacks) and is_apart and not (self.problems or self.needing or self.undrawn)
        )

    @property
    def html(self) -> str:
        """The page."""
        return self._page

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the page."""
        return {
            "path": self.path,
            "ok": self.ok,
            "stacks": self.stacks,
            "drawn": self.drawn,
            "bytes": len(self._page.encode()),
            "needs_person": list(self.needing),
            "problems": self.problems,
            "undrawn": {str(number): reason for number, reason in self.undrawn.items()},
            "leaks": None if self.audit is None else len(self.audit),
            "compared": None if self.compared is None else dict(self.compared),
        }

    def __repr__(self) -> str:
        pictures = f"{self.drawn:,} with a picture"
        if not (self.drawn or self.undrawn):
            pictures = "without pictures"
        lines = [
            f"Report: {counted(self.stacks, 'stacks')}, {pictures}, "
            f"{page.size(len(self._page.encode()))}",
            f"  {len(self.needing):,} of {needing_words(len(self.needing), self.stacks)}, "
            f"{counted(self.problems, 'files')} could not be used",
        ]
        if self.audit is not None:
            words = "share nothing" if self.audit.ok else counted(len(self.audit), "leaks")
            lines.append(f"  parts of the split: {words}")
        if self.compared is not None:
            lines.append(f"  compared: {format_counts(self.compared) or 'no stack'}")
        reasons = Counter(reason.partition(":")[0] for reason in self.undrawn.values())
        lines += [f"  no picture: {n:,} by {reason}" for reason, n in reasons.most_common(5)]
        return "\n".join(map(printable, [*lines, f"  in {self.path}"] if self.path else lines))

    def _repr_html_(self) -> str:
        if len(self._page) > _INLINE_BYTES:
            where = f"in <code>{escaped(self.path)}</code>" if self.path else "in report.html"
            return (
                f"<pre>{escaped(repr(self))}</pre><p>The page has "
                f"{page.size(len(self._page))}, too much for a notebook: it is {where}.</p>"
            )
        return (
            '<iframe sandbox="allow-scripts" title="Report" style="width:100%;height:720px;'
            f'border:1px solid #8888" srcdoc="{escaped_attribute(self._page)}"></iframe>'
        )


def needing_words(count: int, of: int) -> str:
    """Return the words behind the number of stacks that need a person."""
    return f"{counted(of, 'stacks')} {'needs' if count == 1 else 'need'} a person"


def escaped_attribute(text: str) -> str:
    """Escape a page for an attribute in double quotes."""
    return text.replace("&", "&amp;").replace('"', "&quot;")
