"""The shared adapter: a federation of simulated devices through the real Flower apps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import Context

from ...client.app import make_client_app
from ...client.federated import FederatedTextDevice
from ...client.training.adapted import AdaptedTwin
from ...privacy.noise import insecure_seeded_noise
from ...privacy.plan import PrivacyPlan
from ...shared.adapters import Array
from ...shared.errors import FederationError
from ...shared.forms import SharedForm
from ..app import FederationConfig, make_server_app
from ..checkpoint import latest
from .config import SimulationConfig
from .grid import run_in_process
from .person import SimulatedPerson

__all__ = ["SharedRun", "Traffic", "train_shared"]

_STREAMS_PER_ROUND = 1_000_000  # noise streams: one per device and round


@dataclass(frozen=True)
class Traffic:
    """Bytes of one device's messages, in the rounds since the last start or resume."""

    down: int
    up: int


@dataclass(frozen=True)
class SharedRun:
    """The shared vector ``(dim,)``, each device's traffic by name, and a row per round."""

    theta: Array
    traffic: dict[str, Traffic]
    rounds: Sequence[Mapping[str, Any]]


def train_shared(
    people: Sequence[SimulatedPerson],
    twin: AdaptedTwin,
    form: SharedForm,
    config: SimulationConfig,
    *,
    checkpoints: Path,
    resume: bool = False,
    private: bool = True,
    on_update: Callable[[], None] = lambda: None,
) -> SharedRun:
    """Train the shared vector over the devices that have enough records.

    Args:
        private: False trains the reference without noise; nothing is charged or measured then.
        on_update: called after each device's local training.

    Raises:
        FederationError: no device has enough records, or no round succeeded.
    """
    members = [person for person in people if person.trains]
    if not members:
        raise FederationError("no device has enough records to train the shared adapter")
    plan = config.plan if private else replace(config.plan, noise_multiplier=0.0)
    devices = [_device(i, p, twin, form, plan, config) for i, p in enumerate(members)]

    def device_of(context: Context) -> FederatedTextDevice:
        on_update()
        return devices[int(context.node_config["partition-id"])]

    cohort = min(config.cohort or len(members), len(members))
    server = make_server_app(
        FederationConfig(
            base_id=form.base_id,
            plan_digest=plan.digest,
            form=f"{form.name}-{config.rank}",
            dim=form.dim,
            rounds=plan.rounds,
            cohort=cohort,
            min_replies=max(1, cohort // 2),
            seed=config.seed,
            checkpoint_dir=checkpoints,
            resume=resume,
            evaluate=private,
        )
    )
    grid = run_in_process(server, make_client_app(device_of), len(members), seed=config.seed)
    final = latest(checkpoints)
    if final is None or not any(row["applied"] for row in final.history):
        raise FederationError("no round of the federation succeeded; see the log for the devices'")
    traffic = {
        person.name: Traffic(grid.bytes_down[node], grid.bytes_up[node])
        for person, node in zip(members, grid.get_node_ids(), strict=True)
    }
    return SharedRun(final.theta, traffic, final.history)


def _device(
    index: int,
    person: SimulatedPerson,
    twin: AdaptedTwin,
    form: SharedForm,
    plan: PrivacyPlan,
    config: SimulationConfig,
) -> FederatedTextDevice:
    def evaluate(theta: Array, round: int) -> None:
        person.measure_shared(form.to_adapter(theta), round)

    return FederatedTextDevice(
        device=person.device,
        twin=twin,
        form=form,
        plan=plan,
        # The data are public and runs must be repeatable: a real device never seeds its noise.
        noise=lambda round: insecure_seeded_noise(config.seed, round * _STREAMS_PER_ROUND + index),
        evaluate=evaluate,
        ledger=person.folder / "ledger.jsonl" if plan.private else None,
    )
