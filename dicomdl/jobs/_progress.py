"""The progress bar of long jobs."""

import warnings
from collections.abc import Iterable
from typing import Any


def progress_bar(steps: Iterable[Any] | None = None, *, shown: bool, **options: Any) -> Any:
    """Return a bar of tqdm, for a notebook or a terminal; a file gets none.

    `steps` and the options are those of ``tqdm.auto.tqdm``.
    """
    with warnings.catch_warnings():
        # In a notebook without ipywidgets, tqdm warns and shows a text bar.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm(steps, disable=None if shown else True, leave=False, **options)
