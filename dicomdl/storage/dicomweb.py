"""Sessions of DICOMweb servers (PS3.18): credentials, TLS, retries, and how much may come back.

Every request to a DICOMweb server goes through a `Session`, so that the rules below have one place.
This is the only module that imports urllib3. It moves bytes, and knows no DICOM beyond that.

- Certificates are verified always. `SSL_CERT_FILE` names those of an issuer of one's own.
- Credentials come from `_web_login`, and are sent to the server that the user named and no other.
- Over plain HTTP to another machine they are readable on the way: a warning, once per host.
- A redirection to another server is an error. One on the same server is followed.
- Requests that failed on the way, and those that the server cannot answer now (429, 502 to 504),
  are repeated with growing pauses. A `Session` repeats nothing that it has begun to hand out.
- Every body is bounded in bytes and in time: an answer that trickles ends as a stalled one does.
- Errors are `WebError`, an OSError whose `strerror` is a sentence without URL, query and body:
  these may name a patient or hold a secret. Errors of urllib3 are not chained.

Requests are made in parallel by threads, which share a session; a forked process opens its own.
"""

import contextlib
import errno
import functools
import ipaddress
import os
import random
import ssl
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from dicomdl.errors import DicomdlWarning, UsageError
from dicomdl.extras import import_extra
from dicomdl.storage import json_texts
from dicomdl.storage._multipart import Part as Part
from dicomdl.storage._multipart import media_type, parameter, parts_of
from dicomdl.storage._store_options import require_no_secret, without_secrets
from dicomdl.storage._web_login import Login as Login
from dicomdl.storage._web_login import login_of

# Connections to one server. More requests wait for one of them: a PACS is no object store.
CONNECTIONS: Final = 16
# An answer that takes longer than this has to bring at least `_LEAST_RATE` bytes a second.
_PATIENCE_S: Final = 60.0
_LEAST_RATE: Final = 1024
_TRIES: Final = 4
_LONGEST_PAUSE_S: Final = 20.0
_MOST_REDIRECTIONS: Final = 3
_CHUNK_BYTES: Final = 256 * 2**10
# Metadata of one series: 100,000 instances of 2.5 kB.
MOST_JSON_BYTES: Final = 256 * 2**20
# Boundaries and headers of an answer of one part.
_MOST_MORE_BYTES: Final = 256 * 2**10
JSON: Final = "application/dicom+json"
_SCHEMES: Final = {"dicomweb+http": "http", "dicomweb+https": "https"}

_Result = TypeVar("_Result")
Query = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a server may take, in seconds.

    Attributes
    ----------
    connect_s
        For the connection.
    answer_s
        Until an answer begins, and between two parts of it. A server may think about a large series
        before it begins.
    """

    connect_s: float = 15.0
    answer_s: float = 60.0


_TIMEOUTS: Final = Timeouts()


class WebError(OSError):
    """A request of a DICOMweb server that failed.

    Attributes
    ----------
    strerror : str
        A sentence: what happened, and what to do.
    status : int
        The HTTP status; 0 if no answer came.
    """

    def __init__(self, number: int, words: str, status: int = 0) -> None:
        super().__init__(number, words)
        self.status = status

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.errno in _ON_THE_WAY or self.errno in (errno.ETIMEDOUT, errno.ECONNREFUSED)

    def __reduce__(self) -> Any:
        return WebError, (self.errno, self.strerror, self.status)


class Body(NamedTuple):
    """A whole answer: its status, the header Content-Type, and its bytes."""

    status: int
    content_type: str
    data: bytes


class Sent(NamedTuple):
    """The only part of an answer, and what its headers say."""

    data: bytes
    media_type: str
    syntax: str
    location: str


def is_web(url: str) -> bool:
    """Whether a location is one of a DICOMweb server."""
    return url[:8].lower() == "dicomweb" and urlsplit(url).scheme in _SCHEMES


def is_service(address: str) -> bool:
    """Whether an address names a DICOMweb service, with "dicomweb+" in front or without."""
    scheme = urlsplit(address).scheme
    return scheme in _SCHEMES or scheme in _SCHEMES.values()


def plain_url(url: str) -> str:
    """Return the URL behind "dicomweb+", without query and a slash at its end.

    Raises
    ------
    UsageError
        It has a user name or password, names no host, or is no URL of HTTP.
    """
    require_no_secret(url)
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme, parts.scheme)
    if scheme not in _SCHEMES.values() or not parts.netloc:
        raise UsageError(
            f"{without_secrets(url)!r} is no address of a DICOMweb server: expected "
            "dicomweb+https://host/path"
        )
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def session_of(
    url: str, tls: ssl.SSLContext | None = None, timeouts: Timeouts = _TIMEOUTS
) -> "Session":
    """Return the session of this process for the service at a URL, with the login of that server.

    Parameters
    ----------
    url
        The root of the service, such as "https://host/dicom-web". "dicomweb+" may stand before it.
    tls
        How certificates are verified; see `Session`. Such a session is not shared.
    timeouts
        How long the server may take.

    Raises
    ------
    MissingExtra
        urllib3 is not installed.
    UsageError
        The URL is unusable, or credentials are malformed.
    StorageError
        Others can read the file of credentials.
    """
    base = plain_url(url)
    if tls is not None:
        return Session(base, login_of(_origin(base)), tls, timeouts)
    return _session(base, login_of(_origin(base)), timeouts, os.getpid())


# Small: a session per server and login. Sockets belong to the process that opened them.
@functools.lru_cache(maxsize=64)
def _session(base: str, login: Login, timeouts: Timeouts, _process: int) -> "Session":
    return Session(base, login, timeouts=timeouts)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class Session:
    """A service of a DICOMweb server, over connections that stay open.

    Parameters
    ----------
    base
        The root of the service, such as "https://host/dicom-web".
    login
        Who asks.
    tls
        How certificates are verified, by default with those of the system or of `SSL_CERT_FILE`.
        A client certificate is loaded into such a context.
    timeouts
        How long the server may take.
    """

    def __init__(
        self,
        base: str,
        login: Login | None = None,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = _TIMEOUTS,
    ) -> None:
        self.base = plain_url(base)
        self._origin = _origin(self.base)
        self._login = login or Login()
        self._timeouts = timeouts
        if self._login.authorization:
            parts = urlsplit(self.base)
            _warn_if_readable(parts.scheme, parts.hostname or "")
        self._urllib3 = import_extra("urllib3", "asking a DICOMweb server", "net")
        self._pool = _pool(self._urllib3, self._origin, tls, timeouts)

    def __repr__(self) -> str:
        return f"Session({self.base!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a session is not pickled: session_of(url) opens one in the other process")

    def json(self, path: str, query: Query = (), most_bytes: int = MOST_JSON_BYTES) -> list[Any]:
        """Return the list of data sets of an answer in the DICOM JSON model (PS3.18 F).

        Parameters
        ----------
        path
            Below the root of the service, such as "/studies".
        query
            Keys of QIDO-RS and their values.
        most_bytes
            A longer answer is an error.

        Returns
        -------
        list
            As `json.loads` returns it; [] if nothing matches (204).
        """
        body = self.body(path, JSON, query=query, most_bytes=most_bytes)
        if body.status == 204:
            return []
        kind = media_type(body.content_type)
        if kind not in (JSON, "application/json"):
            raise WebError(
                errno.EPROTO,
                f"the server answers with {_shown(kind)} where JSON was asked for: check the path "
                "of the service, and whether it wants a login page",
            )
        try:
            found = json_texts.parsed(body.data)
        except ValueError:
            found = None
        if isinstance(found, dict):
            found = [found]
        if not isinstance(found, list):
            raise WebError(
                errno.EPROTO, "the server answers with JSON that is no list of data sets"
            )
        return found

    def body(self, path: str, accept: str, *, most_bytes: int, query: Query = ()) -> Body:
        """Return a whole answer; one that is cut on its way is asked for again."""

        def get() -> Body:
            with self._answer("GET", path, accept, query) as reply:
                chunks = self._chunks(reply, most_bytes)
                return Body(reply.status, reply.headers.get("content-type", ""), b"".join(chunks))

        return _repeated(get)

    @contextlib.contextmanager
    def parts(
        self, path: str, accept: str, *, most_bytes: int, query: Query = ()
    ) -> Iterator[Iterator[Part]]:
        """Return the parts of an answer as they come, none of which is kept.

        An answer that is not of several parts, as some servers give for one frame, is one part.
        What is cut later on raises WebError, and is not asked for again.

        Parameters
        ----------
        path
            Below the root, such as "/studies/1.2/series/1.3".
        accept
            'multipart/related; type="application/dicom"; transfer-syntax=*', for example.
        most_bytes
            A longer answer, of all parts, is an error.
        query
            Parameters.
        """
        with contextlib.ExitStack() as stack:
            # A server compresses pixels slowly and for nothing: Orthanc needs ten times as long.
            headers = {"Accept-Encoding": "identity"}
            reply = _repeated(
                lambda: stack.enter_context(
                    self._answer("GET", path, accept, query, headers=headers)
                )
            )
            content_type = reply.headers.get("content-type", "")
            chunks = self._chunks(reply, most_bytes)
            if media_type(content_type) == "multipart/related":
                with _explained(self._urllib3, self._timeouts):
                    yield parts_of(chunks, parameter(content_type, "boundary"))
            elif reply.status == 204:
                yield iter(())
            elif media_type(content_type).startswith("text/"):
                raise WebError(
                    errno.EPROTO, "the server answers with a page where data were asked for"
                )
            else:
                yield iter([Part({"content-type": content_type}, chunks)])

    def part(self, path: str, accept: str, *, most_bytes: int) -> Sent:
        """Return the one part of an answer, such as a frame; it is asked for again if it is cut.

        Raises
        ------
        WebError
            The request failed, or the answer has no part, or several.
        """

        def get() -> Sent:
            with self.parts(path, accept, most_bytes=most_bytes + _MOST_MORE_BYTES) as parts:
                part = next(parts, None)
                if part is None:
                    raise WebError(
                        errno.EPROTO, "the server sent nothing where data were asked for"
                    )
                sent = Sent(
                    part.read(most_bytes),
                    part.media_type,
                    part.parameter("transfer-syntax").strip(),
                    part.headers.get("content-location", ""),
                )
                if next(parts, None) is not None:
                    raise WebError(errno.EPROTO, "the server sent more than was asked for")
                return sent

        return _repeated(get)

    def post(
        self, path: str, content_type: str, chunks: Iterable[bytes], accept: str = JSON
    ) -> Body:
        """Send a body in chunks (STOW-RS), once; return the answer, 400 and 409 included."""
        headers = {"Content-Type": content_type}
        with self._answer("POST", path, accept, (), headers=headers, body=chunks) as reply:
            data = b"".join(self._chunks(reply, MOST_JSON_BYTES))
            return Body(reply.status, reply.headers.get("content-type", ""), data)

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        accept: str,
        query: Query,
        *,
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes] | None = None,
    ) -> Iterator[Any]:
        """Return the answer to one request, of which the body was not read."""
        target = urlsplit(self.base).path + quote(path, safe="/,;=:@!$&'()*+~.-_")
        if query:
            target += f"?{urlencode(list(query), quote_via=quote)}"
        sent = {"Accept": accept, "Accept-Encoding": "gzip, identity;q=0.5", **(headers or {})}
        if self._login.authorization:
            sent["Authorization"] = self._login.authorization
        reply = None
        try:
            with _explained(self._urllib3, self._timeouts):
                for _ in range(_MOST_REDIRECTIONS + 1):
                    reply = self._pool.urlopen(
                        method,
                        target,
                        body=body,
                        headers=sent,
                        retries=False,
                        redirect=False,
                        assert_same_host=False,
                        preload_content=False,
                    )
                    if reply.status not in (301, 302, 303, 307, 308):
                        break
                    target = self._redirected(target, reply, method)
                _require_answer(reply, method)
                yield reply
        finally:
            if reply is not None:
                _let_go(reply)

    def _redirected(self, target: str, reply: Any, method: str) -> str:
        """Return the new target of a redirection on this server; WebError for any other."""
        url = urljoin(f"{self._origin}{target}", reply.headers.get("location", ""))
        _let_go(reply)
        if method != "GET" or _origin(url) != self._origin:
            raise WebError(
                errno.EACCES,
                f"the server sends the request on to another address ({reply.status}), which "
                "was not followed: name the final address of the service",
                reply.status,
            )
        parts = urlsplit(url)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def _chunks(self, reply: Any, most_bytes: int) -> Iterator[bytes]:
        """Yield the body of an answer, as it comes."""
        begun, total = time.monotonic(), 0
        with _explained(self._urllib3, self._timeouts):
            while chunk := reply.read1(_CHUNK_BYTES):
                total += len(chunk)
                if total > most_bytes:
                    raise WebError(
                        errno.EFBIG, f"the server sends more than {most_bytes} bytes, the limit"
                    )
                elapsed = time.monotonic() - begun
                if elapsed > _PATIENCE_S and total < _LEAST_RATE * elapsed:
                    raise WebError(
                        errno.ETIMEDOUT, "the answer of the server trickles, and was left"
                    )
                yield chunk


# Small: a host's name. It is kept, so that a host is warned of once.
@functools.lru_cache(maxsize=64)
def _warn_if_readable(scheme: str, host: str) -> None:
    """Warn where credentials leave this machine without TLS."""
    if scheme != "http" or _is_this_machine(host):
        return
    warnings.warn(
        f"the password or token for {host} can be read by everyone on the way, since http:// does "
        f"not encrypt: name the service https://{host}/...",
        DicomdlWarning,
        stacklevel=4,
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pool(urllib3: Any, origin: str, tls: ssl.SSLContext | None, timeouts: Timeouts) -> Any:
    """Return the connections to a server, through the proxy of the environment if there is one."""
    parts = urlsplit(origin)
    options: dict[str, Any] = {
        "maxsize": CONNECTIONS,
        "block": True,
        "timeout": urllib3.Timeout(connect=timeouts.connect_s, read=timeouts.answer_s),
    }
    if parts.scheme == "https":
        options["ssl_context"] = tls or ssl.create_default_context()
    proxy = getproxies().get(parts.scheme)
    host = parts.hostname or ""
    try:
        if not proxy or _is_this_machine(host) or proxy_bypass(host):
            return urllib3.PoolManager(**options).connection_from_url(origin)
        login = urlsplit(proxy)
        headers = None
        if login.username:
            pair = f"{login.username}:{login.password or ''}"
            headers = urllib3.make_headers(proxy_basic_auth=pair)
        manager = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
        return manager.connection_from_url(origin)
    except urllib3.exceptions.HTTPError:
        raise UsageError(
            f"{origin!r} is no address of a server, or that of its proxy is none"
        ) from None


_AGAIN: Final = frozenset({429, 502, 503, 504})
# Errors of the way, after which the same request may succeed.
_ON_THE_WAY: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EBUSY})


def _repeated(get: Callable[[], _Result]) -> _Result:
    """Call a function that makes a request, again where that may help."""
    for attempt in range(_TRIES):
        try:
            return get()
        except WebError as error:
            if error.errno not in _ON_THE_WAY or attempt == _TRIES - 1:
                raise
            asked = getattr(error, "pause_s", 0.0)
            time.sleep(min(max(asked, random.uniform(0.1, 0.3) * 2**attempt), _LONGEST_PAUSE_S))
    raise AssertionError


def _let_go(reply: Any) -> None:
    """Return the connection of an answer if its body was read, and close it otherwise."""
    with contextlib.suppress(Exception):
        if not reply.isclosed():
            reply.close()
        reply.release_conn()


# --- errors ---------------------------------------------------------------------------------------

_SENTENCES: Final[Mapping[int, tuple[int, str]]] = {
    400: (errno.EINVAL, "the server does not understand the request (400)"),
    401: (
        errno.EACCES,
        "the server wants credentials (401): set DICOMDL_DICOMWEB_TOKEN, or "
        "DICOMDL_DICOMWEB_USER and DICOMDL_DICOMWEB_PASSWORD",
    ),
    403: (errno.EACCES, "the server refuses access (403): ask for the right to read there"),
    404: (errno.ENOENT, "the server has no such study, series, instance or frame (404)"),
    406: (errno.ENOTSUP, "the server cannot answer in the form that was asked for (406)"),
    413: (errno.EFBIG, "the server finds the request too large (413)"),
    429: (errno.EBUSY, "the server asks for fewer requests (429), after all retries"),
}


def _require_answer(reply: Any, method: str) -> None:
    """Raise WebError for a status that is no success."""
    status = int(reply.status)
    if 200 <= status < 300 or (method == "POST" and status in (400, 409)):
        return
    if 300 <= status < 400:
        raise WebError(errno.ELOOP, "the server redirects in a circle", status)
    number, words = _SENTENCES.get(status, (errno.EIO, f"the server fails with status {status}"))
    if status in _AGAIN:
        number = errno.EBUSY
    error = WebError(number, words, status)
    with contextlib.suppress(ValueError):
        error.pause_s = float(reply.headers.get("retry-after", "0"))  # type: ignore[attr-defined]
    raise error


class _explained:
    """A context that replaces errors of urllib3 and of sockets by a `WebError`."""

    __slots__ = ("_timeouts", "_urllib3")

    def __init__(self, urllib3: Any, timeouts: Timeouts) -> None:
        self._urllib3, self._timeouts = urllib3, timeouts

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, WebError) or not isinstance(error, Exception):
            return
        if isinstance(error, self._urllib3.exceptions.HTTPError | OSError):
            raise _as_web_error(error, self._urllib3.exceptions, self._timeouts) from None


def _as_web_error(error: Exception, known: Any, timeouts: Timeouts) -> WebError:
    if (
        isinstance(error, OSError)
        and error.strerror
        and error.errno in (errno.EPROTO, errno.EPIPE, errno.EFBIG)
    ):
        return WebError(error.errno, error.strerror)
    if _is_certificate(error):
        return WebError(
            errno.EACCES,
            "the certificate of the server is not trusted: it has another name, an unknown issuer, "
            "or expired; SSL_CERT_FILE names the certificates of an issuer of your own",
        )
    if isinstance(error, known.ReadTimeoutError):
        return WebError(errno.ETIMEDOUT, f"the server was silent for {timeouts.answer_s:g} s")
    # A kind of NewConnectionError, and that a kind of ConnectTimeoutError.
    if isinstance(error, known.NameResolutionError):
        return WebError(errno.EHOSTUNREACH, "no server of this name is known")
    if isinstance(error, known.NewConnectionError):
        return WebError(errno.ECONNREFUSED, "the server cannot be reached: no connection")
    if isinstance(error, known.ConnectTimeoutError):
        return WebError(
            errno.ETIMEDOUT, "the server cannot be reached: no answer to the connection"
        )
    if isinstance(error, known.SSLError | ssl.SSLError):
        return WebError(errno.EPROTO, "TLS with the server fails: is it an address of https?")
    if isinstance(error, known.ProtocolError | known.DecodeError | ConnectionError):
        return WebError(errno.EPIPE, "the server cut its answer")
    return WebError(errno.EIO, f"the request failed ({type(error).__name__})")


def _is_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        inner = [each for each in error.args if isinstance(each, BaseException)]
        error = inner[0] if inner else error.__cause__
    return False


def _shown(kind: str) -> str:
    """Return a media type of a server for a message, without what else it may hold."""
    plain = "".join(c for c in kind if c.isascii() and (c.isalnum() or c in "/+.-"))[:60]
    return plain or "something without a type"
