from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_operator.runtime.authority import (
    AUTHORITY_LIFE,
    SERVER_LIFE,
    Material,
    Step,
    newest,
    next_step,
    renewed,
    service_names,
    trusts,
)

NAMES = service_names("florence-operator", "florence")
START = datetime(2026, 1, 1, tzinfo=UTC)


def made(now: datetime = START) -> Material:
    return renewed(None, Step.MAKE, NAMES, now)


def shake_hands(server: Material, trusted: bytes, folder: Path, name: str = NAMES[2]) -> None:
    """A TLS handshake in memory; raises what a client would."""
    (folder / "crt").write_bytes(server.certificate)
    (folder / "key").write_bytes(server.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    client = ssl.create_default_context(cadata=trusted.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_clients_trust_what_is_made_under_every_name(tmp_path: Path) -> None:
    material = made(datetime.now(UTC))
    for name in NAMES:
        shake_hands(material, material.authorities, tmp_path, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(material, material.authorities, tmp_path, "elsewhere.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(material, made(datetime.now(UTC)).authorities, tmp_path)


def test_what_is_to_be_done_and_when() -> None:
    material = made()
    assert next_step(None, NAMES, START) is Step.MAKE
    assert next_step(material, NAMES, START) is Step.KEEP
    due = START + SERVER_LIFE * 2 / 3
    assert next_step(material, NAMES, due - timedelta(hours=1)) is Step.KEEP
    assert next_step(material, NAMES, due + timedelta(hours=1)) is Step.RENEW_SERVER
    assert next_step(material, (*NAMES, "more"), START) is Step.RENEW_SERVER
    late = START + AUTHORITY_LIFE - 2 * SERVER_LIFE
    assert next_step(material, NAMES, late + timedelta(hours=1)) is Step.RENEW_AUTHORITY
    foreign = Material(
        certificate=material.certificate, key=material.key, authorities=material.authorities
    )
    assert next_step(foreign, NAMES, due + timedelta(days=30)) is Step.KEEP
    broken = Material(certificate=b"x", key=b"y", authorities=b"z", authority_key=b"k")
    assert next_step(broken, NAMES, START) is Step.MAKE


def test_a_renewed_server_is_trusted_by_those_who_know_the_authority(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    material = made(now - timedelta(days=70))
    later = renewed(material, Step.RENEW_SERVER, NAMES, now)
    assert later.authorities == material.authorities
    assert later.certificate != material.certificate
    shake_hands(later, material.authorities, tmp_path)


def test_a_new_authority_is_trusted_by_those_who_know_only_the_old(tmp_path: Path) -> None:
    """Running pods keep the authority that they were started with."""
    now = datetime.now(UTC)
    old = made(now - AUTHORITY_LIFE + timedelta(days=100))
    assert next_step(old, NAMES, now) is Step.RENEW_AUTHORITY
    new = renewed(old, Step.RENEW_AUTHORITY, NAMES, now)
    assert len(x509.load_pem_x509_certificates(new.authorities)) == 2
    shake_hands(new, old.authorities, tmp_path)
    shake_hands(new, new.authorities, tmp_path)
    only_new = x509.load_pem_x509_certificates(new.authorities)[0]
    only_new_pem = only_new.public_bytes(ssl_pem())
    shake_hands(new, only_new_pem, tmp_path)
    assert next_step(new, NAMES, now) is Step.KEEP
    again = renewed(new, Step.RENEW_SERVER, NAMES, now)
    shake_hands(again, old.authorities, tmp_path)
    after = renewed(again, Step.RENEW_SERVER, NAMES, now + timedelta(days=101))
    assert len(x509.load_pem_x509_certificates(after.authorities)) == 1
    assert len(x509.load_pem_x509_certificates(after.certificate)) == 1


def ssl_pem() -> object:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 29), min_size=1, max_size=12))
def test_whoever_looks_once_a_month_never_serves_what_has_expired(days: list[int]) -> None:
    now = START
    material = made()
    for pause in days * 15:
        now += timedelta(days=pause)
        material = renewed(material, next_step(material, NAMES, now), NAMES, now)
        server = x509.load_pem_x509_certificate(material.certificate)
        authority = x509.load_pem_x509_certificates(material.authorities)[0]
        assert server.not_valid_after_utc > now + timedelta(days=29)
        assert authority.not_valid_after_utc > server.not_valid_after_utc
        server.verify_directly_issued_by(authority)


def test_what_was_made_here_is_used_until_the_mount_shows_it() -> None:
    first, second = made(), made(START + timedelta(days=1))
    assert newest(None, None) is None
    assert newest(None, first) is first
    assert newest(first, None) is first
    assert newest(first, second) is second
    assert newest(second, first) is second
    assert newest(second, second) is second


def test_trust_is_in_certificates_not_in_bytes() -> None:
    one, two = made().authorities, made().authorities
    assert trusts(one + two, two)
    assert trusts(two + b"\n" + one, one)
    assert not trusts(one, two)
    assert not trusts(b"", one)
