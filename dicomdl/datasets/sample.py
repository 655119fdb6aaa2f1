"""datasets.sample"""

from typing import Any


class Sample(dict[str, Any]):
    """One sample: a dict.

    A type of its own, so that the default collate can say what to do about sizes.
    """
