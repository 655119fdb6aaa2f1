"""Addresses of DICOM servers: titles, ports, and no secret in them."""

import ssl
from pathlib import Path

import pytest
from network_servers import make_certificates

from dicomdl.errors import UsageError
from dicomdl.jobs.network.peers import (
    TLS,
    Peer,
    Service,
    checked_title,
    parse_peer,
    parse_server,
)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("dicom://PACS@host", Peer("host", 104, "PACS")),
        ("dicom://PACS@host:11112", Peer("host", 11112, "PACS")),
        ("dicom+tls://PACS@host", Peer("host", 2762, "PACS", tls=TLS())),
        ("dicom://MY%20PACS@[::1]:4242", Peer("::1", 4242, "MY PACS")),
    ],
)
def test_an_address_has_title_host_and_port_and_is_written_the_same(
    address: str, peer: Peer
) -> None:
    assert parse_peer(address) == peer
    assert parse_peer(str(peer)) == peer


@pytest.mark.parametrize(
    "address",
    [
        *("PACS@host:104", "http://host", "dicom://host:104", "dicom://PACS@", "dicom://PACS@h:0"),
        *("dicom://PACS@h:99999", "dicom://PACS@h:x", "dicom://PACS@h/path", "dicom://P@h?a=b"),
        *("dicom://A23456789012345678@h", "dicom://A%5CB@h", "dicom://%20@h", "dicom://%C3%A4@h"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_peer(address)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse_peer("dicom://PACS:hunter2@host")
    assert "hunter2" not in str(caught.value)


def test_the_own_title_comes_from_the_environment_unless_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DICOMDL_AE_TITLE", "RESEARCH")
    assert parse_peer("dicom://PACS@host").own_title == "RESEARCH"
    assert parse_peer("dicom://PACS@host", own_title="OTHER").own_title == "OTHER"
    assert checked_title(" PADDED ") == "PADDED"


@pytest.mark.slow
def test_certificates_are_verified_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    context = TLS(str(made.ca), str(made.client), str(made.client_key)).client_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    open_to_all = TLS(verifies=False).client_context()
    assert open_to_all.verify_mode == ssl.CERT_NONE
    server = TLS(str(made.ca), str(made.server), str(made.server_key)).server_context()
    assert server.verify_mode == ssl.CERT_REQUIRED


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for tls in (TLS(ca_file=str(tmp_path / "none.pem")), TLS(ca_file=str(tmp_path / "empty.pem"))):
        with pytest.raises(UsageError, match=r"\.pem' cannot be used for TLS"):
            tls.client_context()
    with pytest.raises(UsageError, match="needs a certificate"):
        TLS().server_context()


@pytest.mark.slow
def test_an_encrypted_key_takes_its_passphrase_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_certificates(tmp_path)
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(made.client_key.read_bytes(), None)
    made.client_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter2"),
        )
    )
    tls = TLS("", str(made.client), str(made.client_key))
    with pytest.raises(UsageError, match="cannot be used"):
        tls.client_context()
    monkeypatch.setenv("DICOMDL_TLS_PASSPHRASE", "hunter2")
    assert tls.client_context()
    assert "hunter2" not in repr(tls)


def test_a_server_is_one_of_dimse_or_a_dicomweb_service_by_its_address() -> None:
    tls = TLS("ca.pem")
    assert parse_server("dicom://PACS@host") == Peer("host", 104, "PACS")
    assert parse_server("https://host/dicom-web", tls=tls) == Service("https://host/dicom-web", tls)
    assert str(parse_server("dicomweb+http://host/web")) == "dicomweb+http://host/web"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://host/web", "no address of a server"),
        ("PACS@host:104", "no address of a server"),
        ("https://", "no address of a DICOMweb server"),
        ("https://me:hunter2@host/web", "password"),
        ("ftp://me:hunter2@host/web", "no address"),
    ],
)
def test_an_address_of_no_server_is_refused_without_its_password(address: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_server(address)
    assert "hunter2" not in str(caught.value)


def test_certificates_for_a_plain_connection_are_refused() -> None:
    for address in ("http://host/web", "dicomweb+http://host/web", "dicom://PACS@host"):
        with pytest.raises(UsageError, match="plain connection"):
            parse_server(address, tls=TLS())
