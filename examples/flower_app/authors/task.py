"""What is trained; knows nothing of Flower."""

from functools import cache

from locavore.client import Device, TextModel, Vault
from locavore.client.federated import FederatedLearner
from locavore.client.training.text import TextTwin
from locavore.home import find_base
from locavore.privacy.plan import RecordPlan
from locavore.server.simulation.corpus import load_sotu
from locavore.shared.forms import Directions, SharedForm
from locavore.shared.packages import Package


def plan(rounds: int, noise_multiplier: float) -> RecordPlan:
    """Record-level privacy that needs nobody's trust; both sides must hold the same."""
    return RecordPlan(
        relation="add-or-remove-one", rounds=rounds, noise_multiplier=noise_multiplier
    )


@cache
def package(base: str) -> Package:
    """The base, verified."""
    return find_base(base)


@cache
def form(base: str, rank: int) -> SharedForm:
    """The shared adapter: r x r cores in the base's public directions."""
    directions = Directions.load(package(base).path("directions.safetensors"))
    return SharedForm("core", package(base).base_id, directions.limited(rank))


@cache
def device(
    partition: int, base: str, rank: int, rounds: int, noise_multiplier: float
) -> FederatedLearner:
    """One author's device; what is expensive to load is kept for the next message."""
    held = package(base)
    author = Device(TextModel(held), Vault.in_memory())
    author.remember_all(load_sotu().people[partition].train)
    return FederatedLearner(
        device=author,
        twin=TextTwin.of(held, fast=True),
        form=form(base, rank),
        plan=plan(rounds, noise_multiplier),
    )
