"""Text that a terminal, a notebook or a log may show, whatever files and names hold.

Text from files, names of files and of the columns of joined tables may hold escape sequences that
command a terminal (ESC, and CSI in one character of C1), marks that reverse what is read
(U+202E), line breaks that forge a line of a log, and bytes that are not UTF-8. All that is printed
passes one of these functions: reprs, tables, errors, warnings, captions, and what commands print.
"""


def printable(text: str) -> str:
    """Replace the characters of a text that could command a terminal.

    These are escape sequences, line breaks, marks of direction, and bytes that are not UTF-8.
    """
    if text.isascii() and text.isprintable():
        return text
    # Path bytes that are not text are surrogates (\udc..), which become escapes.
    readable = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in readable)


def printable_lines(text: str) -> str:
    """Make every line of a text printable; line breaks stay."""
    if text.isascii() and text.isprintable():
        return text
    return "\n".join(map(printable, text.split("\n")))
