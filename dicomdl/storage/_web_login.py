"""Credentials of DICOMweb servers: from the environment, or from a file that only its owner reads.

A credential goes into the header of a request, and nowhere else: not into indexes, messages, logs
and pickles. Worker processes inherit the environment and read the same file.
"""

import base64
import os
import re
from dataclasses import dataclass, field
from typing import Any, Final

from dicomdl.errors import UsageError
from dicomdl.storage.json_texts import parsed
from dicomdl.storage.publishing import read_own

TOKEN: Final = "DICOMDL_DICOMWEB_TOKEN"
USER: Final = "DICOMDL_DICOMWEB_USER"
PASSWORD: Final = "DICOMDL_DICOMWEB_PASSWORD"
# A JSON file, {"https://host:port": {"token": ...} or {"user": ..., "password": ...}}.
FILE: Final = "DICOMDL_DICOMWEB_CREDENTIALS"
_MOST_FILE_BYTES: Final = 2**20
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class Login:
    """What tells a server who asks.

    Attributes
    ----------
    authorization
        The value of the header Authorization; "" without credentials. Not shown by `repr`.
    """

    authorization: str = field(default="", repr=False)

    def __reduce__(self) -> Any:
        raise TypeError("credentials are not pickled: set them in the environment")

    @classmethod
    def bearer(cls, token: str) -> "Login":
        """Return the login of a bearer token (RFC 6750)."""
        if not _PRINTABLE.fullmatch(token) or " " in token:
            raise UsageError("the token of the DICOMweb server has spaces or control characters")
        return cls(f"Bearer {token}")

    @classmethod
    def basic(cls, user: str, password: str) -> "Login":
        """Return the login of a user name and a password (RFC 7617)."""
        if ":" in user:
            raise UsageError("the user name of the DICOMweb server has a colon (RFC 7617)")
        coded = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        return cls(f"Basic {coded}")


def login_of(origin: str) -> Login:
    """Return the credentials for a server, such as "https://host:8443".

    An entry of the file comes first, then the variables of the environment, which hold for every
    server that this process asks.

    Raises
    ------
    UsageError
        The file or a variable is malformed.
    StorageError
        Others than its owner can read the file, or it cannot be read.
    """
    entry = _entry(origin)
    token = entry.get("token") or os.environ.get(TOKEN, "")
    user, password = entry.get("user", ""), entry.get("password", "")
    if "token" in entry or "user" not in entry:
        if token:
            return Login.bearer(token)
        user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
    return Login.basic(user, password) if user else Login()


def _entry(origin: str) -> dict[str, str]:
    """Return what the file says about a server; {} without one."""
    path = os.environ.get(FILE, "")
    if not path:
        return {}
    raw = read_own(os.path.abspath(os.path.expanduser(path)), "file of passwords", _MOST_FILE_BYTES)
    try:
        servers = parsed(raw)
        entry = servers.get(origin, {})
        is_sound = all(isinstance(each, str) for each in entry.values())
    except (ValueError, AttributeError):
        is_sound = False
    if not is_sound:
        # The text of the file is not quoted.
        raise UsageError(
            f"{FILE} names a file that is not as expected: JSON with one object per server, "
            '{"https://host": {"token": "..."}} or {"user": "...", "password": "..."}'
        ) from None
    return dict(entry)
