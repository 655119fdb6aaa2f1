"""Numbers as text (DS and IS, PS3.5 6.2)."""


def decimal(text: bytes | str) -> float:
    """Return a text as a number; ValueError for any other text.

    Python reads "1_0" as 10. No DS and no IS has an underscore.
    """
    has_underscore = "_" in text if isinstance(text, str) else b"_" in text
    if has_underscore:
        raise ValueError("a number has no underscore")
    return float(text)
