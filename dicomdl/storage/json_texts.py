"""JSON that lies in files, which may be damaged or of somebody else."""

import json
from typing import Any


def parsed(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    ValueError
        It is no JSON, or its lists and objects nest so deeply that Python does not parse it. The
        latter is a RecursionError of `json.loads`, which handlers of damaged files do not expect.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists or objects nest too deeply") from None
