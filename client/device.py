"""The device: one person's vault, one base, and the adapters that make it personal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..shared.adapters import Adapter
from ..shared.contexts import Consent, Context, Instruction, Use
from ..shared.errors import BadInputError
from .engine import Model, Request
from .retrieval import Embedder, Hit, Retriever, Where, reweighted
from .user_model import Guidance, UserModel
from .vault.archive import export_vault
from .vault.certificate import Certificate, Left
from .vault.keys import Key, Keyring, Passphrase, Unlock
from .vault.lineage import Lineage, PrivateTrainer
from .vault.vault import Vault

__all__ = ["Content", "Device", "Explanation", "Trace", "unlocking"]

_ADAPTERS = ("shared", "private")


@dataclass(frozen=True)
class Trace:
    """What went into what was generated.

    Args:
        hits: passages that stood in the prompt.
        adapters: names of the adapters that were live.
        prompt_tokens: size of the prompt.
        digests: of the live adapters' weights.
        reason: why it was personalised, or why not.
    """

    hits: tuple[Hit, ...]
    adapters: tuple[str, ...]
    prompt_tokens: int
    digests: tuple[str, ...] = ()
    reason: str = ""

    @property
    def record_ids(self) -> tuple[str, ...]:
        """Ids of the records whose passages stood in the prompt."""
        return tuple(dict.fromkeys(hit.record.id for hit in self.hits))


@dataclass(frozen=True)
class Content:
    """What was generated, a text or what else the base makes, why it ended, and its trace."""

    output: Any
    reason: str
    trace: Trace


@dataclass(frozen=True)
class Explanation:
    """Which records a text used.

    Args:
        prompt: those whose passages stood in the prompt.
        private: those that trained the private adapter that was live.
        federated: what a record of this device has given to the shared adapter's training, by id.
        forgotten: ids in the trace that are not kept any more.
        replaced: whether the private adapter that was live has been destroyed since.
    """

    prompt: tuple[Context, ...]
    private: tuple[Context, ...]
    federated: dict[str, tuple[Left, ...]]
    forgotten: tuple[str, ...]
    replaced: bool


class Device:
    """Ties a model to a person's vault. Nothing here sends anything anywhere.

    The vault may hold adapters of several bases; ``shared`` and ``private`` are the model's.

    Args:
        model: the base's runtime, for generating; may be shared between simulated devices.
        store: the person's vault; one in memory when not given.
        embedder: ranks by meaning too, when given.
        shared: adapter from the federation; the vault's when not given.
        private: adapter trained here, which never leaves; the vault's when not given.
    """

    def __init__(
        self,
        model: Model[Any, Any] | None = None,
        store: Vault | None = None,
        embedder: Embedder | None = None,
        shared: Adapter | None = None,
        private: Adapter | None = None,
    ) -> None:
        self.store = Vault.in_memory() if store is None else store
        self.embedder = embedder
        self._model = model
        self._given: dict[tuple[str, str], Adapter] = {}  # by name and base
        self._loaded: dict[tuple[str, str], Adapter] = {}
        for name, adapter in (("shared", shared), ("private", private)):
            if adapter is not None:
                self._given[name, adapter.base_id] = adapter
        self._found: tuple[tuple[int, Embedder | None], Retriever, UserModel] | None = None

    @classmethod
    def create(
        cls,
        folder: Path | str,
        *,
        passphrase: str | None = None,
        key: bytes | None = None,
        keyring: str | None = None,
        model: Model[Any, Any] | None = None,
        embedder: Embedder | None = None,
    ) -> Device:
        """Make an encrypted vault in a folder, unlocked by one of the three.

        Args:
            passphrase: something that the person knows.
            key: 32 random bytes that the application keeps.
            keyring: name under which the operating system's keyring keeps a key.

        Raises:
            BadInputError: not exactly one of the three, or there is a vault already.
            VaultError: the folder cannot be written to.
        """
        vault = Vault.create(Path(folder), unlocking(passphrase, key, keyring))
        return cls(model, vault, embedder)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        passphrase: str | None = None,
        key: bytes | None = None,
        keyring: str | None = None,
        model: Model[Any, Any] | None = None,
        embedder: Embedder | None = None,
        read_only: bool = False,
        accept_rollback: bool = False,
    ) -> Device:
        """Unlock the vault in a folder; other arguments as :meth:`create`.

        Args:
            read_only: read beside another process that writes.
            accept_rollback: an older copy was put back on purpose.

        Raises:
            BadInputError: there is no vault, or not exactly one way to unlock it is given.
            UnlockError: wrong passphrase or key.
            VaultBusyError: another process writes to it.
            TamperError: it was damaged or changed, or an older copy was put back.
        """
        vault = Vault.open(
            Path(folder),
            unlocking(passphrase, key, keyring),
            read_only=read_only,
            accept_rollback=accept_rollback,
        )
        return cls(model, vault, embedder)

    def close(self) -> None:
        """Let go of the vault's files and keys."""
        self._found = None
        self.store.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model(self) -> Model[Any, Any]:
        """The base's runtime. Raises ``BadInputError`` where the device was opened without."""
        if self._model is None:
            raise BadInputError("this device was opened without a model; give it one to generate")
        return self._model

    def use_model(self, model: Model[Any, Any]) -> None:
        """Use another base's runtime from now on, with the adapters that are there for it."""
        self._model = model

    @property
    def shared(self) -> Adapter | None:
        """The adapter from the federation for the model's base; the vault's unless one is set."""
        return self._adapter("shared", self.model.base_id)

    @shared.setter
    def shared(self, adapter: Adapter | None) -> None:
        self._give("shared", adapter)

    @property
    def private(self) -> Adapter | None:
        """The adapter trained here for the model's base; the vault's unless one is set."""
        return self._adapter("private", self.model.base_id)

    @private.setter
    def private(self, adapter: Adapter | None) -> None:
        self._give("private", adapter)

    def remember(self, record: Context, *, consent: Consent | None = None) -> str:
        """Keep a record, with another consent than its own if given, and return its id."""
        return self.remember_all([record if consent is None else replace(record, consent=consent)])[
            0
        ]

    def remember_all(self, records: Sequence[Context]) -> list[str]:
        """Keep records, all or none; much faster than one by one."""
        self.store.add_all(records)
        return [record.id for record in records]

    def recall(self, query: str, k: int = 5, where: Where | None = None) -> list[Hit]:
        """Passages of consented records that fit the query, best first."""
        return self._searched()[0].retrieve(query, k, where)

    def prefer(self, hits: Sequence[Hit], record_id: str) -> None:
        """Learn from the person's choice among hits which ranking to trust more."""
        self.store.keep_weights(reweighted(self.store.weights, hits, record_id))

    def forget(
        self,
        record_id: str | None = None,
        *,
        source: str | None = None,
        trainer: PrivateTrainer | None = None,
    ) -> Certificate:
        """Destroy a record, or all of a source, and everything made of it.

        Every base's private adapter goes back to where it had not seen the record. What was
        trained after that is trained again without it: now, for the base of a trainer that is
        given, else by :meth:`learn`.

        Raises:
            BadInputError: there is no such record, or not exactly one of the two is given.
        """
        if (record_id is None) == (source is None):
            raise BadInputError("forget needs a record's id or a source, one of the two")
        ids = [record_id] if record_id is not None else self._of_source(str(source))
        certificate = self.store.forget(ids)
        for cut in certificate.adapters:
            self._given.pop(("private", cut.base_id), None)
        if trainer is None or not certificate.due:
            return certificate
        self._rebuild(trainer)
        return self.store.certificates[-1]

    def forget_everything(self) -> Certificate:
        """Destroy all records, adapters and keys. The privacy ledger stays: it was spent."""
        certificate = self.store.forget_everything()
        self._given.clear()
        self._loaded.clear()
        return certificate

    def export(self, path: Path | str) -> int:
        """Write everything, decrypted, into a zip of plain files; returns how many records."""
        return export_vault(self.store, Path(path))

    def learn(self, trainer: PrivateTrainer) -> int:
        """Train the private adapter of the trainer's base on what may train it and is new to it.

        First trains again what a forgotten record had touched. Adapters of other bases stay as
        they are; a base that was built anew is another base, which begins from nothing.

        Returns how many records were new.
        """
        lineage = self._rebuild(trainer)
        chain = lineage.slices
        known = dict.fromkeys(record_id for link in chain for record_id in link.records)
        able = [r for r in self.training_records("train") if trainer.takes(r)]
        fresh = [r for r in able if r.id not in known]
        if fresh:
            how, shared = dict(trainer.how), self._adapter("shared", trainer.base_id)
            trained = trainer.train(
                fresh,
                how=how,
                place=len(chain),
                before=map(self.store.get, known),
                start=lineage.private,
                shared=shared,
            )
            lineage.append([record.id for record in fresh], trained, how=how, shared=shared)
            self._given.pop(("private", trainer.base_id), None)
        return len(fresh)

    def unlearn(self, base_id: str) -> None:
        """Destroy a base's private adapter and its whole chain; records stay, and count as new.

        Raises:
            BadInputError: nothing was learned for that base.
        """
        lineage = self.store.lineages.of(base_id)
        records = [record_id for link in lineage.slices for record_id in link.records]
        if not records:
            held = ", ".join(other.base_id for other in self.store.lineages) or "no base"
            raise BadInputError(f"nothing was learned for base {base_id!r}; there is {held}")
        with self.store.transaction():
            lineage.cut(records)
            self.store.complete_certificates()
        self._given.pop(("private", base_id), None)

    def explain(self, content: Content) -> Explanation:
        """Which of the person's records a text was made of, as far as they are still kept."""
        trace = content.trace
        trained, live = self._trained(trace.digests)
        kept = {record.id: record for record in self.store}
        federated = {i: self.store.uses(i) for i in kept} if "shared" in trace.adapters else {}
        return Explanation(
            prompt=tuple(kept[i] for i in trace.record_ids if i in kept),
            private=tuple(kept[i] for i in trained if i in kept),
            federated={i: uses for i, uses in federated.items() if uses},
            forgotten=tuple(i for i in trace.record_ids if i not in kept),
            replaced="private" in trace.adapters and bool(trace.digests) and not live,
        )

    def training_records(self, use: Use) -> list[Context]:
        """Records with text that may be used so, oldest first."""
        return [r for r in self.store if r.consent.allows(use) and r.text.strip()]

    def guide(
        self,
        request: str,
        *,
        budget: int,
        cost: Callable[[str], int],
        k: int = 4,
        about: bool = True,
        newest: int = 0,
    ) -> Guidance:
        """What an engine should know about the person for a request, within a budget.

        Args:
            budget: of the engine, such as tokens.
            cost: what a text takes of it.
            k: passages at most; 0 personalises nothing.
            about: whether the engine can be told sentences about the person.
            newest: fill up to so many exemplars with the person's newest records, for engines to
                which any of them tells something. They are not counted in the budget.
        """
        named = tuple(
            concept
            for concept in self.store.concepts
            if concept.word in request and concept.base_id == self.model.base_id
        )
        if not k:
            return Guidance(concepts=named)
        retriever, person = self._searched()
        hits = retriever.retrieve(request, k)
        known = person.guidance(hits, budget=budget, cost=cost, about=about)
        if newest:
            used = [hit.record.id for hit in known.exemplars]
            more = retriever.newest(min(k, newest) - len(used), without=used)
            known = replace(known, exemplars=(*known.exemplars, *more))
        return replace(known, concepts=named)

    def request(self, instruction: Instruction, how: Any = None, *, k: int = 4) -> Request[Any]:
        """Retrieve, and prepare what the base is asked; ``k=0`` personalises nothing.

        Args:
            how: the engine's settings, such as :class:`~locavore.client.runtime.Generation`.
            k: passages to retrieve at most.
        """
        return self.model.request(instruction, partial(self.guide, instruction.text, k=k), how)

    def use_adapters(self, *names: str) -> None:
        """Make the named adapters live: any of ``shared`` and ``private``, or none.

        Raises:
            BadInputError: an unknown name, or an adapter that this device does not have.
        """
        self.model.attach(*map(self._required, names))

    def available_adapters(self) -> tuple[str, ...]:
        """Names of the adapters that this device has for its base."""
        return tuple(n for n in _ADAPTERS if self._adapter(n, self.model.base_id) is not None)

    def generate(
        self,
        instruction: Instruction,
        how: Any = None,
        *,
        k: int = 4,
        adapters: Sequence[str] | None = None,
    ) -> Content:
        """Generate with retrieval and this device's adapters.

        Args:
            how: as for :meth:`request`.
            k: passages to retrieve at most; 0 for none.
            adapters: names as in :meth:`use_adapters`; every adapter of the device when not given.

        Raises:
            ContextLengthError: the instruction does not fit in the base's context.
        """
        names = tuple(adapters) if adapters is not None else self.available_adapters()
        request = self.request(instruction, how, k=k)
        live = [self._required(name) for name in names]
        self.model.attach(*live, *request.adapters)
        output, reason = request.fulfil()
        digests = tuple(adapter.digest for adapter in live)
        trace = Trace(request.used, names, request.tokens, digests, request.reason)
        return Content(output, reason, trace)

    def _give(self, name: str, adapter: Adapter | None) -> None:
        if adapter is None:
            self._given.pop((name, self.model.base_id), None)
        else:
            self._given[name, adapter.base_id] = adapter

    def _adapter(self, name: str, base_id: str) -> Adapter | None:
        """A base's adapter: the one that was set, else the vault's as it is now."""
        if (name, base_id) in self._given:
            return self._given[name, base_id]
        lineage = self.store.lineages.of(base_id)
        digest = lineage.shared_digest if name == "shared" else lineage.private_digest
        if digest is None:
            return None
        held = self._loaded.get((name, base_id))
        if held is None or held.digest != digest:
            held = self._loaded[name, base_id] = lineage.adapter(digest)
        return held

    def _required(self, name: str) -> Adapter:
        if name not in _ADAPTERS:
            raise BadInputError(f"adapters are 'shared' and 'private', got {name!r}")
        adapter = self._adapter(name, self.model.base_id)
        if adapter is None:
            raise BadInputError(f"this device has no {name} adapter for {self.model.base_id} yet")
        return adapter

    def _trained(self, digests: Sequence[str]) -> tuple[list[str], bool]:
        """Ids of the records behind the private adapter among these, and whether it is kept."""
        for lineage in self.store.lineages:
            chain = lineage.slices
            places = [i for i, link in enumerate(chain) if link.adapter in digests]
            if places:
                ids = [r for link in chain[: max(places) + 1] for r in link.records]
                return list(dict.fromkeys(ids)), True
        return [], False

    def _searched(self) -> tuple[Retriever, UserModel]:
        """Search and summary of the vault as it is now."""
        self.store.expire()
        state = (self.store.entries.revision, self.embedder)
        if self._found is None or self._found[0] != state:
            retriever = self.store.retriever(self.embedder)
            person = UserModel.of(self.store)
            state = (self.store.entries.revision, self.embedder)  # indexing is a change too
            self._found = (state, retriever, person)
        return self._found[1], self._found[2]

    def _of_source(self, source: str) -> list[str]:
        found = [record.id for record in self.store if record.provenance.source == source]
        if not found:
            raise BadInputError(f"there is no record of source {source!r}")
        return found

    def _rebuild(self, trainer: PrivateTrainer) -> Lineage:
        """Train again what is due of the trainer's base."""
        self.store.expire()
        lineage = self.store.lineages.of(trainer.base_id)
        chain = lineage.slices
        for place in lineage.due:
            link = chain[place]
            trained = trainer.train(
                [self.store.get(record_id) for record_id in link.records],
                how=link.how,
                place=place,
                before=(self.store.get(r) for earlier in chain[:place] for r in earlier.records),
                start=lineage.private,
                shared=lineage.adapter(link.shared) if link.shared else None,
            )
            lineage.finish(place, trained)
        self.store.complete_certificates()
        if chain:
            self._given.pop(("private", trainer.base_id), None)
        return lineage


def unlocking(
    passphrase: str | None = None, key: bytes | None = None, keyring: str | None = None
) -> Unlock:
    """What unlocks a vault. Raises ``BadInputError`` unless one of the three is given."""
    ways: list[Unlock] = []
    if passphrase is not None:
        ways.append(Passphrase(passphrase))
    if key is not None:
        ways.append(Key(key))
    if keyring is not None:
        ways.append(Keyring(keyring))
    if len(ways) != 1:
        raise BadInputError("a vault is unlocked by a passphrase, a key or the keyring: give one")
    return ways[0]
