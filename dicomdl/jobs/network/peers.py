"""Who is asked: the address of a DICOM server, its application entity title, and its TLS.

An address is ``dicom://TITLE@host:port``, ``dicom+tls://...`` for TLS, or the URL of a DICOMweb
service. It holds no secret: the passphrase of a key and logins come from the environment.
"""

import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from dicomdl.errors import UsageError
from dicomdl.storage.dicomweb import Session, is_service, plain_url, session_of
from dicomdl.storage.dicomweb import Timeouts as Timeouts
from dicomdl.storage.objects import without_secrets

PLAIN: Final = "dicom"
WITH_TLS: Final = "dicom+tls"
# The well-known port (PS3.8 9.1), and the one of DICOM over TLS (PS3.15 B.1).
_PORTS: Final = {PLAIN: 104, WITH_TLS: 2762}
# The registered port (PS3.8 9.1), which needs no rights of an administrator.
LISTENING_PORT: Final = 11112
OWN_TITLE: Final = "DICOMDL"
_TITLE_VARIABLE: Final = "DICOMDL_AE_TITLE"
_PASSPHRASE_VARIABLE: Final = "DICOMDL_TLS_PASSPHRASE"
# VR AE (PS3.5 6.2): the default repertoire without backslash and control characters.
_TITLE: Final = re.compile(r"[ -\[\]-~]{1,16}")
_EXPECTED: Final = "expected dicom://TITLE@host:port or dicom+tls://TITLE@host:port"


@dataclass(frozen=True, slots=True)
class TLS:
    """How a connection is secured (PS3.15 B.12).

    Attributes
    ----------
    ca_file
        Certificates that are trusted, in PEM; those of the system by default.
    certificate, key
        The own certificate and its key, in PEM, for servers that ask for one. The passphrase of the
        key comes from ``DICOMDL_TLS_PASSPHRASE``.
    verifies
        Whether the certificate of the other side is verified, with its host name.
    """

    ca_file: str = ""
    certificate: str = ""
    key: str = ""
    verifies: bool = True

    def client_context(self) -> ssl.SSLContext:
        """Return the context of a client.

        Raises
        ------
        UsageError
            A certificate or key cannot be used.
        """
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca_file:
            _loaded(self.ca_file, lambda: context.load_verify_locations(self.ca_file))
        if not self.verifies:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._add_own(context)
        return context

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a server; with `ca_file`, it asks clients for a certificate.

        Raises
        ------
        UsageError
            A certificate or key is absent, or cannot be used.
        """
        if not self.certificate:
            raise UsageError(
                "a server with TLS needs a certificate and its key: TLS(certificate=, key=)"
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca_file:
            _loaded(self.ca_file, lambda: context.load_verify_locations(self.ca_file))
            context.verify_mode = ssl.CERT_REQUIRED if self.verifies else ssl.CERT_OPTIONAL
        self._add_own(context)
        return context

    def _add_own(self, context: ssl.SSLContext) -> None:
        if self.certificate:
            _loaded(
                self.certificate,
                lambda: context.load_cert_chain(
                    self.certificate,
                    self.key or None,
                    # Without a function, OpenSSL asks on the terminal.
                    password=lambda: os.environ.get(_PASSPHRASE_VARIABLE, ""),
                ),
            )


@dataclass(frozen=True, slots=True)
class Peer:
    """A DICOM server, and how this side calls itself.

    Attributes
    ----------
    host, port
        Its address.
    title
        Its application entity title ("called AE title"), at most 16 characters.
    own_title
        The title of this side ("calling AE title").
    tls
        How the connection is secured; None for a plain one.
    """

    host: str
    port: int
    title: str
    own_title: str = OWN_TITLE
    tls: TLS | None = None

    def __str__(self) -> str:
        scheme = PLAIN if self.tls is None else WITH_TLS
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{quote(self.title)}@{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Service:
    """A DICOMweb service.

    Attributes
    ----------
    url
        Its root, such as ``https://host/dicom-web``.
    tls
        How the connection is secured; the certificates of the system by default.
    """

    url: str
    tls: TLS | None = None

    def __post_init__(self) -> None:
        """Refuse certificates without TLS, and an address that holds a secret or is none."""
        if plain_url(self.url).startswith("http:") and self.tls is not None:
            raise UsageError("certificates are given for a plain connection: name it https://...")

    def __str__(self) -> str:
        return self.url

    def session(self, timeouts: Timeouts | None = None) -> Session:
        """Return a session, with the login of the environment.

        Parameters
        ----------
        timeouts
            How long the service may take; `Timeouts()` by default.

        Raises
        ------
        UsageError
            A certificate or a login cannot be used.
        """
        tls = None if self.tls is None else self.tls.client_context()
        return session_of(self.url, tls, timeouts or Timeouts())


def parse_server(
    address: str, *, own_title: str | None = None, tls: TLS | None = None
) -> Peer | Service:
    """Return the server of an address, which `parse_peer` or `Service` describes.

    Raises
    ------
    UsageError
        It is no such address, or holds a password, or `tls` does not fit it.
    """
    if is_service(address):
        return Service(address, tls)
    if urlsplit(address).scheme not in _PORTS:
        raise UsageError(
            f"{without_secrets(address)!r} is no address of a server: expected "
            "https://host/dicom-web, dicom://TITLE@host:port or dicom+tls://TITLE@host:port"
        )
    return parse_peer(address, own_title=own_title, tls=tls)


def parse_peer(address: str, *, own_title: str | None = None, tls: TLS | None = None) -> Peer:
    """Return the server of an address.

    Parameters
    ----------
    address
        ``dicom://TITLE@host:port``, or ``dicom+tls://TITLE@host:port``. The port is 104 by default,
        and 2762 with TLS. A title with other than letters, digits and ``_.-`` is percent-encoded.
    own_title
        The title of this side; ``$DICOMDL_AE_TITLE`` or ``DICOMDL`` by default.
    tls
        How a connection with TLS is secured; the certificates of the system by default.

    Raises
    ------
    UsageError
        It is no such address, a title is none, or `tls` is given for a plain address.
    """
    parts = urlsplit(address)
    if parts.scheme not in _PORTS:
        raise UsageError(f"{address!r} is no address of a DICOM server: {_EXPECTED}")
    if parts.password is not None:
        raise UsageError("an address of a DICOM server holds no password: leave it out")
    if not parts.username or not parts.hostname:
        raise UsageError(f"{address!r} lacks the AE title or the host: {_EXPECTED}")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise UsageError(f"{address!r} has more than title, host and port: {_EXPECTED}")
    if tls is not None and parts.scheme == PLAIN:
        raise UsageError(f"certificates are given for a plain connection: name it {WITH_TLS}://...")
    return Peer(
        parts.hostname,
        _port(address, parts.scheme),
        checked_title(unquote(parts.username)),
        own_title_of(own_title),
        (tls or TLS()) if parts.scheme == WITH_TLS else None,
    )


def own_title_of(given: str | None) -> str:
    """Return the title of this side: the given one, or that of the environment, or the default."""
    return checked_title(given or os.environ.get(_TITLE_VARIABLE) or OWN_TITLE)


def checked_title(text: str) -> str:
    """Return an application entity title without padding (PS3.5 6.2, AE).

    Raises
    ------
    UsageError
        It is none.
    """
    title = text.strip(" ")
    if not _TITLE.fullmatch(title):
        raise UsageError(
            f"{text!r} is no AE title: expected 1 to 16 characters of ASCII without a backslash "
            "(PS3.5 6.2)"
        )
    return title


def checked_port(port: int) -> int:
    """Return a number of a port; raise UsageError for any other number."""
    if not 1 <= port <= 65535:
        raise UsageError(f"{port} is no port: expected 1 to 65535", port=port)
    return port


def _port(address: str, scheme: str) -> int:
    try:
        port = urlsplit(address).port
    except ValueError:
        raise UsageError(f"{address!r} has no valid port: expected 1 to 65535") from None
    return _PORTS[scheme] if port is None else checked_port(port)


def _loaded(path: str, load: Callable[[], object]) -> None:
    try:
        load()
    except (ssl.SSLError, OSError, ValueError) as error:
        # The words of OpenSSL name a fault of the file, and nothing of its content.
        raise UsageError(
            f"{path!r} cannot be used for TLS: {getattr(error, 'strerror', None) or error}"
        ) from None
