"""Everything that a coordinator for this machine alone needs, made in one go.

For trying out and for tests: its certificates are signed by an authority that lives beside them.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ...shared.errors import BadInputError
from ...shared.packages import Package
from ..repository.keys import load_signer, make_key
from ..repository.repository import Repository
from ..repository.roles import OFFLINE
from ..repository.sources import base_source

__all__ = ["make_certificates", "make_localhost"]

_DAYS = 825

_PLANS = {
    "record": """\
# Hides every single record; nobody has to be trusted.
cohort = {devices}

[plan]
unit = "record"
relation = "add-or-remove-one"
rounds = {rounds}
noise_multiplier = 1.0
""",
    "user": """\
# Hides who takes part. The server sees sums of at least {fewest} devices' updates, never one.
# So few devices cannot hide much: the noise is as large as for thousands, the signal is not.

[plan]
unit = "user"
relation = "add-or-remove-one"
trust = "secure-aggregation"
cohort = {devices}
fewest = {fewest}
rounds = {rounds}
clip = 0.1
noise_multiplier = 1.0
""",
}


def make_localhost(
    folder: Path,
    *,
    package: Package,
    base: str,
    unit: str = "record",
    devices: int = 5,
    rounds: int = 3,
) -> Path:
    """Write certificates, a repository and ``coordinator.toml``; returns the file's path.

    What is there already is left as it is.

    Args:
        folder: made if it is missing.
        package: the base, which is published in the repository.
        base: its name or folder.
        unit: ``record`` or ``user``: which plan to begin with.
        devices: per round.
        rounds: in all.

    Raises:
        BadInputError: an unknown unit, or too few devices for secure sums.
    """
    if unit not in _PLANS:
        raise BadInputError(f"unit must be 'record' or 'user', got {unit!r}")
    if unit == "user" and devices < 3:
        raise BadInputError(f"secure sums need at least 3 devices, got {devices}")
    path = folder / "coordinator.toml"
    if not path.exists():
        make_certificates(folder / "tls")
        _make_repository(folder, package, base)
        plan = _PLANS[unit].format(devices=devices, fewest=max(3, devices // 2 + 1), rounds=rounds)
        target = Path(base).name
        path.write_text(_FILE.format(base=base, target=target, devices=devices, plan=plan))
    return path


_FILE = """\
name = "local"
base = "{base}"
base_target = "{target}"
repository = "repository"
state = "state"
min_nodes = {devices}
{plan}
[listen]
host = "127.0.0.1"
port = 8443
operator_port = 8444
certificate = "tls/server.pem"
key = "tls/server.key"
authorities = "tls/ca.pem"
"""


def _make_repository(folder: Path, package: Package, base: str) -> None:
    """A repository that holds the base; whoever has this folder can sign everything in it."""
    keys = {role: folder / "holders" / f"{role}.pem" for role in OFFLINE}
    public = {role: make_key(path, None) for role, path in keys.items()}
    now = datetime.datetime.now(datetime.UTC)
    repository = Repository.create(
        folder / "repository",
        root=[public["root"]],
        targets=[public["targets"]],
        online_adapters=True,
        now=now,
    )
    source = base_source(package.folder, [package.publisher])
    repository.add(source, Path(base).name, "1", now)
    for path in keys.values():
        repository.sign(load_signer(path, lambda _: b""))
    repository.publish(now)


def make_certificates(folder: Path, *, now: datetime.datetime | None = None) -> None:
    """Write an authority (``ca.pem``, ``ca.key``) and a server's certificate for localhost.

    Args:
        folder: made if it is missing.
        now: when they begin to hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begin = now or datetime.datetime.now(datetime.UTC)
    authority_key = ec.generate_private_key(ec.SECP384R1())
    authority = (
        _begun("locavore localhost authority", authority_key.public_key(), begin)
        .issuer_name(_named("locavore localhost authority"))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP384R1())
    names = [x509.DNSName("localhost"), *map(_address, ("127.0.0.1", "::1"))]
    server = (
        _begun("localhost", key.public_key(), begin)
        .issuer_name(authority.subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    for name, certificate, private in (
        ("ca", authority, authority_key),
        ("server", server, key),
    ):
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        handle = os.open(folder / f"{name}.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _begun(
    name: str, public: ec.EllipticCurvePublicKey, begin: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - datetime.timedelta(minutes=5))
        .not_valid_after(begin + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _address(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
