"""Certificates that the operator makes itself: what to make when, and how; no network, no disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER_LIFE = timedelta(days=90)
AUTHORITY_LIFE = timedelta(days=3650)

# Clocks of the cluster's machines differ.
SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the Secret holds, in PEM."""

    certificate: bytes
    """The server's, and below it the bridge from an older authority, if any."""
    key: bytes
    authorities: bytes
    """What clients trust: the newest authority first."""
    authority_key: bytes = b""
    """Empty where somebody else makes the certificates."""


class Step(StrEnum):
    """What is to be done about the certificates."""

    KEEP = "keep"
    RENEW_SERVER = "renew the server's certificate"
    RENEW_AUTHORITY = "renew the authority"
    MAKE = "make everything"


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """The names under which a Service is reached."""
    inside = f"{service}.{namespace}"
    return (service, inside, f"{inside}.svc", f"{inside}.svc.cluster.local")


def next_step(material: Material | None, names: Sequence[str], now: datetime) -> Step:
    """What to do given what there is; material that cannot be read counts as none."""
    if material is None:
        return Step.MAKE
    if not material.authority_key:
        return Step.KEEP
    try:
        server, authority = _first(material.certificate), _first(material.authorities)
    except ValueError:
        return Step.MAKE
    if authority.not_valid_after_utc - now < 2 * SERVER_LIFE:
        return Step.RENEW_AUTHORITY
    life = server.not_valid_after_utc - server.not_valid_before_utc
    if server.not_valid_after_utc - now < life / 3 or not set(names) <= _names(server):
        return Step.RENEW_SERVER
    return Step.KEEP


def renewed(material: Material | None, step: Step, names: Sequence[str], now: datetime) -> Material:
    """The material after a step."""
    if step is Step.KEEP and material is not None:
        return material
    if material is None or step is Step.MAKE:
        key = ec.generate_private_key(ec.SECP256R1())
        authority = _authority(key, now)
        return _server(authority, key, [authority], [], names, now)
    known = _valid(material.authorities, now)
    old_key = serialization.load_pem_private_key(material.authority_key, None)
    if not isinstance(old_key, ec.EllipticCurvePrivateKey):
        raise ValueError("ca.key: not an elliptic curve key")
    if step is Step.RENEW_SERVER:
        bridges = _valid(material.certificate, now)[1:]
        return _server(known[0], old_key, known, bridges, names, now)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority(key, now)
    # Running pods know only the old authority: it vouches for the new one until it expires.
    bridges = [_bridge(authority, known[0], old_key, now)] if known else []
    return _server(authority, key, [authority, *known], bridges, names, now)


def newest(mounted: Material | None, made: Material | None) -> Material | None:
    """Which to use: what was made here, until the mount shows it or something newer."""
    if mounted is None or made is None:
        return mounted or made
    try:
        shown = _first(mounted.certificate).not_valid_before_utc
    except ValueError:
        return made
    return made if _first(made.certificate).not_valid_before_utc > shown else mounted


def certificates_in(pem: bytes) -> set[x509.Certificate]:
    """The certificates in a file; none when it is none of certificates."""
    try:
        return set(x509.load_pem_x509_certificates(pem))
    except ValueError:
        return set()


def trusts(bundle: bytes, authorities: bytes) -> bool:
    """Whether a bundle contains all of the authorities."""
    return certificates_in(authorities) <= certificates_in(bundle)


def _server(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    trusted: Sequence[x509.Certificate],
    bridges: Sequence[x509.Certificate],
    names: Sequence[str],
    now: datetime,
) -> Material:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(names[-1], authority.subject, key.public_key(), now, SERVER_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(_usage(signs=False), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(_issued_by(authority_key), False)
    )
    certificate = builder.sign(authority_key, hashes.SHA256())
    return Material(
        certificate=b"".join(map(_pem, [certificate, *bridges])),
        key=_key_pem(key),
        authorities=b"".join(map(_pem, trusted)),
        authority_key=_key_pem(authority_key),
    )


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # Each authority has a name of its own, so that chains are found by name as well as by key.
    title = f"florence-operator {now:%Y-%m-%dT%H:%M:%SZ}"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    builder = (
        _builder(title, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(_usage(signs=True), True)
        .add_extension(_issued_by(key), False)
    )
    return builder.sign(key, hashes.SHA256())


def _bridge(
    new: x509.Certificate,
    old: x509.Certificate,
    old_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    """The new authority's key and name, vouched for by the old authority."""
    key = new.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    title = str(new.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    life = old.not_valid_after_utc - now
    builder = (
        _builder(title, old.subject, key, now, life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(_usage(signs=True), True)
        .add_extension(_issued_by(old_key), False)
    )
    return builder.sign(old_key, hashes.SHA256())


def _builder(
    title: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    # Common names are limited to 64 characters; clients look at the alternative names only.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title[:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _issued_by(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _first(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pem)[0]


def _valid(pem: bytes, now: datetime) -> list[x509.Certificate]:
    every = x509.load_pem_x509_certificates(pem)
    return [every[0], *(each for each in every[1:] if each.not_valid_after_utc > now)]


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return set(extension.value.get_values_for_type(x509.DNSName))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
