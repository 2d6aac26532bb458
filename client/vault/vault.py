"""A person's records, what is derived from them, and how they are forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...shared.contexts import Context
from ...shared.errors import BadInputError
from ..concepts import Concept
from ..retrieval import Embedder, Retriever
from ..retrieval.search import WEIGHTS
from .certificate import Certificate, Left, issue, sign
from .codec import decode, encode, kind_of, media_of, parse
from .entries import Batch, Entries, Sort
from .file import SealedFile
from .index import Index
from .journal import VaultJournal
from .keys import Unlock
from .lineage import Cut, Lineages
from .memory import MemoryFile
from .things import Things

if TYPE_CHECKING:
    from ..membership import Membership

__all__ = ["Vault"]

_PART = 256 << 10  # bytes of a medium that are encrypted together
_KEPT, _MEMBERSHIP, _RETENTION, _WEIGHTS = "kept half", "membership", "retention", "weights"


class Vault:
    """Records of the five contexts, with consent and retention, on entries.

    Use :meth:`create`, :meth:`open` or, for what need not last, :meth:`in_memory`.

    Args:
        entries: where everything is kept.
        clock: gives the time; time that was seen once is never gone back behind.
    """

    def __init__(
        self, entries: Entries, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.entries = entries
        self.lineages = Lineages(entries)
        self._things = Things(entries)
        self._index = Index(entries)
        self._clock = clock
        self._due, self._latest = self._retention()
        self.expire()

    @classmethod
    def create(cls, folder: Path, unlock: Unlock) -> Vault:
        """Make an encrypted vault in a folder. Raises as :meth:`SealedFile.create`."""
        return cls(SealedFile.create(folder, unlock))

    @classmethod
    def open(
        cls,
        folder: Path,
        unlock: Unlock,
        *,
        read_only: bool = False,
        accept_rollback: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Vault:
        """Unlock a vault. Arguments and errors are those of :meth:`SealedFile.open`."""
        file = SealedFile.open(folder, unlock, read_only=read_only, accept_rollback=accept_rollback)
        return cls(file, clock=clock)

    @classmethod
    def in_memory(cls) -> Vault:
        """A vault that lives and dies with the process; nothing is written."""
        return cls(MemoryFile())

    def transaction(self) -> AbstractContextManager[Batch]:
        """Changes within the block are one."""
        return self.entries.transaction()

    def close(self) -> None:
        """Let go of files and keys."""
        self._index.forget()
        self.entries.close()

    # Records

    def add(self, record: Context) -> None:
        """Keep a record. Raises ``BadInputError`` when its id is taken."""
        self.add_all([record])

    def add_all(self, records: Sequence[Context]) -> None:
        """Keep records, all or none of them."""
        for record in records:
            if self.holds(record.id):
                raise BadInputError(f"there is a record {record.id!r} already; forget it first")
        with self.transaction() as batch:
            batch.put_all(Sort.RECORD, ((record.id, encode(record)) for record in records))
            for record in records:
                for name, part in _parts(record):
                    batch.put(Sort.MEDIA, name, part, owner=record.id)
            self._note_expiry(batch, records)

    def replace(self, record: Context) -> Certificate | None:
        """Put another version in the place of a record of the same id.

        What was trained on the old version forgets it; then a certificate is returned.
        """
        with self.transaction():
            certificate = self._take_out([record.id], "replaced")
            self.add(record)
        return certificate if certificate.adapters else None

    def get(self, record_id: str) -> Context:
        """The record of that id. Raises ``BadInputError`` when there is none."""
        try:
            record = self._decoded(self.entries.get(Sort.RECORD, record_id))
        except KeyError:
            raise BadInputError(f"there is no record {record_id!r}") from None
        if self._expired(record):
            raise BadInputError(f"there is no record {record_id!r}")
        return record

    def holds(self, record_id: str) -> bool:
        """Whether there is a record of that id."""
        return self.entries.holds(Sort.RECORD, record_id)

    def __iter__(self) -> Iterator[Context]:
        """Every record, oldest first."""
        self.expire()
        records = [self._decoded(raw) for raw in self.entries.all(Sort.RECORD)]
        kept = [record for record in records if not self._expired(record)]
        return iter(sorted(kept, key=lambda record: (record.time, record.id)))

    def __len__(self) -> int:
        """How many records there are."""
        self.expire()
        if self._overdue:
            return sum(1 for _ in self)
        return self.entries.count(Sort.RECORD)

    def keep_concept(self, record_id: str, concept: Concept) -> None:
        """Keep what a base has learned of a record's thing, under the record's own key.

        What the same base had learned of it before is replaced.

        Raises:
            BadInputError: there is no such record.
        """
        if not self.holds(record_id):
            raise BadInputError(f"there is no record {record_id!r}")
        self._things.keep(record_id, concept)

    @property
    def concepts(self) -> list[Concept]:
        """What was learned of the things of records that consent to training still."""
        return [
            concept
            for record in self
            if record.consent.train
            for concept in self._things.of(record.id)
        ]

    # Forgetting

    def forget(self, record_ids: Sequence[str], *, why: str = "asked") -> Certificate:
        """Destroy records and everything made of them; see :mod:`.lineage` for adapters.

        Raises:
            BadInputError: there is no record of one of these ids; then nothing is forgotten.
        """
        for record_id in record_ids:
            if not self.holds(record_id):
                raise BadInputError(f"there is no record {record_id!r}")
        with self.transaction() as batch:
            certificate = self._take_out(list(dict.fromkeys(record_ids)), why)
            number = self.entries.count(Sort.CERTIFICATE)
            batch.put(Sort.CERTIFICATE, str(number), certificate.to_json().encode())
        return certificate

    def forget_everything(self) -> Certificate:
        """Destroy all there is, with the master key; certificates and the ledger remain."""
        ids = [parse(raw)["id"] for raw in self.entries.all(Sort.RECORD)]
        heads = {lineage.base_id: lineage.private_digest for lineage in self.lineages}
        cuts = [
            Cut(base_id=base_id, before=head, after=None, due=0)
            for base_id, head in heads.items()
            if head is not None
        ]
        spent = self.journal.lines()  # holds nothing personal, and what was spent stays spent
        said = self.certificates
        with self.transaction() as batch:
            certificate = self._certificate(ids, "everything", cuts, self._left(set(ids)))
            batch.clear()
            for number, one in enumerate([*said, certificate]):
                batch.put(Sort.CERTIFICATE, str(number), one.to_json().encode())
            batch.put_all(Sort.CHARGE, ((str(i), line) for i, line in enumerate(spent)))
        self._index.forget()
        self._due = None
        return certificate

    def expire(self) -> Certificate | None:
        """Forget the records whose time has come; the certificate, if there were any."""
        if not self._overdue or self.entries.read_only:
            return None
        rows = [parse(raw) for raw in self.entries.all(Sort.RECORD)]
        limits = {row["id"]: _timestamp(row["expires"]) for row in rows if row["expires"]}
        now = self._now()
        gone = [record_id for record_id, limit in limits.items() if limit <= now]
        with self.transaction() as batch:
            certificate = self.forget(gone, why="expired") if gone else None
            self._due = min((limit for limit in limits.values() if limit > now), default=None)
            self._write_retention(batch)
        return certificate

    @property
    def certificates(self) -> list[Certificate]:
        """Of everything that was forgotten, in order."""
        return [Certificate.from_json(raw.decode()) for raw in self.entries.all(Sort.CERTIFICATE)]

    def complete_certificates(self) -> None:
        """Where nothing of a base is due to be trained again, say what took its adapter's place."""
        with self.transaction() as batch:
            for number, said in enumerate(self.certificates):
                done = replace(said, adapters=tuple(map(self._completed, said.adapters)))
                if done != said:
                    signed = sign(done, self.entries.identity)
                    batch.put(Sort.CERTIFICATE, str(number), signed.to_json().encode())

    def _completed(self, cut: Cut) -> Cut:
        lineage = self.lineages.of(cut.base_id)
        if not cut.due or lineage.due:
            return cut
        return replace(cut, after=lineage.private_digest, due=0)

    # What records were used for

    def note_use(
        self,
        record_ids: Collection[str],
        *,
        purpose: str,
        round: int,
        unit: str,
        epsilon: float,
        delta: float,
    ) -> None:
        """Write down that a federated training could use records, before it does."""
        use = {
            "records": sorted(record_ids),
            "purpose": purpose,
            "round": round,
            "unit": unit,
            "epsilon": epsilon,
            "delta": delta,
        }
        with self.transaction() as batch:
            batch.put(Sort.USE, f"{purpose}/{round}", json.dumps(use).encode())

    def uses(self, record_id: str) -> tuple[Left, ...]:
        """The federated trainings that could use a record."""
        return tuple(self._left({record_id}))

    @property
    def journal(self) -> VaultJournal:
        """The privacy ledger's lines, in this vault."""
        return VaultJournal(self.entries)

    # The half of a shared adapter that stays here

    def kept_half(self) -> bytes:
        """What :meth:`keep_half` was given last; empty where nothing is kept."""
        if not self.entries.holds(Sort.SETTING, _KEPT):
            return b""
        return self.entries.get(Sort.SETTING, _KEPT)

    def keep_half(self, raw: bytes) -> None:
        """Keep the trained half of a shared adapter that does not leave this device.

        It was trained on the records, so it goes when any of them is forgotten.
        """
        with self.transaction() as batch:
            batch.put(Sort.SETTING, _KEPT, raw)

    # Retrieval

    def retriever(self, embedder: Embedder | None = None) -> Retriever:
        """Searches the records that consent to retrieval; indexes first what is new."""
        self.expire()
        segments = self._index.segments(self._retrievable, embedder)
        if self._overdue:
            kept = {record.id for record in self}
            segments = [s.without(s.ids - kept) for s in segments]
        return Retriever(segments, self.get, embedder, self.weights)

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the rankings in retrieval, as learned."""
        if not self.entries.holds(Sort.SETTING, _WEIGHTS):
            return WEIGHTS
        found: dict[str, float] = json.loads(self.entries.get(Sort.SETTING, _WEIGHTS))
        return found

    def keep_weights(self, weights: Mapping[str, float]) -> None:
        """Keep learned weights."""
        with self.transaction() as batch:
            batch.put(Sort.SETTING, _WEIGHTS, json.dumps(dict(weights)).encode())

    # Federation

    @property
    def membership(self) -> Membership:
        """Of a federation. Raises ``BadInputError`` where this vault is no member of one."""
        from ..membership import Membership

        if not self.is_member:
            raise BadInputError("this device is in no federation; see 'locavore device join'")
        return Membership.from_json(self.entries.get(Sort.SETTING, _MEMBERSHIP).decode())

    @property
    def is_member(self) -> bool:
        """Whether this vault is a member of a federation."""
        return self.entries.holds(Sort.SETTING, _MEMBERSHIP)

    def keep_membership(self, membership: Membership | None) -> None:
        """Keep a membership, in place of the one before; None: end it."""
        with self.transaction() as batch:
            if membership is not None:
                batch.put(Sort.SETTING, _MEMBERSHIP, membership.to_json().encode())
            elif self.is_member:
                batch.delete(Sort.SETTING, _MEMBERSHIP)

    # Within

    def _retrievable(self, after: int) -> Iterator[tuple[str, Context]]:
        for raw in self.entries.all(Sort.RECORD, after):
            record = decode(raw)  # retrieval reads texts: media stay where they are
            if record.consent.retrieve:
                yield kind_of(record), record

    def _decoded(self, raw: bytes) -> Context:
        row = parse(raw)
        media = []
        for number, length in enumerate(row["media"]):
            names = _part_names(row["id"], number, length)
            parts = [self.entries.get(Sort.MEDIA, name, owner=row["id"]) for name in names]
            media.append(b"".join(parts))
        return decode(raw, media)

    def _take_out(self, ids: list[str], why: str) -> Certificate:
        with self.transaction() as batch:
            left = self._left(set(ids), remove=True)
            for record_id in ids:
                row = parse(self.entries.get(Sort.RECORD, record_id))
                for number, length in enumerate(row["media"]):
                    for name in _part_names(record_id, number, length):
                        batch.delete(Sort.MEDIA, name)
                self._things.remove(record_id)
                batch.delete(Sort.RECORD, record_id)
            if self.entries.holds(Sort.SETTING, _KEPT):
                batch.delete(Sort.SETTING, _KEPT)
            self._index.remove(set(ids))
            return self._certificate(ids, why, self.lineages.cut(ids), left)

    def _certificate(
        self, ids: Sequence[str], why: str, cuts: Sequence[Cut], left: Sequence[Left]
    ) -> Certificate:
        return issue(
            identity=self.entries.identity,
            store=self.entries.store_id,
            time=datetime.fromtimestamp(self._now(), UTC),
            why=why,
            records=ids,
            cuts=cuts,
            left=left,
        )

    def _left(self, ids: set[str], *, remove: bool = False) -> list[Left]:
        """Federated trainings that used any of these; their ids are taken out if asked."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for raw in self.entries.all(Sort.USE):
            use = json.loads(raw)
            if ids.isdisjoint(use["records"]):
                continue
            found.setdefault((use["purpose"], use["unit"]), []).append(use)
            if remove:
                kept = {**use, "records": [r for r in use["records"] if r not in ids]}
                name = f"{use['purpose']}/{use['round']}"
                with self.transaction() as batch:
                    batch.put(Sort.USE, name, json.dumps(kept).encode())
        return [
            Left(
                purpose=purpose,
                rounds=tuple(sorted(use["round"] for use in uses)),
                unit=unit,
                epsilon=max(use["epsilon"] for use in uses),
                delta=uses[-1]["delta"],
            )
            for (purpose, unit), uses in found.items()
        ]

    # Retention

    def _now(self) -> float:
        return max(self._clock().timestamp(), self._latest)

    @property
    def _overdue(self) -> bool:
        """Whether a record should have been forgotten: a reader cannot, it only hides them."""
        return self._due is not None and self._now() >= self._due

    def _expired(self, record: Context) -> bool:
        return record.expires is not None and record.expires.timestamp() <= self._now()

    def _note_expiry(self, batch: Batch, records: Iterable[Context]) -> None:
        limits = [r.expires.timestamp() for r in records if r.expires is not None]
        if limits:
            self._due = min([*limits, *([] if self._due is None else [self._due])])
            self._write_retention(batch)

    def _write_retention(self, batch: Batch) -> None:
        self._latest = self._now()
        kept = {"due": self._due, "latest": self._latest}
        batch.put(Sort.SETTING, _RETENTION, json.dumps(kept).encode())

    def _retention(self) -> tuple[float | None, float]:
        if not self.entries.holds(Sort.SETTING, _RETENTION):
            return None, 0.0
        kept = json.loads(self.entries.get(Sort.SETTING, _RETENTION))
        return kept["due"], kept["latest"]


def _parts(record: Context) -> Iterator[tuple[str, bytes]]:
    for number, medium in enumerate(media_of(record)):
        for place, name in enumerate(_part_names(record.id, number, len(medium))):
            yield name, medium[place * _PART : (place + 1) * _PART]


def _part_names(record_id: str, number: int, length: int) -> list[str]:
    count = -(-length // _PART)
    return [f"{number}/{place}/{count}/{record_id}" for place in range(count)]


def _timestamp(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
