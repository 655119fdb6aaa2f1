"""Roots that are URLs: prefixes and objects of stores, and tables of URLs.

The listing of a prefix gives the state of every object. A table and a list of URLs give none: such
objects are read at every scan, by one request each.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from dicomdl.errors import StorageError, UsageError
from dicomdl.index.url_tables import TABLE_ENDINGS, holds_urls, urls_in
from dicomdl.storage.archives import OTHER_ENDINGS
from dicomdl.storage.downloads import download
from dicomdl.storage.folders import Walk
from dicomdl.storage.listing import Listing, list_many
from dicomdl.storage.locations import is_url
from dicomdl.storage.objects import (
    declare,
    remember_query,
    require_no_secret,
    without_secrets,
)
from dicomdl.storage.sources import UNKNOWN, State

_UNSEEN: Final[State] = (UNKNOWN, UNKNOWN, UNKNOWN, 0, "")
# No file has a negative device; -1 is that of what is refused.
_OBJECT: Final = -2


def is_table(path: str) -> bool:
    """Whether a root is a table or a list of URLs: by its name, and a file by its content too."""
    if not path.lower().endswith(TABLE_ENDINGS):
        return False
    return is_url(path) or holds_urls(path)


def checked_url(given: str) -> str:
    """Return the location of a URL, without the wildcard at its end and without its query.

    Raises
    ------
    UsageError
        The URL has a password, names an archive that is not read, or no bucket.
    """
    require_no_secret(given)
    shown = remember_query(given)
    if shown.lower().endswith(OTHER_ENDINGS):
        raise UsageError(
            f"{shown!r} is an archive of a kind that is not read: unpack it, or pack it as zip or "
            "tar"
        )
    shown = re.sub(r"/\*{0,2}$", "", shown.rstrip("/"))
    if not urlsplit(shown).netloc:
        raise UsageError(f"{shown!r} names no bucket or host", url=shown)
    return shown


def add_stores(
    roots: Sequence[str], tables: Sequence[str], options: Mapping[str, Any], found: Walk
) -> None:
    """Add the objects of some roots and of tables of URLs to a walk.

    `options` say how the stores are reached that a table names.

    Raises
    ------
    UsageError
        There is nothing at a root.
    StorageError
        A root cannot be listed, or a table cannot be read.
    """
    prefixes, objects = _divided(roots)
    for table in tables:
        more_prefixes, more_objects = _divided_table(table)
        declare([*more_prefixes, *more_objects], options)
        prefixes += more_prefixes
        objects += more_objects
    seen = set(found.paths)
    for url, listing in list_many(prefixes):
        if isinstance(listing, OSError):
            if url in roots:
                raise _not_listed(url, listing)
            found.refuse(os.fsencode(url), "unreadable", f"cannot be listed: {listing.strerror}")
            continue
        _add_listing(listing, found, seen)
    for url in objects:
        _add(os.fsencode(url), _UNSEEN, found, seen)


def _divided(roots: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return prefixes, and URLs of HTTP, which lists nothing."""
    prefixes: list[str] = []
    objects: list[str] = []
    for root in roots:
        (objects if urlsplit(root).scheme in ("http", "https") else prefixes).append(root)
    return prefixes, objects


def _divided_table(table: str) -> tuple[list[str], list[str]]:
    """Return the prefixes of a table, which end in "/" or "*", and its objects."""
    try:
        with download(table) as path:
            urls = urls_in(path)
    except OSError as error:
        raise _not_listed(table, error) from None
    prefixes: list[str] = []
    objects: list[str] = []
    for url in dict.fromkeys(urls):
        full = urljoin(table, url) if is_url(table) and not is_url(url) else url
        if full.endswith(("/", "*")) and urlsplit(full).scheme not in ("http", "https"):
            prefixes.append(checked_url(full))
        else:
            require_no_secret(full)
            objects.append(remember_query(full))
    return prefixes, objects


def _add_listing(listing: Listing, found: Walk, seen: set[bytes]) -> None:
    for path, state in zip(listing.paths, listing.states, strict=True):
        _add(path, state, found, seen)
    found.hidden_folders += listing.hidden_folders
    found.unreadable += listing.unreadable


def _add(path: bytes, state: State, found: Walk, seen: set[bytes]) -> None:
    if path not in seen:
        seen.add(path)
        found.add(path, state, (_OBJECT, len(found.paths)))


def _not_listed(url: str, error: OSError) -> UsageError | StorageError:
    shown = without_secrets(url)
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{shown!r} does not exist: no object has this name or prefix", url=shown)
    return StorageError(f"{shown!r} cannot be read: {error.strerror}", errno=error.errno)
