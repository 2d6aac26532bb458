"""Private training and federations with a bug in them: what audits must catch.

Each is a way in which a published library or paper code has been wrong, or nearly was. They live
here alone: by subclasses and patches, never by a switch in the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from locavore.client.audit.records import RecordAudit
from locavore.client.training.cohort import Batch, Cohort, Gradients
from locavore.client.training.objectives.language import token_losses
from locavore.client.training.shared import CohortTraining
from locavore.privacy.audit import epsilon_of_mu
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.distributed import WholeNumbers
from locavore.privacy.ledger import Charge
from locavore.privacy.noise import Doubles, NoiseSource, insecure_seeded_noise, length
from locavore.privacy.plan import RecordPlan, UserPlan
from locavore.privacy.secagg.device import SecAggDevice
from locavore.privacy.secagg.session import Opened
from locavore.server.aggregation import Aggregation, Upload
from locavore.server.strategy import FederatedStrategy
from locavore.shared.wire import Broadcast, Records

__all__ = ["RECORD_BUGS", "SUM_BUGS", "USER_BUGS", "WIRE_BUGS", "UserBug"]

_STEPS = RecordPlan(
    relation="add-or-remove-one", clip=1.0, rounds=3, local_steps=2, expected_batch=16
)
_ADAPTS = RecordPlan(
    relation="add-or-remove-one",
    clip=AdaptiveClip(initial=0.5, count_noise=4.0),
    rounds=2,
    expected_batch=16,
)


def _as(kind: type[Any], plan: Any) -> Any:
    """The plan, of a class with a bug."""
    return kind(**{name: value for name, value in vars(plan).items() if not name.startswith("_")})


# --- clipping -------------------------------------------------------------------------------


class _Passes(CohortTraining[Any]):
    """Clips in a way of its own: by factors for each sample and matrix, ``(B,)`` each."""

    def _pass(
        self, theta: torch.Tensor, entries: Doubles, rows: Sequence[Sequence[Any]], active: Any
    ) -> tuple[torch.Tensor, int]:
        sums = [
            self._owner(theta[k : k + 1], own, active) if own else torch.zeros(theta.shape[1])
            for k, own in enumerate(rows)
        ]
        total = torch.stack([each.double().flatten() for each in sums])
        votes = torch.zeros(len(rows), entries.shape[1], dtype=torch.float64)
        return torch.cat([total, votes], 1), 0

    def _owner(self, theta: torch.Tensor, own: Sequence[Any], active: Any) -> torch.Tensor:
        found = self.cohort.gradients(theta, self.collate(own), active=active)
        return self._summed(found)

    def _summed(self, found: Gradients) -> torch.Tensor:
        factors = self._factors(found.norms())
        return found.sums(factors, 1)

    def _factors(self, norms: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.plan.clip_factors(norms.numpy()))


class _PerToken(_Passes):
    def _owner(self, theta: torch.Tensor, own: Sequence[Any], active: Any) -> torch.Tensor:
        batch = self.collate(own)
        where = batch["target"][:, 1:].nonzero()
        each = {name: value[where[:, 0]] for name, value in batch.items()}
        each["target"] = torch.zeros_like(each["target"])
        each["target"][torch.arange(len(where)), where[:, 1] + 1] = True
        shares = (1 / batch["target"][:, 1:].sum(1))[where[:, 0]].double()
        found = self.cohort.gradients(theta, each, active=active)
        return found.sums(self._factors(found.norms() * shares) * shares, 1)


class _UnclippedLayer(_Passes):
    def _summed(self, found: Gradients) -> torch.Tensor:
        seen = dict(list(found.parts.items())[:-1])
        return found.sums(self._factors(Gradients(seen, found.losses).norms()), 1)


class _PerLayer(_Passes):
    def _summed(self, found: Gradients) -> torch.Tensor:
        parts = [Gradients({name: part}, found.losses) for name, part in found.parts.items()]
        return torch.cat([one.sums(self._factors(one.norms()), 1) for one in parts], 1)


class _LargestNumber(_Passes):
    def _summed(self, found: Gradients) -> torch.Tensor:
        largest = torch.stack([part.flatten(1).abs().amax(1) for part in found.parts.values()])
        return found.sums(self._factors(largest.amax(0).double()), 1)


class _WholeSum(_Passes):
    """The sum of a pass is clipped, not what is in it."""

    def _summed(self, found: Gradients) -> torch.Tensor:
        finite = torch.isfinite(found.norms()).double()
        total = found.sums(finite, 1)
        return total * self._factors(total.norm()[None]) * len(found.losses)


class _ByTheBatch(CohortTraining[Any]):
    """Divides by how many came, not by how many were expected."""

    def _clipped_sums(self, theta: Any, entries: Any, chosen: Any, *rest: Any) -> torch.Tensor:
        total = super()._clipped_sums(theta, entries, chosen, *rest)
        for row, own in zip(total, chosen, strict=True):
            row *= self.plan.expected_batch / max(1, len(own))
        return total


class _SameNoise(CohortTraining[Any]):
    """One noise for all steps of a round."""

    def round(self, theta: Any, records: Any, noise: Any, **rest: Any) -> Any:
        return super().round(theta, records, [_Kept(one) for one in noise], **rest)


class _Kept:
    """Draws Gaussians once."""

    def __init__(self, source: NoiseSource) -> None:
        self.source, self.kept = source, np.zeros(0)
        self.discrete_gaussian = source.discrete_gaussian
        self.uniform = source.uniform

    def gaussian(self, count: int) -> Doubles:
        if len(self.kept) != count:
            self.kept = self.source.gaussian(count)
        return self.kept


class _Doubled(RecordPlan):
    def clip_factors(self, norms: Any, entry: float = 0.0) -> Doubles:
        return np.minimum(1.0, 2 * super().clip_factors(np.asarray(norms), entry))


class _NotFinite(RecordPlan):
    def clip_factors(self, norms: Any, entry: float = 0.0) -> Doubles:
        return np.where(np.isfinite(norms), super().clip_factors(norms, entry), 1.0)


def _token_mean(cohort: Cohort) -> Cohort:
    """Hugging Face's loss: the mean over the batch's tokens."""

    def objective(model: Any, batch: Batch) -> torch.Tensor:
        share = batch["target"][:, 1:].sum() / len(batch["ids"])
        return token_losses(model, batch).sum(1) / share

    return Cohort(cohort.model, cohort.chains, objective, {}, layouts=cohort.layouts)


# --- noise ----------------------------------------------------------------------------------


class _Root2(RecordPlan):
    def add_noise(self, total: Doubles, noise: NoiseSource, entry: float = 0.0) -> Doubles:
        return total + self._scales(len(total), entry) / math.sqrt(2) * noise.gaussian(len(total))


class _OverBatch(RecordPlan):
    """The noise of the mean is added to the sum."""

    def add_noise(self, total: Doubles, noise: NoiseSource, entry: float = 0.0) -> Doubles:
        scales = self._scales(len(total), entry) / self.expected_batch
        return total + scales * noise.gaussian(len(total))


class _HalfNoised(RecordPlan):
    def add_noise(self, total: Doubles, noise: NoiseSource, entry: float = 0.0) -> Doubles:
        drawn = noise.gaussian(len(total))
        drawn[len(total) // 2 :] = 0
        return total + self._scales(len(total), entry) * drawn


class _ClippedAfter(RecordPlan):
    """What leaves is clipped once more, noise and all; the accounts know nothing of it."""

    def add_noise(self, total: Doubles, noise: NoiseSource, entry: float = 0.0) -> Doubles:
        noised = super().add_noise(total, noise, entry)
        return noised * min(1.0, self.expected_batch * self.norm(entry) / length(noised))


class _QuietVote(RecordPlan):
    def _scales(self, width: int, entry: float) -> Doubles:
        scales = super()._scales(width, entry)
        scales[-1] = 0
        return scales


class _InitialNorm(RecordPlan):
    """The noise does not follow the norm."""

    def _scales(self, width: int, entry: float) -> Doubles:
        return super()._scales(width, 0.0)


class _FreeVotes(RecordPlan):
    """The votes have noise, but the gradients' is not raised for them."""

    def _sum_noise(self) -> float:
        return self.noise_multiplier


class _ToldNorms(RecordPlan):
    """The norms are summed, not who is below one."""

    def votes(self, norms: Any, entry: float = 0.0) -> list[float]:
        return [0.2 * float(np.nan_to_num(np.asarray(norms), posinf=0).sum())]


# --- sampling and accounts ------------------------------------------------------------------


class _Shuffled(RecordPlan):
    """Batches of one size from shuffled passes, accounted as Poisson's."""

    def sample(self, records: int, noise: NoiseSource) -> list[int]:
        waiting: list[int] = _PASSES.setdefault(records, [])
        if len(waiting) < self.expected_batch:
            waiting += [int(i) for i in np.argsort(noise.uniform(records))]
        taken = waiting[: self.expected_batch]
        del waiting[: self.expected_batch]
        return sorted(set(taken))


_PASSES: dict[int, list[int]] = {}


class _Everybody(RecordPlan):
    def sample(self, records: int, noise: NoiseSource) -> list[int]:
        return list(range(records))


class _OneBatch(RecordPlan):
    """A batch is drawn by chance, once, and used in every step."""

    def sample(self, records: int, noise: NoiseSource) -> list[int]:
        return super().sample(records, insecure_seeded_noise(5, records))


class _FewSteps(RecordPlan):
    def charges(self, *given: Any, **named: Any) -> list[Charge]:
        return [replace(charge, steps=1) for charge in super().charges(*given, **named)]


class _CentralLimit(RecordPlan):
    """ "GDP" accounting: a central-limit approximation that under-reports."""

    def epsilon(self, records: int, rounds: int | None = None) -> float:
        steps = (rounds or self.rounds) * self.local_steps
        mu = self.sampling_rate(records) * math.sqrt(
            steps * (math.exp(self.noise_multiplier**-2) - 1)
        )
        return epsilon_of_mu(mu, self.delta)


class _OtherRelation(RecordPlan):
    def charges(self, *given: Any, **named: Any) -> list[Charge]:
        found = super().charges(*given, **named)
        return [replace(charge, relation="add-or-remove-one") for charge in found]

    def epsilon(self, records: int, rounds: int | None = None) -> float:
        other: RecordPlan = _as(RecordPlan, replace(self, relation="add-or-remove-one"))
        return other.epsilon(records, rounds)


Bugged = Callable[[Mapping[str, Any]], RecordAudit]


def _built(kind: type[CohortTraining[Any]]) -> Bugged:
    def build(cohort: Cohort, plan: RecordPlan, collate: Callable[..., Batch]) -> Any:
        return kind(cohort=cohort, plan=plan, collate=collate)

    return lambda world: RecordAudit(**world, plan=_STEPS, build=build)


def _planned(kind: type[RecordPlan], plan: RecordPlan = _STEPS) -> Bugged:
    return lambda world: RecordAudit(**world, plan=_as(kind, plan))


RECORD_BUGS: Mapping[str, Bugged] = {
    "clipping per token": _built(_PerToken),
    "clipping per layer": _built(_PerLayer),
    "one layer outside the norm": _built(_UnclippedLayer),
    "clipping by the largest number": _built(_LargestNumber),
    "the sum clipped, not the records": _built(_WholeSum),
    "clipping at twice the norm": _planned(_Doubled),
    "gradients that are not finite pass": _planned(_NotFinite),
    "loss as the batch's token mean": lambda world: RecordAudit(
        **{**world, "cohort": _token_mean(world["cohort"])}, plan=_STEPS
    ),
    "division by the batch that came": _built(_ByTheBatch),
    "noise / √2": _planned(_Root2),
    "the mean's noise on the sum": _planned(_OverBatch),
    "half of the numbers without noise": _planned(_HalfNoised),
    "noise clipped away": _planned(_ClippedAfter),
    "a seed used in every round": lambda world: RecordAudit(
        **world, plan=_STEPS, noise=lambda _: insecure_seeded_noise(7)
    ),
    "one noise for two devices": lambda world: RecordAudit(
        **world, plan=_STEPS, noise=lambda number: insecure_seeded_noise(number // 2)
    ),
    "one noise for all steps": _built(_SameNoise),
    "a vote on the norm without noise": _planned(_QuietVote, _ADAPTS),
    "noise that does not follow the norm": _planned(_InitialNorm, _ADAPTS),
    "votes that cost nothing": _planned(
        _FreeVotes, replace(_ADAPTS, clip=AdaptiveClip(initial=0.5, count_noise=0.8))
    ),
    "norms summed, not votes": _planned(_ToldNorms, _ADAPTS),
    "shuffled batches accounted as Poisson's": _planned(_Shuffled),
    "everybody in every step": _planned(_Everybody),
    "one batch for all steps": _planned(_OneBatch),
    "a step of two charged": _planned(_FewSteps),
    "accounting by the central limit": _planned(_CentralLimit),
    "replacement accounted as adding": _planned(
        _OtherRelation, replace(_STEPS, relation="replace-one")
    ),
}


# --- users ----------------------------------------------------------------------------------

UserBug = tuple[UserPlan, Mapping[str, Any], Callable[[], Any]]
"""A plan, what else differs in the audit, and a patch that is on while it runs."""

_CENTRAL = UserPlan(relation="add-or-remove-one", trust="central", cohort=6, clip=1.0)
_SUMMED = UserPlan(relation="add-or-remove-one", trust="secure-aggregation", cohort=5, clip=1.0)
_SAMPLED = replace(_CENTRAL, population=20)


class _Unclipped(UserPlan):
    def seal(self, change: Doubles, entry: float, noise: NoiseSource) -> Doubles:
        return np.nan_to_num(change, posinf=0.0, neginf=0.0)

    def bounded(self, contribution: Any, entry: float) -> Any:
        return contribution  # the server would cut it otherwise


class _QuietRelease(UserPlan):
    def release(self, total: Doubles, *rest: Any) -> tuple[Doubles, Doubles | None]:
        noised, state = super().release(total, *rest)
        return total / self.cohort + (noised - total / self.cohort) / math.sqrt(2), state


class _ByWhoCame(UserPlan):
    """The noise is that of the whole population's mean, the sum that of a cohort."""

    def add_noise(self, total: Doubles, noise: NoiseSource, entry: float = 0.0) -> Doubles:
        return total + (super().add_noise(total, noise, entry) - total) / 3


_TOTAL = Aggregation.total


def _weighted(self: Aggregation, theta: Any, uploads: Sequence[Upload], round: int) -> Doubles:
    """As by sample counts: one device has ten times the others' records."""
    longest = max(uploads, key=lambda upload: float(np.abs(upload.change).sum()))
    return _TOTAL(self, theta, [*uploads, *[longest] * 9], round)


def _one_size(self: FederatedStrategy, nodes: Any, round: int) -> list[int]:
    candidates = sorted(nodes)
    chosen = np.random.default_rng(round).permutation(len(candidates))[: self.cohort]
    return sorted(candidates[i] for i in chosen)


_ENCODE = WholeNumbers.encode


def _less_noise(self: WholeNumbers, contribution: Doubles, noise: NoiseSource) -> Any:
    self.deviation /= 1.5
    found = _ENCODE(self, contribution, noise)
    self.deviation *= 1.5
    return found


def _nothing() -> Any:
    return patch.dict({}, {})


USER_BUGS: Mapping[str, UserBug] = {
    "devices do not clip": (_as(_Unclipped, _CENTRAL), {}, _nothing),
    "the server's noise / √2": (_as(_QuietRelease, _CENTRAL), {}, _nothing),
    "noise of the population's mean": (_as(_ByWhoCame, _CENTRAL), {}, _nothing),
    "a server that seeds its noise": (
        _CENTRAL,
        {"server_noise": lambda _: insecure_seeded_noise(3)},
        _nothing,
    ),
    "weights by sample counts": (
        _CENTRAL,
        {},
        lambda: patch.object(Aggregation, "total", _weighted),
    ),
    "rounds without a charge": (
        _CENTRAL,
        {},
        lambda: patch.object(FederatedStrategy, "_charge", lambda self, round: None),
    ),
    "a cohort of one size, accounted as sampled": (
        _SAMPLED,
        {},
        lambda: patch.object(FederatedStrategy, "sample", _one_size),
    ),
    "too small a share of the noise": (
        _SUMMED,
        {},
        lambda: patch.object(WholeNumbers, "encode", _less_noise),
    ),
}


# --- secure sums ----------------------------------------------------------------------------


class _Obliging(SecAggDevice):
    """Answers as often as it is asked: the double unmask."""

    @contextmanager
    def _taking(self, step: Any, following: Any) -> Iterator[None]:  # type: ignore[override]
        yield


class _Trusting(SecAggDevice):
    """Opens its shares without looking at the signatures."""

    def open(self, signatures: Mapping[int, bytes]) -> Opened:
        with patch("locavore.privacy.secagg.device.signed_by", lambda *_: True):
            return super().open(signatures)


class _Bare(SecAggDevice):
    """Forgets to mask."""

    def mask(self, vector: Any, inbox: Any) -> Any:
        super().mask(vector, inbox)
        return vector.copy()


class _OldMasks(SecAggDevice):
    """Masks as in the sum before."""

    def mask(self, vector: Any, inbox: Any) -> Any:
        super().mask(vector, inbox)
        drawn = np.random.default_rng(4).integers(0, 1 << 16, len(vector), dtype=np.uint16)
        return vector + drawn


SUM_BUGS: Mapping[str, type[SecAggDevice]] = {
    "double unmask": _Obliging,
    "signatures that nobody checks": _Trusting,
    "a vector without masks": _Bare,
    "the masks of the sum before": _OldMasks,
}


# --- the wire -------------------------------------------------------------------------------


def _unchecked(extra: Callable[[Any], dict[str, dict[str, Any]]]) -> Callable[[], Any]:
    """A device's app whose replies have more in them, and are not checked before they leave."""

    def train(device: Any, order: Broadcast) -> Records:
        delta = device.train_shared(order.theta, round=order.round)
        more = extra(device)
        return {
            "arrays": {"delta": delta, **more.get("arrays", {})},
            "config": {"round": order.round, "plan": order.plan, **more.get("config", {})},
        }

    return lambda: patch("locavore.client.app._train", train)


def _told(work: Callable[[], Any], *, protocol: bool = False) -> Any:
    return work()


def _smuggled(device: Any, order: Broadcast) -> Records:
    delta = device.train_shared(order.theta, round=order.round)
    delta[: len(device.adapter)] = device.adapter
    return {"arrays": {"delta": delta}, "config": {"round": order.round, "plan": order.plan}}


WIRE_BUGS: Mapping[str, Callable[[], Any]] = {
    "the private adapter in the payload": _unchecked(
        lambda device: {"arrays": {"private": device.adapter}}
    ),
    "a sample count in the payload": _unchecked(lambda device: {"config": {"samples": 41}}),
    "a record's text in an error": lambda: patch("locavore.client.app._sealed", _told),
    "the private adapter in the update's place": lambda: patch(
        "locavore.client.app._train", _smuggled
    ),
}
