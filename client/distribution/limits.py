"""What a repository may cost a device at most."""

from __future__ import annotations

from dataclasses import dataclass

from ...shared.chunk_index import MAX_CHUNK_BYTES
from ...shared.errors import BadInputError

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on bytes, numbers and seconds; what exceeds one is refused.

    Args:
        root_bytes: of one root.
        root_rotations: roots that may be followed in one refresh.
        timestamp_bytes: of the timestamp.
        snapshot_bytes: of the snapshot, unless the timestamp states its length.
        targets_bytes: of a list of targets, unless the snapshot states its length.
        index_bytes: of a package's index.
        files: in a package.
        chunk_bytes: of one chunk.
        package_bytes: of a package in all.
        connect_seconds: until a connection stands.
        read_seconds: between two pieces of an answer.
        slowest_bytes_per_second: on average over an answer, once it has taken ``patience_seconds``.
        patience_seconds: see there.
        attempts: connections for one chunk that break off before a download is given up.
        pause_seconds: before the second attempt; twice as long before each one after.
        checks: self-checks of one version that may end without a verdict, by a crash, before it
            counts as bad.
    """

    root_bytes: int = 512_000
    root_rotations: int = 256
    timestamp_bytes: int = 16_384
    snapshot_bytes: int = 2_000_000
    targets_bytes: int = 5_000_000
    index_bytes: int = 16_000_000
    files: int = 10_000
    chunk_bytes: int = MAX_CHUNK_BYTES
    package_bytes: int = 16_000_000_000
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    slowest_bytes_per_second: float = 1_000.0
    patience_seconds: float = 60.0
    attempts: int = 5
    pause_seconds: float = 0.5
    checks: int = 2

    def __post_init__(self) -> None:
        wrong = [f"{name} {value}" for name, value in vars(self).items() if not value > 0]
        if wrong:
            raise BadInputError(f"limits must be above 0, got {', '.join(wrong)}")
