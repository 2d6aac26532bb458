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

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.metadata import TargetFile

from ...shared.chunk_index import Index, pack_path, require_name, target_path, version_order
from ...shared.errors import BadInputError, RepositoryError
from ...shared.files import lock_folder, write_whole
from . import roles
from .documents import Documents, RoleState
from .keys import Passphrase, holder, make_key
from .online import OnlineKeys, refresh, write_snapshot, write_timestamp
from .packs import index_folder
from .roles import ADAPTERS, OFFLINE, ONLINE, Validity
from .sources import Source

__all__ = ["Repository"]


def _no_passphrase(path: Path) -> bytes:
    raise RepositoryError(f"{path} is encrypted; online keys are opened without a passphrase")


class Repository:
    """Authors a repository. Open one with :meth:`open`, make one with :meth:`create`.

    One process at a time changes it; another one gets a :class:`DistributionError`.

    Args:
        folder: see the module.
        passphrase: asked for the passphrase of an online key that is encrypted.
    """

    def __init__(self, folder: Path, passphrase: Passphrase = _no_passphrase) -> None:
        self.folder, self.public = folder, folder / "public"
        self._documents = Documents(folder)
        self._keys = OnlineKeys(folder / "keys", passphrase)

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
        validity: Validity | None = None,
        now: datetime,
    ) -> Repository:
        """Begin a repository: drafts of root and targets to be signed, and fresh online keys.

        Args:
            root: public keys of its holders.
            targets: public keys of its holders.
            root_threshold: how many of them must sign.
            targets_threshold: how many of them must sign.
            online_adapters: let a server's key publish adapters without the holders.
            validity: for how long what is signed is good.
            now: UTC.

        Raises:
            BadInputError: the folder holds something, or a threshold is out of bounds.
        """
        if folder.exists() and any(path.name != "keys" for path in folder.iterdir()):
            raise BadInputError(f"{folder} is not empty; begin a repository in a new folder")
        validity, repository = validity or Validity(), cls(folder)
        thresholds = {"root": root_threshold, "targets": targets_threshold}
        keys = {"root": root, "targets": targets}
        for role in OFFLINE:  # before any key is made
            roles.require_threshold(role, thresholds[role], len({k.keyid for k in keys[role]}))
        for part in ("public/metadata", "public/targets", "public/packs", "staged"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        fresh = {role: [make_key(repository._keys.fresh_path(role), None)] for role in ONLINE}
        listed = roles.first_targets(validity.expiry("targets", now))
        if online_adapters:
            key = make_key(repository._keys.fresh_path(ADAPTERS), None)
            roles.delegate_adapters(listed.signed, key)
        documents = repository._documents
        documents.save_draft("root", roles.first_root(keys | fresh, thresholds, validity, now))
        documents.save_draft("targets", listed)
        if online_adapters:
            empty = roles.first_targets(validity.expiry(ADAPTERS, now))
            documents.save_draft(ADAPTERS, empty)
        return repository

    @classmethod
    def open(cls, folder: Path, passphrase: Passphrase = _no_passphrase) -> Repository:
        """Open what :meth:`create` made.

        Raises:
            BadInputError: there is no repository.
        """
        if not ((folder / "public" / "metadata").is_dir() and (folder / "staged").is_dir()):
            raise BadInputError(f"no repository in {folder}; begin one with 'locavore repo init'")
        return cls(folder, passphrase)

    # What there is

    def targets(self) -> dict[str, TargetFile]:
        """Listed indexes by their paths, those of drafts included."""
        listed = dict(self._documents.listed.targets)
        if self._documents.online_adapters:
            listed |= self._documents.latest(ADAPTERS).signed.targets
        return listed

    def index(self, path: str) -> Index:
        """The index behind a path of :meth:`targets`.

        Raises:
            RepositoryError: its file is missing or was changed.
        """
        return self._index_of(self.targets()[path])

    def _index_of(self, target: TargetFile) -> Index:
        file = self.public / "targets" / target.get_prefixed_paths()[0]
        try:
            raw = file.read_bytes()
            target.verify_length_and_hashes(raw)
            return Index.from_json(raw)
        except Exception as error:  # also TUF's own
            raise RepositoryError(f"{file} is not what was added: {error}") from None

    def states(self) -> list[RoleState]:
        """How it stands with every role: versions, expiry, signatures that are missing."""
        return self._documents.states()

    def root_bytes(self) -> bytes:
        """The newest published root: what devices pin.

        Raises:
            RepositoryError: nothing was published yet.
        """
        path = self._documents.newest_path("root")
        if path is None:
            raise RepositoryError(f"{self.folder} was not published yet")
        return path.read_bytes()

    # Changes

    def add(self, source: Source, name: str, version: str, now: datetime) -> Index:
        """Cut a package into chunks, write those that are new, and list its index as a target.

        Raises:
            BadInputError: a wrong name, or the version is there already.
        """
        require_name(source.kind, name, version)
        with lock_folder(self.folder):
            listed = self.targets()
            self._require_new(listed, source.kind, name, version)
            index = index_folder(
                source.folder,
                self.public,
                [self.index(path) for path in listed],
                names=source.files,
                kind=source.kind,
                name=name,
                version=version,
                base_id=source.base_id,
                publisher=source.publisher,
            )
            raw = index.to_json()
            target = TargetFile.from_data(target_path(source.kind, name, version), raw, ["sha256"])
            target.unrecognized_fields["custom"] = {"base_id": index.base_id, "bytes": index.nbytes}
            file = self.public / "targets" / target.get_prefixed_paths()[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, raw)
            online = source.kind == ADAPTERS and self._documents.online_adapters
            role = ADAPTERS if online else "targets"
            draft = self._documents.begin(role, now)
            draft.signed.targets[target.path] = target
            self._documents.save_draft(role, draft)
        return index

    def withdraw(self, kind: str, name: str, version: str, now: datetime) -> None:
        """List a version no longer; devices that hold it go to the latest one that is listed.

        Raises:
            BadInputError: it is not listed.
        """
        path = target_path(kind, name, version)
        documents = self._documents
        with lock_folder(self.folder):
            for role in documents.listing[1:]:
                if path in documents.latest(role).signed.targets:
                    draft = documents.begin(role, now)
                    del draft.signed.targets[path]
                    documents.save_draft(role, draft)
                    return
        raise BadInputError(
            f"{name} {version} is not listed in {kind}; there is "
            f"{', '.join(self.targets()) or 'nothing'}"
        )

    def tidy(self) -> int:
        """Remove packs and indexes that nothing refers to, drafts included; return their bytes.

        A device that is just fetching a version that was withdrawn has to begin again.
        """
        with lock_folder(self.folder):
            published = self._documents.published_targets()
            listed = published | self.targets()
            needed = {f"targets/{target.get_prefixed_paths()[0]}" for target in listed.values()}
            for target in listed.values():
                needed |= {pack_path(pack) for pack in self._index_of(target).packs}
            freed = 0
            for part in ("targets", "packs"):
                for path in (self.public / part).rglob("*"):
                    if path.is_file() and path.relative_to(self.public).as_posix() not in needed:
                        freed += path.stat().st_size
                        path.unlink()
        return freed

    def renew(self, role: str, now: datetime) -> None:
        """Begin a draft of ``root`` or ``targets`` with a new expiry and nothing else changed.

        Raises:
            BadInputError: another role.
        """
        if role not in OFFLINE:
            raise BadInputError(f"only {' and '.join(OFFLINE)} are signed by people, got {role!r}")
        with lock_folder(self.folder):
            self._documents.save_draft(role, self._documents.begin(role, now))

    def rotate(
        self,
        role: str,
        *,
        drop: Sequence[Key] = (),
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
        documents = self._documents
        known = dict.fromkeys((*documents.listing, *ONLINE))
        if role not in known:
            raise BadInputError(f"role must be one of {', '.join(known)}, got {role!r}")
        if role in OFFLINE and not (drop or add or threshold):
            raise BadInputError(f"name the keys of {role} to add or to drop, or a new threshold")
        with lock_folder(self.folder):
            delegating = "targets" if role == ADAPTERS else "root"
            draft = documents.begin(delegating, now)
            if role not in OFFLINE and not (drop or add):
                drop = list(roles.keys_of(draft.signed, role).values())
                add = [make_key(self._keys.fresh_path(role), None)]
            gone = [key.keyid for key in drop]
            roles.with_keys(draft.signed, role, drop=gone, add=add, threshold=threshold)
            documents.save_draft(delegating, draft)
            if role in ("targets", ADAPTERS) and documents.draft(role) is None:
                documents.save_draft(role, documents.begin(role, now))

    def waiting_for(self, key: SSlibKey) -> list[str]:
        """Roles whose drafts a key may sign.

        Raises:
            RepositoryError: there are none.
        """
        documents = self._documents
        drafts = [role for role in OFFLINE if documents.draft(role) is not None]
        found = [role for role in drafts if key.keyid in documents.eligible(role)]
        if not found:
            raise RepositoryError(
                f"no draft waits for the key {holder(key)}; see 'locavore repo show'"
            )
        return found

    def sign(self, signer: CryptoSigner) -> list[str]:
        """Sign every draft in which the key counts; return the drafts' roles.

        Raises:
            RepositoryError: there is no such draft.
        """
        with lock_folder(self.folder):
            waiting = self.waiting_for(signer.public_key)
            for role in waiting:
                draft = self._documents.latest(role)
                draft.sign(signer, append=True)
                self._documents.save_draft(role, draft)
        return waiting

    def publish(self, now: datetime) -> None:
        """Put the drafts in place, with a new snapshot and timestamp; the timestamp comes last.

        Raises:
            RepositoryError: signatures, an online key or a file are missing; nothing was changed.
        """
        documents = self._documents
        with lock_folder(self.folder):
            if documents.online_adapters and (adapters := documents.draft(ADAPTERS)) is not None:
                adapters.sign(self._keys.signer(ADAPTERS, documents.listed))
                documents.save_draft(ADAPTERS, adapters)
            for role in documents.listing:
                documents.require_signed(role)
            for path in self.targets():
                self._require_packs(self.index(path))
            snapshot, timestamp = (self._keys.signer(role, documents.root) for role in ONLINE)
            for role in documents.listing:
                if (draft := documents.draft(role)) is not None:
                    documents.put(role, draft)
            write_snapshot(documents, snapshot, now)
            write_timestamp(documents, timestamp, now)
            documents.drop_drafts()

    def refresh(self, now: datetime) -> dict[str, datetime]:
        """Renew the timestamp, and what else the server signs when half of its time is over.

        To be called a few times within the timestamp's days (see :class:`Validity`).

        Returns:
            When each role's published document expires (UTC), to warn people in time.

        Raises:
            RepositoryError: nothing was published yet, or an online key is missing.
        """
        with lock_folder(self.folder):
            return refresh(self._documents, self._keys, now)

    def _require_new(
        self, listed: dict[str, TargetFile], kind: str, name: str, version: str
    ) -> None:
        for path in listed:
            there = path.removeprefix(f"{kind}/{name}/").removesuffix(".json")
            same = "/" not in there and version_order(there) == version_order(version)
            if same:
                raise BadInputError(
                    f"{name} {there} is there already; what was listed is never changed: take a "
                    "higher version"
                )

    def _require_packs(self, index: Index) -> None:
        for pack, length in index.packs.items():
            path = self.public / pack_path(pack)
            if not path.is_file() or path.stat().st_size != length:
                raise RepositoryError(
                    f"{path} of {index.name} {index.version} is missing or cut; copy it here again"
                )
