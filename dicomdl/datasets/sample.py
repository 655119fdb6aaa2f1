"""The type of a sample."""

from typing import Any


class Sample(dict[str, Any]):
    """One sample: a dict of tensors, numbers and strings.

    The subclass lets torch's default collate dispatch on it: images of different sizes raise an
    error that says what to do.
    """
