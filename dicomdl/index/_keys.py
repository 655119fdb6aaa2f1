"""Keys of a join: what of the index names an entity, and templates on either side.

The keys of a join are text on both sides, so leading zeros survive. A key is a fact of the frames
(``"SOPInstanceUID"``, ``"stem"``, ``"path.parts[-3]"``), or a template of facts and literal text
(``"ID_{stem}"``). A template with one name that the index lacks splits the cells of the table: that
name is the rest of the cell before the first or after the last separator.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dicomdl.arrays import Mask
from dicomdl.errors import UsageError
from dicomdl.headers.attribute import snake_case
from dicomdl.index._identity import IDENTITY, per_frame, rows_of_stacks
from dicomdl.index.joined import Joined
from dicomdl.index.moves import moved
from dicomdl.index.rows import Generation
from dicomdl.index.schema import TEXT
from dicomdl.index.table import Table, no_such_column

On: TypeAlias = str | Sequence[str] | Mapping[str, str]

# Names of the folders and the file of a path, from its end.
PATH_FACTS: Final = ("stem", "name", "parent", "path.parts[-n]")
# Number of a frame in its file, from 0; blank for the only frame of a file, as in the table.
FRAME_INDEX: Final = "frame_index"
_PARTS: Final = re.compile(r"path\.parts\[-([1-9]\d?)\]")
# A name in braces, and the number of digits to which it is padded with zeros.
_FIELD: Final = re.compile(r"\{([^{}:]+)(?::0(\d{1,2}))?\}")
# The suffix of a file begins with a letter: that of "1.2.840.113" is part of a UID.
_IS_WINDOWS: Final = os.sep == "\\"
_SUFFIX: Final = r"^(.+)\.[A-Za-z][A-Za-z0-9]*$"


@dataclass(frozen=True, slots=True)
class Field:
    """A name in a template, and the number of digits to which zeros pad it (0: as it is)."""

    name: str
    digits: int = 0


@dataclass(frozen=True, slots=True)
class Template:
    """Literal texts and fields, in order."""

    pieces: tuple[str | Field, ...]

    @property
    def names(self) -> list[str]:
        """The names of the fields."""
        return [piece.name for piece in self.pieces if isinstance(piece, Field)]

    def texts(self, columns: Mapping[str, pa.Array]) -> pa.Array:
        """Return the text of each row; null where a field is null.

        `columns` holds an array of text per name.
        """
        parts: list[Any] = []
        for piece in self.pieces:
            if isinstance(piece, str):
                parts.append(pa.scalar(piece, TEXT))
                continue
            column = columns[piece.name]
            parts.append(pc.utf8_lpad(column, piece.digits, "0") if piece.digits else column)
        if len(parts) == 1:
            return parts[0]
        return pc.binary_join_element_wise(*parts, pa.scalar("", TEXT))


def is_public(name: str) -> bool:
    """Whether messages may quote a fact: paths, UIDs and numbers of frames, never an identity."""
    is_path = name in PATH_FACTS[:3] or _PARTS.fullmatch(name) is not None
    return is_path or name.endswith("_uid") or name in ("instance_number", FRAME_INDEX)


def parsed_template(text: str, known: Iterable[str] = ()) -> Template:
    """Return the template of a text; a text without braces, or a known name, is one field."""
    if text in known or "{" not in text:
        return Template((Field(text),))
    pieces: list[str | Field] = []
    end = 0
    for match in _FIELD.finditer(text):
        pieces.append(text[end : match.start()])
        pieces.append(Field(match[1], int(match[2] or 0)))
        end = match.end()
    pieces.append(text[end:])
    literals = [piece for piece in pieces if isinstance(piece, str)]
    if any("{" in literal or "}" in literal for literal in literals):
        raise UsageError(
            f"{text!r} is no template: expected names in braces, such as 'ID_{{stem}}', or "
            "{stem:05} for a number of five digits"
        )
    return Template(tuple(piece for piece in pieces if piece != ""))


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a join: a template of the index and one of the table.

    Attributes
    ----------
    index
        The template of facts of the index, without the part that is split off.
    table
        The template of columns of the table.
    split
        The name of the part that is split off the cells of the table; "" for none.
    separator, tail
        The literals around that part. It is the last part of a cell, or the first.
    is_last
        Whether the part comes last.
    """

    index: Template
    table: Template
    split: str = ""
    separator: str = ""
    tail: str = ""
    is_last: bool = True

    @property
    def may_be_blank(self) -> bool:
        """Whether a blank cell is a key: a file with one frame has no number of it."""
        return self.index.names == [FRAME_INDEX]


def parsed_on(on: On) -> dict[str, str]:
    """Return {template of the index: template of the table}.

    Raises
    ------
    UsageError
        `on` is no name, several names or a mapping of names.
    """
    if isinstance(on, str):
        on = {on: on}
    elif isinstance(on, Sequence):
        on = {name: name for name in on}
    if (
        not isinstance(on, Mapping)
        or not on
        or not all(isinstance(side, str) and side for pair in on.items() for side in pair)
    ):
        raise UsageError(
            "on: expected the name of a key, or a mapping of index to table, such as "
            "{'SOPInstanceUID': 'uid'} or {'stem': 'image_id'}"
        )
    return dict(on)


def columns_named(on: Mapping[str, str]) -> list[str]:
    """Return the names on the side of the table."""
    return [name for right in on.values() for name in parsed_template(right).names]


def parsed_keys(on: Mapping[str, str], facts: "Facts", columns: Sequence[str]) -> tuple[Key, ...]:
    """Return the keys of `on`, of which `columns` are those of the table.

    Raises
    ------
    UsageError
        A name is of neither side.
    """
    keys = tuple(_parsed_key(*pair, facts, columns) for pair in on.items())
    if sum(bool(key.split) for key in keys) > 1:
        raise UsageError("on: only one template may have a name that the index lacks")
    return keys


def _parsed_key(left: str, right: str, facts: "Facts", columns: Sequence[str]) -> Key:
    table = parsed_template(right, columns)
    for name in table.names:
        if name not in columns:
            error = no_such_column(name, columns)
            listed = ", ".join(map(repr, columns[:20])) + (", ..." if len(columns) > 20 else "")
            raise UsageError(f"the table: {error}; it has {listed}", column=name)
    index = parsed_template(left)
    unknown = [name for name in index.names if not facts.has(name)]
    if not unknown:
        return Key(index, table)
    if len(index.pieces) == 1 or len(unknown) > 1:
        error = no_such_column(unknown[0], [*facts.names, *PATH_FACTS, FRAME_INDEX])
        raise UsageError(f"on: the index: {error}", column=unknown[0])
    return _split(left, index, table, unknown[0])


def _split(left: str, index: Template, table: Template, name: str) -> Key:
    """Return the key whose table cells have one more part than the index."""
    where = next(
        number
        for number, piece in enumerate(index.pieces)
        if isinstance(piece, Field) and piece.name == name
    )
    before, after = index.pieces[:where], index.pieces[where + 1 :]
    if before and isinstance(before[-1], str) and len(after) <= 1 and not _has_field(after):
        tail = str(after[0]) if after else ""
        return Key(Template(before[:-1]), table, name, before[-1], tail)
    if after and isinstance(after[0], str) and len(before) <= 1 and not _has_field(before):
        head = str(before[0]) if before else ""
        return Key(Template(after[1:]), table, name, after[0], head, is_last=False)
    raise UsageError(
        f"on: the index lacks {name!r}, which {left!r} splits off: it comes first or last, with a "
        "separator before or after it, such as '{stem}_{subtype}'",
        column=name,
    )


def _has_field(pieces: Sequence[str | Field]) -> bool:
    return any(isinstance(piece, Field) for piece in pieces)


class Facts:
    """Facts of the frames of a generation, as text."""

    def __init__(self, generation: Generation, joined: Joined) -> None:
        self._generation = generation
        self._joined = joined

    @property
    def names(self) -> list[str]:
        """The columns of frames and stacks, and the joined ones."""
        made = self._generation
        return [*made.frames.names, *made.stacks.names, *self._joined.names]

    def column(self, name: str) -> str:
        """Return the column of a name or DICOM keyword."""
        return name if name in self.names else snake_case(name)

    def has(self, name: str) -> bool:
        """Whether a name is a fact of frames."""
        return (
            name in (*PATH_FACTS[:3], FRAME_INDEX)
            or _PARTS.fullmatch(name) is not None
            or self.column(name) in self.names
        )

    def texts(self, name: str) -> pa.Array:
        """Return (frames,) the text of a fact; null where it is absent.

        Raises
        ------
        UsageError
            The column holds fractions, flags or lists, which identify nothing.
        """
        if name in PATH_FACTS[:3] or _PARTS.fullmatch(name):
            return self._parts_of_paths(name)
        if name == FRAME_INDEX:
            return self._numbers_in_files()
        column = self.column(name)
        frames, starts = self._generation.frames, self._generation.stack_starts
        if column in IDENTITY:
            rows = per_frame(frames, rows_of_stacks(frames, column, starts), starts)
            return _as_text(frames, column).take(pa.array(rows))
        if column in frames.names:
            return _as_text(frames, column)
        if column in self._joined:
            table, keys = self._joined.table(column), self._joined.keys(column)
            rows = np.where(keys < 0, len(table) - 1, keys)
            return _as_text(table, column).take(pa.array(rows))
        stacks = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        of_stacks = _as_text(self._generation.stacks, column).take(pa.array(stacks))
        copies = pa.nulls(len(frames) - int(starts[-1]), TEXT)
        return pa.concat_arrays([of_stacks, copies])

    def _numbers_in_files(self) -> pa.Array:
        """Return (frames,) the number of each frame in its file, "" for the only one of a file."""
        texts = pa.array(self._generation.frames.numbers("frame_number") - 1).cast(TEXT)
        return pc.if_else(pa.array(self._is_multi_frame()), texts, pa.scalar("", TEXT))

    def _is_multi_frame(self) -> Mask:
        """Return (frames,) flags of the frames of files with several."""
        frames = self._generation.frames
        files, numbers = frames.numbers("file"), frames.numbers("frame_number")
        last = np.zeros(len(self._generation.files), dtype=np.int64)
        np.maximum.at(last, files, numbers)
        return np.asarray(last[files] > 1)

    def repeats_in_files(self, row_of_frame: npt.NDArray[np.int32]) -> bool:
        """Whether several frames of one file have one row of a table."""
        held = np.flatnonzero(self._is_multi_frame() & (row_of_frame >= 0))
        files = self._generation.frames.numbers("file")[held].astype(np.int64)
        pairs = files * (int(row_of_frame.max(initial=0)) + 1) + row_of_frame[held]
        return len(np.unique(pairs)) < len(held)

    def _parts_of_paths(self, name: str) -> pa.Array:
        match = _PARTS.fullmatch(name)
        from_end = int(match[1]) if match else 2 if name == "parent" else 1
        pattern = rf"^(?:.*/)?(?P<part>[^/]*)(?:/[^/]*){{{from_end - 1}}}$"
        parts = pc.struct_field(pc.extract_regex(self._paths(), pattern), "part")
        if name == "stem":
            parts = pc.replace_substring_regex(parts, _SUFFIX, r"\1")
        files = self._generation.frames.numbers("file")
        return _null_if_blank(parts.cast(TEXT)).take(pa.array(files))

    def _paths(self) -> pa.Array:
        """Return (files,) the paths where the files are now, with / between folders."""
        held = self._generation.files.column("path")
        if self._generation.access.moves:
            held = pa.array(
                [moved(path, self._generation.access.moves) for path in held.to_pylist()], held.type
            )
        try:
            texts = held.cast(TEXT)
        except pa.ArrowInvalid:
            texts = pa.array(
                [path.decode("utf-8", "backslashreplace") for path in held.to_pylist()]
            )
        return pc.replace_substring(texts, "\\", "/") if _IS_WINDOWS else texts


def _as_text(table: Table, name: str) -> pa.Array:
    """Return a column as text, null where it is blank."""
    array = table.column(name)
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if not (pa.types.is_integer(kind) or table.is_text(name)):
        raise UsageError(
            f"on: {name} of the index holds neither text nor whole numbers, which a key is made of",
            column=name,
        )
    if pa.types.is_dictionary(array.type):
        values = _null_if_blank(array.dictionary.cast(TEXT))
        return values.take(array.indices)
    return _null_if_blank(array.cast(TEXT))


def _null_if_blank(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, TEXT), texts)
