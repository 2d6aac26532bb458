"""Attacks on what a text base's devices train, from its package and texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ...privacy.noise import SecureNoise
from ...privacy.plan import RecordPlan
from ...shared.adapters import Array
from ...shared.errors import BadInputError
from ...shared.forms import Directions, FormName, SharedForm
from ...shared.packages import Package
from ..federated import form_training
from ..runtime import TextModel
from ..training.adapted import shared_chains
from ..training.cohort import Batch
from ..training.objectives.language import token_batch
from ..training.private import PrivateTraining, private_chains
from ..training.text import TextTwin
from .canaries import CountedNoise
from .membership import MembershipAudit
from .shadows import local_trainer, plan_trainer
from .update_inversion import UpdateInversion
from .updates import Releases

__all__ = ["attack_membership", "attack_updates"]


def attack_membership(
    package: Package,
    units: Sequence[Sequence[str]],
    public: Sequence[str],
    how: PrivateTraining | RecordPlan,
    *,
    form: Literal["core", "ffa"] = "core",
    rank: int = 2,
    tokens: int = 32,
    targets: int = 4,
    shadows: int = 16,
    samples: int = 0,
    seed: int = 0,
) -> MembershipAudit:
    """Membership inference on a base's private or shared adapters.

    Args:
        package: a text base with public directions.
        units: texts whose membership is guessed together: single ones, or a user's.
        public: texts of nobody.
        how: a private adapter's training, or the plan of the shared one.
        form, rank: of the shared adapter; a private one has its own rank.
        tokens: to which every text is cut.
        targets, shadows, samples, seed: see :class:`~.membership.MembershipAudit`.
    """
    twin, directions, model = _opened(package)

    def batch(rows: Sequence[Sequence[int]]) -> Batch:
        return token_batch(rows, model.start)

    if isinstance(how, PrivateTraining):
        cohort = twin.cohort(private_chains(directions, how.rank)[0])
        train = local_trainer(cohort, how.local, batch)
    else:
        shared = SharedForm(form, package.base_id, directions.limited(rank))
        cohort = twin.cohort(shared_chains(shared))
        train = plan_trainer(cohort, how, batch)
    return MembershipAudit(
        cohort=cohort,
        train=train,
        collate=batch,
        units=[_encoded(model, unit, tokens) for unit in units],
        public=_encoded(model, public, tokens),
        plan=how if isinstance(how, RecordPlan) else None,
        what="a private adapter" if isinstance(how, PrivateTraining) else "a shared adapter",
        targets=targets,
        shadows=shadows,
        samples=samples,
        seed=seed,
    )


def attack_updates(
    package: Package,
    texts: Sequence[str],
    crowd: Sequence[str],
    plan: RecordPlan,
    *,
    form: FormName = "core",
    rank: int = 2,
    tokens: int = 10,
    rounds: int = 8,
    changes: int = 2,
    likely: int = 16,
) -> UpdateInversion:
    """Inversion of the updates that devices with one text each send.

    Args:
        package: a text base with public directions.
        texts: 8 or more; each is all of a device's data.
        crowd: public texts: of the other devices of a sum, and of the rounds before.
        plan: of the attacked round.
        form, rank: of the shared adapter.
        tokens: to which every text is cut.
        rounds: before the attacked one, on public texts and without noise: an adapter that is not
            zero any more shows more of its gradients.
        changes, likely: see :class:`~.update_inversion.UpdateInversion`.
    """
    twin, directions, model = _opened(package)
    shared = SharedForm(form, package.base_id, directions.limited(rank))
    others = _encoded(model, crowd, tokens)
    return UpdateInversion(
        releases=Releases(
            twin=twin,
            form=shared,
            plan=plan,
            theta=_warmed(twin, shared, plan, others, rounds),
            start=model.start,
        ),
        records=_encoded(model, texts, tokens),
        crowd=others,
        decode=model.decode,
        changes=changes,
        likely=likely,
    )


def _warmed(
    twin: TextTwin,
    form: SharedForm,
    plan: RecordPlan,
    records: Sequence[list[int]],
    rounds: int,
) -> Array:
    theta = form.zero()
    training = form_training(twin, form, replace(plan, noise_multiplier=0.0))
    for _ in range(rounds):
        everybody = CountedNoise(SecureNoise(), everybody=True)
        theta = theta + training.round(theta, [records], [everybody])[0]
    return np.asarray(theta, np.float32)


def _opened(package: Package) -> tuple[TextTwin, Directions, TextModel]:
    directions = Directions.load(package.path("directions.safetensors"))
    twin = TextTwin.of(package)
    return twin, directions, TextModel(package, threads=1)


def _encoded(model: TextModel, texts: Sequence[str], tokens: int) -> list[list[int]]:
    """Token ids of texts, cut.

    Raises:
        BadInputError: one has fewer than three.
    """
    found = [model.encode(text)[:tokens] for text in texts]
    if short := [text for text, ids in zip(texts, found, strict=True) if len(ids) < 3]:
        raise BadInputError(f"texts need three tokens at least, got {short[0]!r}")
    return found
