"""The vault's keys, from what the person knows or has down to one key per record.

passphrase → Argon2id → key-encryption key ─┐
raw 32 bytes, or a key in the OS keyring ───┴→ wraps the master → wraps a data key per record

- A header in clear says how the key-encryption key is made; it is authenticated by the wrap of
  the master, so a changed header opens nothing.
- A wrapped key takes 60 bytes: nonce 12, key 32, tag 16. Who destroys them destroys the record.
- Changing the passphrase makes a new master and wraps every data key anew; bodies stay as they are.

Sources: RFC 9106 (Argon2id), RFC 5869 (HKDF), NIST SP 800-38D (AES-GCM).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ...shared.errors import BadInputError, MissingExtraError, TamperError, UnlockError

__all__ = ["Hardness", "Key", "Keyring", "MasterKeys", "Passphrase", "Unlock", "seal", "unseal"]

_FORMAT = 1
_NONCE = 12
_MOST_MEMORY = 4 << 20  # KiB that a header may ask for; a changed one must not exhaust the machine
_SERVICE = "locavore"


@dataclass(frozen=True, kw_only=True)
class Hardness:
    """What one guess of a passphrase costs: RFC 9106's second recommended setting.

    Args:
        memory: KiB.
        iterations: passes over it.
        lanes: of parallelism.
    """

    memory: int = 64 << 10
    iterations: int = 3
    lanes: int = 4

    def __post_init__(self) -> None:
        if not (self.iterations >= 1 and 1 <= self.lanes <= 64):
            raise BadInputError(f"iterations and lanes must be at least 1, got {self}")
        if not 8 * self.lanes <= self.memory <= _MOST_MEMORY:
            raise BadInputError(f"memory must be {8 * self.lanes}..{_MOST_MEMORY} KiB, got {self}")


@dataclass(frozen=True)
class Passphrase:
    """Unlocks by something that the person knows."""

    by: ClassVar[str] = "passphrase"
    text: str = field(repr=False)
    hardness: Hardness = Hardness()

    def __post_init__(self) -> None:
        if not self.text:
            raise BadInputError("the passphrase is empty")

    def describe(self) -> dict[str, Any]:
        """How a new vault's key is made of it."""
        return {"by": self.by, "salt": os.urandom(16).hex(), **asdict(self.hardness)}

    def key(self, how: dict[str, Any]) -> bytes:
        """The key-encryption key, made as ``how`` says."""
        hardness = Hardness(**{name: int(how[name]) for name in asdict(self.hardness)})
        return Argon2id(
            salt=bytes.fromhex(how["salt"]),
            length=32,
            iterations=hardness.iterations,
            lanes=hardness.lanes,
            memory_cost=hardness.memory,
        ).derive(self.text.encode())


@dataclass(frozen=True)
class Key:
    """Unlocks by 32 random bytes that the application keeps, such as in a hardware keystore."""

    by: ClassVar[str] = "key"
    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise BadInputError(f"a key has 32 bytes, got {len(self.raw)}")

    def describe(self) -> dict[str, Any]:
        """How a new vault's key is made of it."""
        return {"by": self.by}

    def key(self, how: dict[str, Any]) -> bytes:
        """The key itself."""
        return self.raw


@dataclass(frozen=True)
class Keyring:
    """Unlocks by a key in the operating system's keyring, made there on first use.

    Needs the extra ``keyring``.
    """

    by: ClassVar[str] = "keyring"
    user: str

    def describe(self) -> dict[str, Any]:
        """How a new vault's key is made of it."""
        if self.read("key") is None:
            self.write("key", os.urandom(32).hex())
        return {"by": self.by}

    def key(self, how: dict[str, Any]) -> bytes:
        """The key from the keyring."""
        found = self.read("key")
        if found is None:
            raise UnlockError(f"the keyring holds no key for {self.user!r}")
        return bytes.fromhex(found)

    def read(self, what: str) -> str | None:
        """A value of this user's from the keyring."""
        return _keyring().get_password(_SERVICE, f"{self.user}/{what}")  # type: ignore[no-any-return]

    def write(self, what: str, value: str) -> None:
        """Keep a value of this user's in the keyring."""
        _keyring().set_password(_SERVICE, f"{self.user}/{what}", value)


Unlock = Passphrase | Key | Keyring


class MasterKeys:
    """The unlocked master and what is made of it. Everything in here is secret."""

    def __init__(self, store: bytes, kek: bytes, how: dict[str, Any], master: bytes) -> None:
        self.store = store
        self._kek, self._how, self._master = kek, how, master
        self.wrap = AESGCM(self._made("wrap"))
        self.state = self._made("state")

    @classmethod
    def create(cls, unlock: Unlock, store: bytes) -> MasterKeys:
        """A new master for a store's id of 16 bytes."""
        how = unlock.describe()
        return cls(store, unlock.key(how), how, os.urandom(32))

    @classmethod
    def open(cls, unlock: Unlock, header: str) -> MasterKeys:
        """Open a header.

        Raises:
            UnlockError: wrong passphrase or key, or the header was changed: one sentence for all.
        """
        refused = UnlockError(
            "the vault does not open: wrong passphrase or key, or its header was changed"
        )
        try:
            parsed = json.loads(header)
            how, store = parsed["kdf"], bytes.fromhex(parsed["store"])
            if parsed["format"] != _FORMAT or how["by"] != unlock.by:
                raise refused
            kek = unlock.key(how)
            master = unseal(kek, bytes.fromhex(parsed["master"]), _binding(store, how))
        except (ValueError, KeyError, TypeError, TamperError):
            raise refused from None
        return cls(store, kek, how, master)

    def renewed(self, unlock: Unlock | None = None) -> MasterKeys:
        """A new master of the same store, for the same unlocking or another."""
        if unlock is not None:
            return MasterKeys.create(unlock, self.store)
        return MasterKeys(self.store, self._kek, self._how, os.urandom(32))

    @property
    def header(self) -> str:
        """What is kept in clear: how to unlock, and the wrapped master."""
        wrapped = seal(self._kek, self._master, _binding(self.store, self._how))
        return json.dumps(
            {
                "format": _FORMAT,
                "store": self.store.hex(),
                "kdf": self._how,
                "master": wrapped.hex(),
            }
        )

    def _made(self, purpose: str) -> bytes:
        info = b"locavore vault " + purpose.encode()
        return HKDF(SHA256(), 32, salt=self.store, info=info).derive(self._master)


def seal(key: bytes, payload: bytes, binding: bytes) -> bytes:
    """Encrypt under a fresh nonce, authenticated together with ``binding``."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, payload, binding)


def unseal(key: bytes, sealed: bytes, binding: bytes) -> bytes:
    """Decrypt what :func:`seal` made.

    Raises:
        TamperError: another key, another binding, or changed bytes.
    """
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], binding)
    except (InvalidTag, ValueError):
        raise TamperError("a sealed value is not what was written") from None


def _binding(store: bytes, how: dict[str, Any]) -> bytes:
    return store + json.dumps([_FORMAT, how], sort_keys=True).encode()


def _keyring() -> Any:
    try:
        import keyring
    except ImportError:
        raise MissingExtraError("keyring", "a key in the operating system's keyring") from None
    return keyring
