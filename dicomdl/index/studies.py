"""Series and Study: views of stacks for people."""

from collections.abc import Sequence
from dataclasses import dataclass

from dicomdl.index.text import counted
from dicomdl.index.views import Stacks
from dicomdl.printing import printable


@dataclass(frozen=True)
class Series:
    """One Series and its stacks; two patients or studies with one UID are two Series.

    Attributes
    ----------
    stacks
        Its stacks, in order.
    """

    stacks: Stacks

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID."""
        return str(self.stacks[0].series_instance_uid)

    @property
    def series_number(self) -> int | None:
        """Series Number (0020,0011) of the first stack; None where it is absent."""
        number: int | None = self.stacks[0].value("series_number")
        return number

    @property
    def modality(self) -> str:
        """Modality (0008,0060) of the first stack."""
        return str(self.stacks[0].modality)

    @property
    def description(self) -> str:
        """Series Description (0008,103E) of the first stack."""
        return str(self.stacks[0].value("series_description"))

    def __repr__(self) -> str:
        number = "?" if self.series_number is None else self.series_number
        uid = self.series_instance_uid or "(no UID)"
        return printable(
            f"Series({self.modality or '?'}, {number} {self.description!r}, "
            f"{counted(len(self.stacks), 'stacks')}, {uid})"
        )


@dataclass(frozen=True)
class Study:
    """One Study and its Series.

    Attributes
    ----------
    series
        Its Series, in order.
    """

    series: Sequence[Series]

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID."""
        return str(self.series[0].stacks[0].study_instance_uid)

    def __repr__(self) -> str:
        modalities = " ".join(sorted({each.modality or "?" for each in self.series}))
        uid = self.study_instance_uid or "(no UID)"
        return printable(f"Study({modalities}, {len(self.series)} series, {uid})")
