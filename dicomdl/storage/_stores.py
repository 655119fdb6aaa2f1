"""Clients of object stores: obstore for S3, GCS, Azure and HTTP, fsspec for any other scheme.

The only module that imports either. A client answers with bytes and the state of the object, or
raises an OSError whose `strerror` is a sentence. The texts of both libraries quote URLs with their
queries, and so the signatures of presigned ones: none of them is passed on, nor chained.
"""

import errno
import functools
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote, unquote, urlsplit

from dicomdl.errors import UsageError
from dicomdl.extras import import_extra
from dicomdl.storage._store_options import HTTP, NATIVE, bucket_of, config_of, query_of

# One request, with its retries, takes at most this long; the body of a large one takes its share.
REQUEST_S: Final = 30.0
RETRY_S: Final = 60.0
MAX_RETRIES: Final = 8
# Bodies that were cut are asked for again by this module: obstore retries up to the headers only.
_BODY_TRIES: Final = 4
_PAGE: Final = 1000


class ObjectState(NamedTuple):
    """The state of an object: bytes, Last-Modified in ns of whole seconds, and ETag, "" if none.

    Listings state fractions of a second that headers lack, hence whole seconds. The ETag has no
    quotes, because Azure lists it without them; "W/" tells a weak one.
    """

    size: int
    mtime_ns: int
    etag: str


class Fetched(NamedTuple):
    """Bytes of an object and its state when they were read."""

    data: Any
    state: ObjectState


class Listed(NamedTuple):
    """An object of a listing, by its location."""

    url: str
    state: ObjectState


class Client(Protocol):
    """A store, or one object of it."""

    def get(self, url: str, start: int, stop: int, etag: str) -> Fetched:
        """Return the bytes [start, stop), fewer at the end; raise ChangedObject for other ETags."""

    def head(self, url: str) -> ObjectState:
        """Return the state of an object."""

    def whole(self, url: str, most: int) -> Any:
        """Return all bytes of an object; None if there are more than `most`."""

    def level(self, url: str) -> tuple[list[Listed], list[str]]:
        """Return the objects directly below a prefix, and the prefixes one level below it."""

    def below(self, url: str) -> Iterator[list[Listed]]:
        """Yield all objects below a prefix, page by page."""


class ChangedObject(Exception):
    """The object has another ETag than the one that was expected (412)."""


def client_of(url: str) -> Client:
    """Return the client for a location, the same one for all objects of a bucket or host.

    Raises
    ------
    MissingExtra
        obstore is not installed.
    UsageError
        No library knows the scheme.
    """
    scheme = urlsplit(url).scheme
    if scheme in HTTP:
        base = _http_base(url)
        return _client(scheme, base, (("query", query_of(url)),))
    options = config_of(url) if scheme in NATIVE else {}
    return _client(scheme, bucket_of(url), tuple(sorted(options.items())))


def _http_base(url: str) -> str:
    """Return the root of a host, or the URL itself where only its own spelling is safe.

    obstore quotes the path anew, which gives another one for a path like "a%2Fb". A query belongs
    to one URL.
    """
    parts = urlsplit(url)
    plain = quote(unquote(parts.path, errors="surrogateescape"), errors="surrogateescape")
    return bucket_of(url) if plain == parts.path and not query_of(url) else url


# Small: clients of buckets and hosts, and of URLs with queries.
@functools.lru_cache(maxsize=256)
def _client(scheme: str, base: str, options: tuple[tuple[str, Any], ...]) -> Client:
    if scheme in NATIVE or scheme in HTTP:
        return _Obstore(base, dict(options))
    return _Fsspec(scheme)


def forget_clients() -> None:
    """Drop all clients: their sockets belong to the process that made them."""
    _client.cache_clear()


# --- obstore --------------------------------------------------------------------------------------


class _Obstore:
    """A bucket or a host."""

    def __init__(self, base: str, options: Mapping[str, Any]) -> None:
        self._obstore = import_extra("obstore", f"reading {urlsplit(base).scheme}://", "cloud")
        stores = import_extra("obstore.store", "reading from stores", "cloud")
        self._base = base
        self._is_http = urlsplit(base).scheme in HTTP
        backoff = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5)}
        common: dict[str, Any] = {
            "client_options": {"timeout": timedelta(seconds=REQUEST_S), "allow_http": True},
            "retry_config": {
                "max_retries": MAX_RETRIES,
                "backoff": backoff,
                "retry_timeout": timedelta(seconds=RETRY_S),
            },
        }
        with _explained(base):
            if self._is_http:
                query = str(options.get("query", ""))
                self._store = stores.HTTPStore(f"{base}?{query}" if query else base, **common)
            else:
                config = {**_signing(base), **options}
                common["client_options"]["allow_http"] = _allows_http(config)
                self._store = stores.from_url(_native(base), config=config, **common)

    def get(self, url: str, start: int, stop: int, etag: str) -> Fetched:
        # A weak ETag never equals another under If-Match (RFC 9110 13.1.1): the reply is compared.
        options: dict[str, Any] = {"range": (start, stop)}
        if etag and not etag.startswith("W/"):
            options["if_match"] = f'"{etag}"'
        with _explained(url):
            return self._body(self._key(url), options)

    def _body(self, key: str, options: Mapping[str, Any]) -> Fetched:
        for attempt in range(_BODY_TRIES):
            result = self._obstore.get(self._store, key, options=options)
            try:
                data = memoryview(result.bytes())
            except Exception:
                if attempt == _BODY_TRIES - 1:
                    raise
                time.sleep(random.uniform(0.05, 0.2) * 2**attempt)
                continue
            return Fetched(data, _state(result.meta))
        raise AssertionError

    def head(self, url: str) -> ObjectState:
        with _explained(url):
            return _state(self._obstore.head(self._store, self._key(url)))

    def whole(self, url: str, most: int) -> Any:
        with _explained(url):
            result = self._obstore.get(self._store, self._key(url))
            return None if result.meta["size"] > most else memoryview(result.bytes())

    def level(self, url: str) -> tuple[list[Listed], list[str]]:
        with _explained(url):
            found = self._obstore.list_with_delimiter(self._store, self._key(url) or None)
        return (
            [self._listed(meta) for meta in found["objects"]],
            [self._url(prefix) for prefix in found["common_prefixes"]],
        )

    def below(self, url: str) -> Iterator[list[Listed]]:
        with _explained(url):
            for page in self._obstore.list(self._store, self._key(url) or None, chunk_size=_PAGE):
                yield [self._listed(meta) for meta in page]

    def _key(self, url: str) -> str:
        key = url[len(self._base) :].strip("/")
        return unquote(key) if self._is_http else key

    def _url(self, key: str) -> str:
        return f"{self._base}/{quote(key) if self._is_http else key}"

    def _listed(self, meta: Any) -> Listed:
        return Listed(self._url(meta["path"]), _state(meta))


def _state(meta: Any) -> ObjectState:
    moment: datetime = meta["last_modified"]
    return ObjectState(
        int(meta["size"]), int(moment.timestamp()) * 10**9, plain_etag(meta["e_tag"] or "")
    )


def plain_etag(etag: str) -> str:
    """Return an ETag without its quotes, but with the mark of a weak one."""
    weak = "W/" if etag.startswith("W/") else ""
    return weak + etag.removeprefix("W/").strip('"')


def _native(base: str) -> str:
    """Return the base with the scheme that obstore knows."""
    scheme, _, rest = base.partition("://")
    return f"{NATIVE[scheme]}://{rest}"


def _allows_http(config: Mapping[str, Any]) -> bool:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
    told = (config.get("endpoint"), config.get("base_url"), *map(os.environ.get, names))
    endpoint = next(filter(None, told), "")
    return str(endpoint).startswith("http://")


def _signing(base: str) -> dict[str, Any]:
    """Return the credentials of a profile of the AWS CLI, which obstore does not read itself."""
    has_keys = any(map(os.environ.get, ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE")))
    home = os.path.expanduser(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    if NATIVE.get(urlsplit(base).scheme) != "s3" or has_keys or not os.path.isfile(home):
        return {}
    import configparser

    profiles = configparser.RawConfigParser()
    try:
        profiles.read(home, encoding="utf-8")
        profile = dict(profiles[os.environ.get("AWS_PROFILE") or "default"])
    except (configparser.Error, KeyError, UnicodeDecodeError, OSError):
        return {}
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return {name: profile[name] for name in names if name in profile}


# --- fsspec ---------------------------------------------------------------------------------------


class _Fsspec:
    """A file system of fsspec, which compares no ETag itself: the state is looked up."""

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme
        try:
            import fsspec

            self._files = fsspec.filesystem(scheme)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"no installed library reads {scheme}:// (obstore reads s3, gs, az and https, and "
                f"fsspec others with their own packages): {type(error).__name__}"
            ) from None

    def get(self, url: str, start: int, stop: int, etag: str) -> Fetched:
        state = self.head(url)
        if etag and etag != state.etag:
            raise ChangedObject
        with _explained(url):
            data = self._files.cat_file(url, start=start, end=min(stop, state.size))
        return Fetched(memoryview(data), state)

    def head(self, url: str) -> ObjectState:
        with _explained(url):
            return _info_state(self._files.info(url))

    def whole(self, url: str, most: int) -> Any:
        if self.head(url).size > most:
            return None
        with _explained(url):
            return memoryview(self._files.cat_file(url))

    def level(self, url: str) -> tuple[list[Listed], list[str]]:
        with _explained(url):
            found = self._files.ls(url, detail=True)
        files = [self._listed(info) for info in found if info["type"] == "file"]
        return files, [self._url(info) for info in found if info["type"] == "directory"]

    def below(self, url: str) -> Iterator[list[Listed]]:
        with _explained(url):
            found = self._files.find(url, detail=True)
        yield [self._listed(info) for info in found.values()]

    def _url(self, info: Mapping[str, Any]) -> str:
        return str(self._files.unstrip_protocol(info["name"]))

    def _listed(self, info: Mapping[str, Any]) -> Listed:
        return Listed(self._url(info), _info_state(info))


def _info_state(info: Mapping[str, Any]) -> ObjectState:
    names = ("mtime", "LastModified", "updated", "created")
    moment = next((info[name] for name in names if name in info), 0)
    seconds = moment.timestamp() if isinstance(moment, datetime) else moment
    etag = next((str(info[k]) for k in ("ETag", "etag", "md5Hash") if info.get(k)), "")
    whole = int(seconds) if isinstance(seconds, int | float) else 0
    return ObjectState(int(info["size"]), whole * 10**9, plain_etag(etag))


# --- errors ---------------------------------------------------------------------------------------

_STATUS: Final = re.compile(r"status code: (\d{3})")
_ANONYMOUS: Final = "storage_options={'skip_signature': True} or AWS_SKIP_SIGNATURE=true reads a "
_SENTENCES: Final[Mapping[str, tuple[int, str]]] = {
    "401": (errno.EACCES, "the store wants credentials (401): set them in the environment"),
    "403": (
        errno.EACCES,
        f"the store refuses access (403): check the credentials; {_ANONYMOUS}public bucket",
    ),
    "404": (errno.ENOENT, "the store has no such object (404)"),
    "416": (errno.EINVAL, "the store says that the object ends before the bytes asked for (416)"),
    "429": (errno.EBUSY, "the store asks for fewer requests (429), after all retries"),
}
_PARTS: Final[tuple[tuple[str, int, str], ...]] = (
    (
        "169.254.169.254",
        errno.EACCES,
        f"no credentials were found: set them in the environment; {_ANONYMOUS}public bucket",
    ),
    (
        "redirect without LOCATION",
        errno.EINVAL,
        "the store redirects without an address: the region is wrong, set AWS_REGION or "
        "storage_options={'region': ...}",
    ),
    ("non-partial response", errno.ENOTSUP, "the server sends no byte ranges, only whole files"),
    ("Range request not supported", errno.ENOTSUP, "the server sends no byte ranges"),
    ("Content-Range", errno.EPROTO, "the server answers a range without saying which one"),
    (
        "invalid list response",
        errno.EPROTO,
        "the server lists no objects that can be read: the endpoint is that of no store",
    ),
    ("body error", errno.EPIPE, "the server cut its answer, after all retries"),
    (", got ", errno.EPROTO, "the server sent other bytes than those asked for"),
    (
        "InvalidCertificate",
        errno.EACCES,
        "the certificate of the server is not trusted: it has another name, an unknown issuer, or "
        "expired; SSL_CERT_FILE names the certificates of an issuer of your own",
    ),
    ("sending request", errno.ETIMEDOUT, "the server gives no answer, after all retries"),
    ("invalid path", errno.EINVAL, "a key has an empty part (//), or a part . or .., which no "
     "client of obstore can ask for"),
    ("Could not parse path", errno.EINVAL, "a key has an empty part (//), or a part . or .."),
)  # fmt: skip


class _explained:
    """A context that replaces errors of the libraries by an OSError with a sentence of ours."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, ChangedObject):
            return
        if type(error).__name__ == "PreconditionError":
            raise ChangedObject from None
        raise _as_os_error(error) from None


def _as_os_error(error: Exception) -> OSError:
    text = str(error)
    status = _STATUS.search(text)
    imds = "169.254.169.254" in text
    if isinstance(error, FileNotFoundError):
        number, words = _SENTENCES["404"]
    elif status and not imds and status[1] in _SENTENCES:
        number, words = _SENTENCES[status[1]]
    elif status and not imds:
        number, words = errno.EIO, f"the server fails with status {status[1]}, after all retries"
    else:
        number, words = next(
            ((number, words) for part, number, words in _PARTS if part in text),
            (errno.EIO, f"the request failed ({type(error).__name__})"),
        )
    return OSError(number, words)


def in_full(get: Callable[[int, int], Fetched], start: int, length: int) -> Fetched:
    """Return exactly the bytes of a range that lies inside the object; OSError for fewer."""
    found = get(start, start + length)
    expected = max(0, min(start + length, found.state.size) - start)
    if len(found.data) != expected:
        raise OSError(errno.EPROTO, f"the server sent {len(found.data)} bytes, expected {expected}")
    return found
