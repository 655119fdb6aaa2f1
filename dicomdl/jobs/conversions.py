"""What became of the stacks of a conversion: the ledger that `convert` returns."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from dicomdl.index.text import counted
from dicomdl.printing import printable_lines

# Refused images that the repr lists.
_LISTED: Final = 20
Status = Literal["written", "present", "refused"]


@dataclass(frozen=True, slots=True)
class ConvertedImage:
    """What became of one image.

    Attributes
    ----------
    stacks
        The numbers of its stacks in the index.
    series_instance_uid
        Its Series.
    status
        "written", "present" (complete from an earlier conversion), or "refused".
    files
        Its files, below the output folder; the first is the image. Empty where it was refused.
    reason
        Why it was refused, or why the stacks of a group became images of their own; "" otherwise.
    refused_labels
        {file of a SEG or RTSTRUCT: why it was not converted}.
    """

    stacks: tuple[int, ...]
    series_instance_uid: str
    status: Status
    files: tuple[str, ...] = ()
    reason: str = ""
    refused_labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What became of every stack of a conversion; it prints as a summary.

    Attributes
    ----------
    out
        The output folder.
    images
        One entry per image, in the order of the stacks.
    segmentations
        The numbers of stacks that are segmentations: they are labels of their images.
    """

    out: str
    images: tuple[ConvertedImage, ...]
    segmentations: tuple[int, ...] = ()

    @property
    def refused(self) -> list[ConvertedImage]:
        """The images that were not converted, with the reason."""
        return [image for image in self.images if image.status == "refused"]

    @property
    def counts(self) -> dict[str, int]:
        """The number of images per status."""
        return dict(Counter(image.status for image in self.images))

    @property
    def ok(self) -> bool:
        """Whether every image and every label map was converted."""
        return not self.refused and not any(image.refused_labels for image in self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "out": self.out,
            "counts": self.counts,
            "images": [asdict(image) for image in self.images],
            "segmentations": list(self.segmentations),
        }

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in sorted(self.counts.items()))
        lines = [f"Conversion: {counted(len(self.images), 'images')} ({counts}) in {self.out}"]
        if self.segmentations:
            count = counted(len(self.segmentations), "stacks")
            lines.append(f"  {count} of segmentations: label maps beside their images")
        told = [
            *(f"stack {_numbers(i)} refused: {i.reason}" for i in self.refused),
            *(
                f"labels of stack {_numbers(image)} refused: {path}: {reason}"
                for image in self.images
                for path, reason in image.refused_labels.items()
            ),
        ]
        lines += [f"  {line}" for line in told[:_LISTED]]
        if len(told) > _LISTED:
            lines.append(f"  ... and {len(told) - _LISTED} more")
        return printable_lines("\n".join(lines))


def _numbers(image: ConvertedImage) -> str:
    first, last = image.stacks[0], image.stacks[-1]
    return str(first) if first == last else f"{first} to {last}"
