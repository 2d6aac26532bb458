"""Keys of a repository: Ed25519 in PEM files, encrypted where a person holds them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from ...shared.errors import BadInputError, RepositoryError

__all__ = ["HOLDER", "Passphrase", "holder", "load_public", "load_signer", "make_key"]

HOLDER = "x-locavore-holder"
"""Field of a key in the root: who holds it, for messages to people."""

Passphrase = Callable[[Path], bytes]
"""Asked for the passphrase of a key file."""


def make_key(path: Path, passphrase: bytes | None) -> SSlibKey:
    """Make a private key in ``path`` and its public half beside it, ending in ``.pub``.

    Args:
        passphrase: encrypts the file; None is for the online keys of a server.

    Raises:
        BadInputError: the file exists, or the passphrase is empty.
    """
    if passphrase is not None and not passphrase:
        raise BadInputError(f"the passphrase of {path} must not be empty")
    if path.suffix == ".pub":
        raise BadInputError(f"{path}: .pub is where the public half goes; name it .pem")
    key = Ed25519PrivateKey.generate()
    sealing = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BadInputError(f"{path} exists; a key is never written over") from None
    with os.fdopen(handle, "wb") as stream:
        stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return _named(key.public_key(), path)


def load_public(path: Path) -> SSlibKey:
    """The public key in a ``.pub`` file, or in the one beside a private key.

    Raises:
        BadInputError: there is none, or it is no Ed25519 key.
    """
    beside = path if path.suffix == ".pub" else path.with_suffix(".pub")
    try:
        key = load_pem_public_key(beside.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise BadInputError(f"{beside} is no public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadInputError(f"{beside} is no Ed25519 key; make one with 'locavore repo key'")
    return _named(key, beside)


def load_signer(path: Path, passphrase: Passphrase) -> CryptoSigner:
    """What signs with a private key; ``passphrase`` is asked only when the file is encrypted.

    Raises:
        BadInputError: there is no such key, or it is no Ed25519 key.
        RepositoryError: the passphrase is wrong.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}") from None
    secret = passphrase(path) if b"ENCRYPTED" in raw else None
    try:
        key = load_pem_private_key(raw, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = "the passphrase is wrong" if secret is not None else "it is no private key in PEM"
        raise RepositoryError(f"{path} cannot be opened: {what}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInputError(f"{path} is no Ed25519 key; make one with 'locavore repo key'")
    return CryptoSigner(key, _named(key.public_key(), path))


def holder(key: SSlibKey) -> str:
    """Who holds a key, with the first digits of its id."""
    return f"{key.unrecognized_fields.get(HOLDER, 'somebody')} ({key.keyid[:8]})"


def _named(public: Ed25519PublicKey, path: Path) -> SSlibKey:
    key = SSlibKey.from_crypto(public)
    key.unrecognized_fields[HOLDER] = path.stem
    return key
