"""How stores are reached, and the parts of URLs that are secrets.

Credentials come from the environment, which every worker process inherits. The options here are no
secrets, so that an index stores them. The query of a URL may be a signature: it stays in the memory
of the process that was given the URL.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from dicomdl.errors import UsageError

# Schemes of users, and those of obstore.
NATIVE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gs"),
    **dict.fromkeys(("az", "azure", "adl"), "az"),
    **dict.fromkeys(("abfs", "abfss"), "abfss"),
}
HTTP: Final = ("http", "https")
_KNOWN: Final[Mapping[str, type]] = {
    "skip_signature": bool,
    "endpoint": str,
    "region": str,
    "request_payer": bool,
    "virtual_hosted_style_request": bool,
    "account_name": str,
}
# By scheme of obstore, what it calls the options that it has. Options of others are left out: one
# scan may have roots in several stores.
_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "s3": {name: name for name in _KNOWN if name != "account_name"},
    "gs": {"skip_signature": "skip_signature", "endpoint": "base_url"},
    "az": {name: name for name in ("skip_signature", "endpoint", "account_name")},
}
_SECRET: Final = re.compile(r"key|secret|token|password|sas|credential", re.IGNORECASE)


@dataclass
class _Given:
    """What this process was told: options by bucket, queries by URL."""

    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)


_given: Final = _Given()


def checked_options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `storage_options` as they are stored with an index.

    Raises
    ------
    UsageError
        An option is unknown, of another type, or a credential.
    """
    for name, value in (given or {}).items():
        if name not in _KNOWN:
            cure = f"expected {', '.join(_KNOWN)}"
            if _SECRET.search(str(name)):
                cure = (
                    "credentials are not stored with an index: set them in the environment, as "
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, "
                    "or AZURE_STORAGE_ACCOUNT_KEY"
                )
            raise UsageError(f"storage_options has {name!r}: {cure}")
        kind = _KNOWN[name]
        if type(value) is not kind:
            raise UsageError(
                f"storage_options[{name!r}] is a {type(value).__name__}, expected {kind.__name__}"
            )
    options = dict(given or {})
    if "endpoint" in options:
        require_no_secret(options["endpoint"])
    return options


def require_no_secret(url: str) -> None:
    """Raise UsageError for a URL with a user name or password in it."""
    if "@" in urlsplit(url).netloc and urlsplit(url).scheme not in ("abfs", "abfss"):
        raise UsageError(
            f"{without_secrets(url)!r} was given with a user name or password: set credentials in "
            "the environment instead"
        )


def without_secrets(url: str) -> str:
    """Return a URL without query, fragment, user name and password."""
    parts = urlsplit(url)
    host = parts.netloc
    if parts.scheme not in ("abfs", "abfss"):
        host = host.rpartition("@")[2]
    if parts.scheme in HTTP:
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    # "?" and "#" may be part of a key.
    return f"{parts.scheme}://{host}{url[len(parts.scheme) + 3 + len(parts.netloc) :]}"


def bucket_of(url: str) -> str:
    """Return scheme and bucket, or scheme and host."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0]}"


def remember_query(url: str) -> str:
    """Return an HTTP URL without its query, which this process keeps for reading."""
    shown = without_secrets(url)
    if urlsplit(url).scheme in HTTP:
        keep_query(shown, urlsplit(url).query)
    return shown


def keep_query(url: str, query: str) -> None:
    """Keep the query of a URL for reading; "" keeps none."""
    if query:
        _given.queries[url] = query


def query_of(url: str) -> str:
    """Return the query that was given with a URL in this process; "" without one."""
    return _given.queries.get(url, "") if _given.queries else ""


def knows_queries() -> bool:
    """Whether some URLs were given with queries, which no other process knows."""
    return bool(_given.queries)


def declare(roots: Iterable[str], options: Mapping[str, Any]) -> None:
    """Set the options of the stores of some roots in this process."""
    for key in dict.fromkeys(map(bucket_of, roots)):
        if options:
            _given.options[key] = dict(options)
        else:
            _given.options.pop(key, None)


def options_of(url: str) -> Mapping[str, Any]:
    """Return the options of the store of a URL."""
    return _given.options.get(bucket_of(url), {}) if _given.options else {}


def config_of(url: str) -> dict[str, Any]:
    """Return the options of the store of a URL by the names that obstore has for its scheme."""
    scheme = NATIVE[urlsplit(url).scheme]
    names = _NAMES["az" if scheme == "abfss" else scheme]
    return {names[name]: value for name, value in options_of(url).items() if name in names}


def declared() -> dict[str, dict[str, Any]]:
    """Return all options of this process, for another one that reads for it."""
    return {key: dict(options) for key, options in _given.options.items()}
