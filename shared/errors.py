"""Everything that locavore raises on purpose.

LocavoreError
├── BadInputError            a value that the caller gave cannot be used
│   ├── ConsentError         a record may not be used in this way
│   ├── TooLittleDataError   not enough records for what was asked
│   └── ContextLengthError   a prompt is longer than the model's context
├── PackageError             a base-model package cannot be used
│   ├── PackageNotFoundError no package under that name or path
│   ├── IntegrityError       a file or signature does not match its manifest
│   └── ExportMismatchError  exported graph and torch twin disagree
├── AdapterError             an adapter cannot be used with this base
├── TrainingError            training went wrong (non-finite loss, nothing changed)
├── PrivacyError             a privacy rule would be broken
│   ├── WireError            something not on the allow-list was about to leave
│   └── SecAggError          a message that would weaken a secure sum, or a sum that failed
├── FederationError          a federation cannot start, go on or resume
│   ├── AdmissionError       a device is not let in, or an invitation does not hold
│   └── RevokedError         a federation lets this device in no more
├── DistributionError        packages cannot be published or fetched
│   ├── RepositoryError      a repository cannot be made, signed or published
│   ├── UntrustedError       a repository's metadata is forged, old, expired or mixed
│   ├── DownloadError        a repository cannot be reached, or sends too little or too much
│   └── SelfCheckError       a package failed its check on this device and was not installed
├── VaultError               the store of a person's records cannot be used
│   ├── UnlockError          wrong passphrase or key, or a changed header
│   ├── VaultBusyError       another process writes to it
│   └── TamperError          something in it is not what was written
└── MissingExtraError        an optional part is not installed
"""

__all__ = [
    "AdapterError",
    "AdmissionError",
    "BadInputError",
    "ConsentError",
    "ContextLengthError",
    "DistributionError",
    "DownloadError",
    "ExportMismatchError",
    "FederationError",
    "IntegrityError",
    "LocavoreError",
    "MissingExtraError",
    "PackageError",
    "PackageNotFoundError",
    "PrivacyError",
    "RepositoryError",
    "RevokedError",
    "SecAggError",
    "SelfCheckError",
    "TamperError",
    "TooLittleDataError",
    "TrainingError",
    "UnlockError",
    "UntrustedError",
    "VaultBusyError",
    "VaultError",
    "WireError",
]


class LocavoreError(Exception):
    """Base of every error that locavore raises on purpose."""

    exit_code = 1


class BadInputError(LocavoreError, ValueError):
    """A value that the caller gave cannot be used."""

    exit_code = 2


class ConsentError(BadInputError):
    """A record may not be used in this way."""


class TooLittleDataError(BadInputError):
    """There are not enough records for what was asked."""


class ContextLengthError(BadInputError):
    """A prompt does not fit in the model's context."""


class PackageError(LocavoreError):
    """A base-model package cannot be used."""

    exit_code = 3


class PackageNotFoundError(PackageError):
    """There is no package under that name or path."""


class IntegrityError(PackageError):
    """A file or a signature does not match the manifest."""


class ExportMismatchError(PackageError):
    """The exported graph and its torch twin disagree by more than the tolerance."""


class AdapterError(LocavoreError):
    """An adapter cannot be used with this base."""

    exit_code = 4


class TrainingError(LocavoreError):
    """Training went wrong: a non-finite loss, or nothing changed."""

    exit_code = 5


class PrivacyError(LocavoreError):
    """A privacy rule would be broken."""

    exit_code = 6


class WireError(PrivacyError):
    """Something that is not on the allow-list was about to leave the device."""


class SecAggError(PrivacyError):
    """A message that would weaken a secure sum was refused, or the sum failed."""


class FederationError(LocavoreError):
    """A federation cannot start, go on or resume."""

    exit_code = 7


class AdmissionError(FederationError):
    """A device is not let in, or an invitation does not hold."""


class RevokedError(FederationError):
    """A federation lets this device in no more."""


class DistributionError(LocavoreError):
    """Packages cannot be published or fetched."""

    exit_code = 10


class RepositoryError(DistributionError):
    """A repository cannot be made, signed or published."""


class UntrustedError(DistributionError):
    """A repository's metadata is forged, older than known, expired, or does not fit together."""


class DownloadError(DistributionError):
    """A repository cannot be reached, is too slow, or sends too little or too much."""


class SelfCheckError(DistributionError):
    """A package failed its check on this device, and the one before it stays in use."""


class VaultError(LocavoreError):
    """The store of a person's records cannot be used."""

    exit_code = 9


class UnlockError(VaultError):
    """Wrong passphrase or key, or the vault's header was changed."""


class VaultBusyError(VaultError):
    """Another process writes to the vault."""


class TamperError(VaultError):
    """Something in the vault is not what was written."""


class MissingExtraError(LocavoreError, ImportError):
    """An optional part of locavore is not installed."""

    exit_code = 8

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs an extra: pip install 'locavore[{extra}]'")
