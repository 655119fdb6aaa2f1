"""DICOM servers on loopback: Orthanc, dcmqrscp and storescp, a proxy with faults, certificates.

Each server is of its own, on a free port, in a folder of the test, and is ended with the block. A
test is skipped by name where a program is not installed.
"""

import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_PLUGINS = (
    Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),
    Path("/usr/lib/orthanc/libOrthancDicomWeb.so"),
)
_WAIT_S = 60.0


def program(name: str) -> str:
    """Return the path of a program; skip the test by name where it is not installed.

    pynetdicom installs scripts that are named as programs of dcmtk, beside the interpreter.
    """
    own = Path(sys.executable).parent
    folders = [each for each in os.get_exec_path() if Path(each) != own]
    found = shutil.which(name, path=os.pathsep.join([*folders, "/usr/sbin"]))
    return found or pytest.skip(f"{name} is not installed")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, is_alive: Callable[[], bool] = lambda: True) -> None:
    """Wait until something listens on a port."""
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end and is_alive():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


@contextlib.contextmanager
def _running(command: list[str], folder: Path, *ports: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; its log lies in the folder."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            for port in ports:
                wait_for(port, lambda: process.poll() is None)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# --- certificates ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, and of a server and a client that it vouches for; all in PEM."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(folder: Path, host: str = "127.0.0.1") -> Certificates:
    """Make an authority, and certificates of a server for a host and of a client."""
    pytest.importorskip("cryptography")
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = _certificate(folder, "ca", None, host)
    server, server_key = _certificate(folder, "server", (ca, ca_key), host)
    client, client_key = _certificate(folder, "client", (ca, ca_key), host)
    return Certificates(ca, server, server_key, client, client_key)


def _certificate(
    folder: Path, name: str, issuer: tuple[Path, Path] | None, host: str
) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name} of {folder.name}")])
    signer, signed_by = key, subject
    if issuer is not None:
        loaded = serialization.load_pem_private_key(issuer[1].read_bytes(), None)
        assert isinstance(loaded, rsa.RSAPrivateKey)
        signer = loaded
        signed_by = x509.load_pem_x509_certificate(issuer[0].read_bytes()).subject
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


# --- servers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc: ports of DICOM and of HTTP, and its title."""

    port: int
    http_port: int
    title: str = "ORTHANC"

    @property
    def address(self) -> str:
        """The address for DIMSE."""
        return f"dicom://{self.title}@127.0.0.1:{self.port}"

    @property
    def web(self) -> str:
        """The address of DICOMweb."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"


@contextlib.contextmanager
def orthanc(
    folder: Path,
    *,
    move_to: dict[str, int] | None = None,
    tls: Certificates | None = None,
    **options: object,
) -> Iterator[Orthanc]:
    """Run Orthanc with its DICOMweb plugin; `move_to` is {AE title: port} of receivers.

    With `tls`, its DICOM port and its connections to the receivers have TLS, and it asks for a
    certificate.
    """
    command = program("Orthanc")
    plugins = [str(path) for path in _PLUGINS if path.exists()][:1]
    if not plugins:
        pytest.skip("orthanc-dicomweb is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    server = Orthanc(free_port(), free_port())
    known = {
        title: {"AET": title, "Host": "127.0.0.1", "Port": port, "UseDicomTls": tls is not None}
        for title, port in (move_to or {}).items()
    }
    secured = {} if tls is None else _tls_of_orthanc(tls)
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": server.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomPort": server.port,
        "DicomAet": server.title,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": known,
        "Plugins": plugins,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **secured,
        **options,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with _running([command, "orthanc.json"], folder, server.port, server.http_port):
        yield server


def _tls_of_orthanc(certificates: Certificates) -> dict[str, object]:
    return {
        "DicomTlsEnabled": True,
        "DicomTlsRemoteCertificateRequired": True,
        "DicomTlsCertificate": str(certificates.server),
        "DicomTlsPrivateKey": str(certificates.server_key),
        "DicomTlsTrustedCertificates": str(certificates.ca),
    }


@contextlib.contextmanager
def dcmqrscp(folder: Path, *options: str, move_to: dict[str, int] | None = None) -> Iterator[int]:
    """Run dcmtk's archive, with the title QR; yields its port. Files lie in ``folder/files``."""
    command = program("dcmqrscp")
    (folder / "files").mkdir(parents=True)
    port = free_port()
    hosts = [f"{t.lower()} = ({t}, localhost, {p})" for t, p in (move_to or {}).items()]
    lines = [
        f"NetworkTCPPort = {port}",
        *("MaxPDUSize = 131072", "MaxAssociations = 16", "HostTable BEGIN"),
        *hosts,
        *("HostTable END", "VendorTable BEGIN", "VendorTable END", "AETable BEGIN"),
        f"QR {folder / 'files'} RW (200, 4096mb) ANY",
        "AETable END",
    ]
    (folder / "dcmqrscp.cfg").write_text("\n".join(lines) + "\n")
    with _running([command, *options, "-c", "dcmqrscp.cfg"], folder, port):
        yield port


@contextlib.contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """Run dcmtk's receiver, which takes any title; yields its port. Files come to ``folder``."""
    command = program("storescp")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    arguments = ["--fork", "+xa", *options, "-od", str(folder), str(port)]
    with _running([command, *arguments], folder, port):
        yield port


def with_tls(certificates: Certificates) -> tuple[str, ...]:
    """Return the options of storescp for TLS with certificates of both sides."""
    return (
        *("+tls", str(certificates.server_key), str(certificates.server)),
        *("+cf", str(certificates.ca)),
    )


# --- faults ---------------------------------------------------------------------------------------


@dataclass
class Proxy:
    """A proxy in front of a server on loopback, whose connections go wrong as told.

    `cut_after` ends a connection behind so many bytes of the server, `stall_after` passes no more
    of them, and `delay_s` waits before each piece. `connections` counts.
    """

    target: int
    cut_after: int | None = None
    stall_after: int | None = None
    delay_s: float = 0.0
    connections: int = 0
    port: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def serve(self, listener: socket.socket) -> None:
        """Pass on connections until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers and self.delay_s:
                    self._ended.wait(self.delay_s)
                if answers and self.stall_after is not None:
                    sink.sendall(data[: max(0, self.stall_after - passed)])
                    if passed + len(data) > self.stall_after:
                        self._ended.wait()
                        break
                elif answers and self.cut_after is not None and passed + len(data) > self.cut_after:
                    sink.sendall(data[: max(0, self.cut_after - passed)])
                    break
                else:
                    sink.sendall(data)
                passed += len(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def end(self) -> None:
        """Let go of connections that stall."""
        self._ended.set()


@contextlib.contextmanager
def proxy(target: int, **faults: object) -> Iterator[Proxy]:
    """Run a proxy in front of a port; `faults` are fields of `Proxy`."""
    made = Proxy(target, **faults)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.port = listener.getsockname()[1]
        thread = threading.Thread(target=made.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.end()
            # close alone leaves a thread in accept.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
