"""A repository in a folder: what is published, what waits for signatures, and the online keys.

::

    public/              serve this, as it is
      metadata/          N.root.json, N.targets.json, N.snapshot.json, …, timestamp.json, root.json
      targets/           indexes of packages, named by their hashes
      packs/             chunks of packages, named by their hashes
    staged/              root.json, targets.json: drafts that wait for signatures
    keys/                of the roles that a server signs for; never serve this

Everything is written whole, and ``timestamp.json`` last: a device sees the state before or after.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from ...shared.chunk_index import Index, require_name, target_path, version_order
from ...shared.errors import BadInputError, PackageError, RepositoryError
from ...shared.files import lock_folder, write_whole
from . import roles
from .keys import Passphrase, holder, load_public, load_signer, make_key
from .packs import index_folder
from .roles import ADAPTERS, OFFLINE, Terms
from .sources import Source

__all__ = ["Repository", "RoleState"]

_Signed = TypeVar("_Signed", bound=Signed)
_ONLINE = ("snapshot", "timestamp")


def _no_passphrase(path: Path) -> bytes:
    raise RepositoryError(f"{path} is encrypted; online keys are opened without a passphrase")


class RoleState:
    """How it stands with one role: version, expiry, threshold, and what is missing.

    Args:
        role: its name.
        version: of the draft if there is one, else what is published.
        expires: when that ends (UTC).
        draft: whether it waits to be published.
        missing: signatures that it lacks.
        holders: people whose signatures would count.
        keys: how many keys the role has.
        threshold: how many of them must sign.
    """

    def __init__(
        self, role: str, document: Metadata[Any], draft: bool, lacks: roles.Missing, judge: Any
    ) -> None:
        self.role = role
        self.version: int = document.signed.version
        self.expires: datetime = document.signed.expires
        self.draft = draft
        self.missing = lacks.count
        self.holders = tuple(_holder(key) for key in lacks.holders)
        held = judge.get_delegated_role(role)
        self.keys, self.threshold = len(held.keyids), int(held.threshold)


class Repository:
    """Authors a repository. Open one with :meth:`open`, make one with :meth:`create`.

    Args:
        folder: see the module.
        passphrase: asked for the passphrase of an online key that is encrypted.
    """

    def __init__(self, folder: Path, passphrase: Passphrase = _no_passphrase) -> None:
        self.folder, self.public = folder, folder / "public"
        self._metadata, self._staged = self.public / "metadata", folder / "staged"
        self._keys, self._passphrase = folder / "keys", passphrase

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        root: Sequence[SSlibKey],
        targets: Sequence[SSlibKey],
        root_threshold: int = 1,
        targets_threshold: int = 1,
        online_adapters: bool = False,
        terms: Terms | None = None,
        now: datetime,
    ) -> Repository:
        """Begin a repository: drafts of root and targets to be signed, and fresh online keys.

        Args:
            root, targets: public keys of the holders.
            root_threshold, targets_threshold: how many of them must sign.
            online_adapters: let a server's key publish adapters without the holders.

        Raises:
            BadInputError: the folder holds something, or a threshold is out of bounds.
        """
        if folder.exists() and any(path.name != "keys" for path in folder.iterdir()):
            raise BadInputError(f"{folder} is not empty; begin a repository in a new folder")
        terms = terms or Terms()
        by_role = {"root": root, "targets": targets}
        thresholds = {"root": root_threshold, "targets": targets_threshold}
        for role in OFFLINE:  # before any key is made
            roles._threshold(role, thresholds[role], len({key.keyid for key in by_role[role]}))
        repository = cls(folder)
        for part in ("metadata", "targets", "packs"):
            (repository.public / part).mkdir(parents=True, exist_ok=True)
        repository._staged.mkdir()
        online = {role: [make_key(repository._keys / f"{role}-1.pem", None)] for role in _ONLINE}
        draft = roles.first_root({**by_role, **online}, thresholds, terms, now)
        listed = roles.first_targets(terms, now)
        if online_adapters:
            key = make_key(repository._keys / f"{ADAPTERS}-1.pem", None)
            roles.delegate_adapters(listed.signed, key)
            repository._save_draft(ADAPTERS, roles.first_targets(terms, now))
        repository._save_draft("root", draft)
        repository._save_draft("targets", listed)
        return repository

    @classmethod
    def open(cls, folder: Path, passphrase: Passphrase = _no_passphrase) -> Repository:
        """Open what :meth:`create` made.

        Raises:
            BadInputError: there is no repository.
        """
        repository = cls(folder, passphrase)
        if not (repository._metadata.is_dir() and repository._staged.is_dir()):
            raise BadInputError(f"no repository in {folder}; begin one with 'locavore repo init'")
        return repository

    # What there is

    def root(self) -> Root:
        """The newest root, draft or published."""
        return self._latest("root", Root).signed

    def targets(self) -> dict[str, TargetFile]:
        """Signed indexes by their paths, drafts included."""
        listed = dict(self._latest("targets", Targets).signed.targets)
        if self._online_adapters():
            listed |= self._latest(ADAPTERS, Targets).signed.targets
        return listed

    def index(self, path: str) -> Index:
        """The index behind a path of :meth:`targets`.

        Raises:
            RepositoryError: its file is missing or was changed.
        """
        target = self.targets()[path]
        file = self.public / "targets" / target.get_prefixed_paths()[0]
        try:
            raw = file.read_bytes()
            target.verify_length_and_hashes(raw)
            return Index.from_json(raw)
        except Exception as error:
            raise RepositoryError(f"{file} is not what was added: {error}") from None

    def states(self) -> list[RoleState]:
        """How it stands with every role that has a document."""
        found = []
        for role in self._documents():
            document, draft = self._newest(role), self._draft(role)
            shown = draft or document
            if shown is not None:
                judge = self._judge(role)
                lacks = self._missing(role, shown) if draft else roles.Missing(0, ())
                found.append(RoleState(role, shown, draft is not None, lacks, judge))
        return found

    # Changes

    def add(self, source: Source, name: str, version: str, now: datetime) -> Index:
        """Cut a package into chunks, write those that are new, and list its index as a target.

        Raises:
            BadInputError: a wrong name, or the version is there already.
        """
        require_name(source.kind, name, version)
        with lock_folder(self.folder):
            others = [path for path in self.targets() if path.startswith(f"{source.kind}/{name}/")]
            for path in others:
                if version_order(Path(path).stem) == version_order(version):
                    raise BadInputError(
                        f"{name} {Path(path).stem} is there already; what was published is never "
                        "changed: take a higher version"
                    )
            index = index_folder(
                source.folder,
                self.public,
                [self.index(path) for path in self.targets()],
                names=source.files,
                kind=source.kind,
                name=name,
                version=version,
                base_id=source.base_id,
                publisher=source.publisher,
            )
            raw, path = index.to_json(), target_path(source.kind, name, version)
            target = TargetFile.from_data(path, raw, ["sha256"])
            target.unrecognized_fields["custom"] = {"base_id": index.base_id, "bytes": index.nbytes}
            file = self.public / "targets" / target.get_prefixed_paths()[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, raw)
            online = source.kind == ADAPTERS and self._online_adapters()
            role = ADAPTERS if online else "targets"
            draft = self._begin(role, Targets, now)
            draft.signed.targets[path] = target
            self._save_draft(role, draft)
        return index

    def renew(self, role: str, now: datetime) -> None:
        """Begin a draft of ``root`` or ``targets`` with a new expiry and nothing else changed.

        Raises:
            BadInputError: another role.
        """
        if role not in OFFLINE:
            raise BadInputError(f"only {' and '.join(OFFLINE)} are signed by people, got {role!r}")
        with lock_folder(self.folder):
            self._save_draft(role, self._begin(role, Signed, now))

    def rotate(
        self,
        role: str,
        *,
        drop: Sequence[SSlibKey | Key] = (),
        add: Sequence[SSlibKey] = (),
        threshold: int | None = None,
        now: datetime,
    ) -> None:
        """Change the keys of a role in a draft that people sign.

        An online role that is given no keys gets a fresh one in the place of all it had.

        Raises:
            BadInputError: no such role, a key to drop that it has not, or a threshold out of
                bounds.
        """
        if role not in (*roles.ROLES, *([ADAPTERS] if self._online_adapters() else [])):
            raise BadInputError(f"role must be one of {', '.join(self._documents())}, got {role!r}")
        if role in OFFLINE and not (drop or add or threshold):
            raise BadInputError(f"name the keys of {role} to add or to drop, or a new threshold")
        with lock_folder(self.folder):
            delegating = "targets" if role == ADAPTERS else "root"
            draft = self._begin(delegating, Signed, now)
            dropped = [key.keyid for key in drop]
            if role not in OFFLINE and not (drop or add):
                dropped = list(roles.keys_of(draft.signed, role))
                add = [make_key(self._fresh_key(role), None)]
            roles.with_keys(draft.signed, role, drop=dropped, add=add, threshold=threshold)
            self._save_draft(delegating, draft)
            if role in ("targets", ADAPTERS) and self._draft(role) is None:
                self._save_draft(role, self._begin(role, Targets, now))

    def sign(self, signer: CryptoSigner) -> list[str]:
        """Sign every draft in which the key counts; return the drafts' roles.

        Raises:
            RepositoryError: there is no such draft.
        """
        signed = []
        with lock_folder(self.folder):
            for role in OFFLINE:
                draft = self._draft(role)
                if draft is None or signer.public_key.keyid not in self._eligible(role):
                    continue
                draft.sign(signer, append=True)
                self._save_draft(role, draft)
                signed.append(role)
        if not signed:
            raise RepositoryError(
                f"no draft waits for the key {holder(signer.public_key)}; see 'locavore repo show'"
            )
        return signed

    def publish(self, now: datetime) -> None:
        """Put the drafts in place, with a new snapshot and timestamp; the timestamp comes last.

        Raises:
            RepositoryError: signatures, an online key or an indexed file are missing; nothing was
                changed.
        """
        with lock_folder(self.folder):
            if self._online_adapters() and (adapters := self._draft(ADAPTERS)) is not None:
                adapters.sign(self._signer(ADAPTERS, self._latest("targets", Targets).signed))
                self._save_draft(ADAPTERS, adapters)
            for role in self._documents()[:-2]:
                self._require_signed(role)
            for path in self.targets():
                self._require_packs(self.index(path))
            signers = {role: self._signer(role, self.root()) for role in _ONLINE}
            for role in self._documents()[:-2]:
                if (draft := self._draft(role)) is not None:
                    self._put(role, draft)
            self._write_snapshot(signers["snapshot"], now)
            self._write_timestamp(signers["timestamp"], now)
            for path in self._staged.glob("*.json"):
                path.unlink()

    def refresh(self, now: datetime) -> dict[str, datetime]:
        """Renew the timestamp, and what else the server signs when half of its time is over.

        To be called a few times within the timestamp's days (see :class:`Terms`).

        Returns:
            When each role's published document expires (UTC), for a warning to people in time.

        Raises:
            RepositoryError: nothing was published yet, or an online key is missing.
        """
        with lock_folder(self.folder):
            published = self._newest("root")
            if published is None or self._newest("snapshot") is None:
                raise RepositoryError(f"{self.folder} was not published yet")
            root: Root = published.signed
            if self._online_adapters() and self._half_over(ADAPTERS, now):
                renewed = self._renewed(ADAPTERS, now)
                listed = self._newest("targets")
                renewed.sign(self._signer(ADAPTERS, listed.signed))  # type: ignore[union-attr]
                self._put(ADAPTERS, renewed)
            if self._snapshot_is_behind() or self._half_over("snapshot", now):
                self._write_snapshot(self._signer("snapshot", root), now)
            self._write_timestamp(self._signer("timestamp", root), now)
            newest = {role: self._newest(role) for role in self._documents()}
            return {role: found.signed.expires for role, found in newest.items() if found}

    # Documents

    def _documents(self) -> tuple[str, ...]:
        extra = (ADAPTERS,) if self._online_adapters() else ()
        return (*OFFLINE, *extra, *_ONLINE)

    def _online_adapters(self) -> bool:
        delegations = self._latest("targets", Targets).signed.delegations
        return delegations is not None and ADAPTERS in (delegations.roles or {})

    def _newest(self, role: str) -> Metadata[Any] | None:
        """What is published of a role."""
        path = self._newest_path(role)
        return None if path is None else Metadata.from_bytes(path.read_bytes())

    def _newest_path(self, role: str) -> Path | None:
        if role == "timestamp":
            path = self._metadata / "timestamp.json"
            return path if path.is_file() else None
        found = {
            int(match[1]): path
            for path in self._metadata.glob(f"*.{role}.json")
            if (match := re.fullmatch(rf"(\d+)\.{role}\.json", path.name))
        }
        return found[max(found)] if found else None

    def _draft(self, role: str) -> Metadata[Any] | None:
        """What waits to be published; a draft that was put in place already does not count."""
        path = self._staged / f"{role}.json"
        if not path.is_file():
            return None
        draft: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
        published = self._newest(role)
        return draft if published is None or draft.signed.version > published.signed.version else None

    def _latest(self, role: str, _kind: type[_Signed]) -> Metadata[_Signed]:
        found = self._draft(role) or self._newest(role)
        if found is None:
            raise RepositoryError(f"{self.folder} has no {role}; was it copied in part?")
        return found

    def _begin(self, role: str, _kind: type[_Signed], now: datetime) -> Metadata[Any]:
        draft = self._draft(role)
        if draft is None:
            return self._renewed(role, now)
        expiry = roles.terms_of(self.root()).expiry(role, now)
        return roles.renewed(draft, expiry, published=False)

    def _renewed(self, role: str, now: datetime) -> Metadata[Any]:
        published = self._newest(role)
        if published is None:
            raise RepositoryError(f"{self.folder} has no {role}; was it copied in part?")
        expiry = roles.terms_of(self.root()).expiry(role, now)
        return roles.renewed(published, expiry, published=True)

    def _save_draft(self, role: str, draft: Metadata[Any]) -> None:
        write_whole(self._staged / f"{role}.json", draft.to_bytes())

    def _put(self, role: str, document: Metadata[Any]) -> None:
        raw = document.to_bytes()
        name = "timestamp" if role == "timestamp" else f"{document.signed.version}.{role}"
        write_whole(self._metadata / f"{name}.json", raw)
        if role == "root":
            write_whole(self._metadata / "root.json", raw)

    # Signatures

    def _judge(self, role: str) -> Root | Targets:
        """Whose document names the keys of a role."""
        return self._latest("targets", Targets).signed if role == ADAPTERS else self.root()

    def _missing(self, role: str, draft: Metadata[Any]) -> roles.Missing:
        previous = self._newest("root") if role == "root" else None
        before = previous.signed if previous is not None else None
        return roles.missing(draft, role, self._judge(role), before)

    def _eligible(self, role: str) -> set[str]:
        judges = [self.root()]
        if role == "root" and (published := self._newest("root")) is not None:
            judges.append(published.signed)
        return {keyid for judge in judges for keyid in judge.get_delegated_role(role).keyids}

    def _require_signed(self, role: str) -> None:
        document = self._draft(role) or self._newest(role)
        if document is None:
            raise RepositoryError(f"{self.folder} has no {role}; was it copied in part?")
        lacks = self._missing(role, document) if self._draft(role) else self._check(role, document)
        if lacks.count:
            whose = ", ".join(_holder(key) for key in lacks.holders)
            raise RepositoryError(
                f"{role} version {document.signed.version} lacks {lacks.count} signature(s), of "
                f"any of {whose}; let them run 'locavore repo sign'"
            )

    def _check(self, role: str, published: Metadata[Any]) -> roles.Missing:
        """Whether what is published still counts, after the keys of its role changed."""
        return roles.missing(published, role, self._judge(role))

    def _signer(self, role: str, delegator: Root | Targets) -> CryptoSigner:
        wanted = delegator.get_delegated_role(role).keyids
        for path in sorted(self._keys.glob("*.pem")):
            if path.with_suffix(".pub").is_file() and load_public(path).keyid in wanted:
                return load_signer(path, self._passphrase)
        raise RepositoryError(
            f"{self._keys} holds no key of the role {role}; put it back, or make a new one with "
            f"'locavore repo rotate'"
        )

    def _fresh_key(self, role: str) -> Path:
        number = 1
        while (path := self._keys / f"{role}-{number}.pem").exists():
            number += 1
        return path

    # What the server signs

    def _require_packs(self, index: Index) -> None:
        for pack, length in index.packs.items():
            path = self.public / "packs" / f"{pack}.pack"
            if not path.is_file() or path.stat().st_size != length:
                raise RepositoryError(
                    f"{path} of {index.name} {index.version} is missing or cut; copy it here again"
                )

    def _snapshot_documents(self) -> dict[str, tuple[int, bytes]]:
        documents = {}
        for role in self._documents()[1:-2]:
            path = self._newest_path(role)
            if path is None:
                raise RepositoryError(f"{self.folder} has no published {role}")
            documents[role] = (int(path.name.split(".")[0]), path.read_bytes())
        return documents

    def _snapshot_is_behind(self) -> bool:
        snapshot = self._newest("snapshot")
        if snapshot is None:
            return True
        shown: Snapshot = snapshot.signed
        wanted = {f"{r}.json": number for r, (number, _) in self._snapshot_documents().items()}
        return {name: meta.version for name, meta in shown.meta.items()} != wanted

    def _write_snapshot(self, signer: CryptoSigner, now: datetime) -> None:
        published = self._newest("snapshot")
        version = published.signed.version + 1 if published else 1
        expiry = roles.terms_of(self.root()).expiry("snapshot", now)
        snapshot = roles.snapshot_of(self._snapshot_documents(), version, expiry)
        snapshot.sign(signer)
        self._put("snapshot", snapshot)

    def _write_timestamp(self, signer: CryptoSigner, now: datetime) -> None:
        published: Metadata[Timestamp] | None = self._newest("timestamp")
        version = published.signed.version + 1 if published else 1
        path = self._newest_path("snapshot")
        assert path is not None  # it was just written, or found
        snapshot = (int(path.name.split(".")[0]), path.read_bytes())
        expiry = roles.terms_of(self.root()).expiry("timestamp", now)
        timestamp = roles.timestamp_of(snapshot, version, expiry)
        timestamp.sign(signer)
        self._put("timestamp", timestamp)

    def _half_over(self, role: str, now: datetime) -> bool:
        document = self._newest(role)
        if document is None:
            return False
        whole = roles.terms_of(self.root()).expiry(role, now) - now
        return bool(document.signed.expires - now < whole / 2)


def _holder(key: Key) -> str:
    return holder(key) if isinstance(key, SSlibKey) else key.keyid[:8]
