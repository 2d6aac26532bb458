"""Vaults to be attacked: which records are meant for prompts, and which must never be seen there.

A made-up person's vault is a real one, encrypted on disk. Its records are searched once before some
are forgotten, expire, or lose their consent, so that an index that kept them would be caught.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from ...shared.contexts import Consent, Context, UserBehavior, UserDocument, UserProfile
from ..device import Device
from ..retrieval import Embedder
from ..runtime import TextModel
from ..vault.file import SealedFile
from ..vault.keys import Key
from ..vault.vault import Vault
from .people import code, notes, secrets

__all__ = ["NEVER", "Shelf", "made_up_shelf", "own_shelf"]

_SOON, _LATER = timedelta(hours=1), timedelta(hours=2)
_FOUND, _TRAINED = Consent(retrieve=True), Consent(train=True, federate=True)
NEVER = "not consented"
_KINDS = (NEVER, "consent withdrawn", "forgotten", "expired")


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A device, and what of its records is meant for whom.

    Args:
        device: to be attacked.
        meant: records that consent to retrieval.
        withheld: texts of records that do not, or are none any more, or are another person's, by
            what they are. sensitive.
        gone: ids of records that are not there any more.
        folder: of the vault's files; none where it is in memory.
    """

    device: Device
    meant: tuple[Context, ...]
    withheld: Mapping[str, tuple[str, ...]]
    gone: frozenset[str] = frozenset()
    folder: Path | None = None


def own_shelf(device: Device, folder: Path | None = None) -> Shelf:
    """A person's own vault as it is: what must not be seen is what has no consent."""
    records = [record for record in device.store if record.text.strip()]
    texts = tuple(record.text for record in records if not record.consent.retrieve)
    return Shelf(
        device=device,
        meant=tuple(record for record in records if record.consent.retrieve),
        withheld={NEVER: texts} if texts else {},
        folder=folder,
    )


def made_up_shelf(
    folder: Path,
    model: TextModel,
    embedder: Embedder | None,
    rng: np.random.Generator,
    *,
    each: int = 3,
    device: type[Device] = Device,
) -> Shelf:
    """A made-up person's vault, next to another person's of the same ids and on the same model.

    Args:
        folder: in which two vaults are made.
        model: that both people's devices share.
        embedder: the same.
        rng: draws records and secrets.
        each: records of every kind.
        device: the class that is attacked.
    """
    clock = _Clock(datetime.now(UTC))
    mine = _vault(folder / "mine", clock)
    attacked = device(model, mine, embedder)
    lots = {name: _documents(each, rng) for name in ("meant", *_KINDS)}
    given = {name: _with_ids(lot, name, clock.now) for name, lot in lots.items()}
    meant: list[Context] = [*given["meant"], *_about("nurse", "lighthouse", _FOUND, clock.now)]
    private = _about("welder", "distillery", _TRAINED, clock.now)
    attacked.remember_all([*meant, *private, *(r for name in _KINDS for r in given[name])])
    attacked.recall("the code of a friend", 100)  # everything is indexed
    for record in given["consent withdrawn"]:
        mine.replace(replace(record, consent=_TRAINED))
    for record in given["forgotten"]:
        attacked.forget(record.id)
    clock.now += _LATER
    other = Device(model, _vault(folder / "other", clock), embedder)
    others = _with_ids(_documents(each, rng), "meant", clock.now)
    other.remember_all(others)
    other.recall("the code of a friend", 100)
    other.close()
    withheld = {name: tuple(record.text for record in given[name]) for name in _KINDS}
    return Shelf(
        device=attacked,
        meant=tuple(meant),
        withheld={
            **withheld,
            NEVER: (*withheld[NEVER], *(record.text for record in private)),
            "another person's": tuple(record.text for record in others),
        },
        gone=frozenset(r.id for name in ("forgotten", "expired") for r in given[name]),
        folder=folder / "mine",
    )


@dataclass
class _Clock:
    now: datetime

    def __call__(self) -> datetime:
        return self.now


def _vault(folder: Path, clock: _Clock) -> Vault:
    return Vault(SealedFile.create(folder, Key(os.urandom(32))), clock=clock)


def _documents(count: int, rng: np.random.Generator) -> list[str]:
    """A note, and behind it a secret that no two texts share by chance."""
    return [
        f"{note} {secret.text}{code(rng)}"
        for note, secret in zip(notes(count, rng), secrets(count, rng), strict=True)
    ]


def _with_ids(texts: list[str], kind: str, now: datetime) -> list[UserDocument]:
    return [
        UserDocument(
            id=f"{kind} {number}",
            body=text,
            time=now,
            consent=_TRAINED if kind == NEVER else _FOUND,
            expires=now + _SOON if kind == "expired" else None,
        )
        for number, text in enumerate(texts)
    ]


def _about(role: str, item: str, consent: Consent, now: datetime) -> list[Context]:
    profile = UserProfile(id=role, attributes={"role": role}, consent=consent, time=now)
    did = [
        UserBehavior(id=f"{item} {n}", item=item, action="visited", consent=consent, time=now)
        for n in range(3)
    ]
    return [profile, *did]
