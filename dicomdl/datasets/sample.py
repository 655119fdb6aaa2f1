"""The types of a sample and of the entries of a bag."""

from typing import Any, Final

# Entries with one row per finding, whose number differs from sample to sample: batches and bags
# hold a list of tensors.
RAGGED: Final = frozenset({"boxes", "box_labels", "points", "points_mm", "point_labels"})


class Sample(dict[str, Any]):
    """One sample: a dict of tensors, numbers and strings.

    The subclass lets torch's default collate dispatch on it: images of different sizes raise an
    error that says what to do.
    """


class Members(list[Any]):
    """The entries of the members of a bag, which `collate` keeps as a list per sample."""
