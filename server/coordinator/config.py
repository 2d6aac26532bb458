"""A coordinator's TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ...privacy.plan import RecordPlan, UserPlan
from ...privacy.terms import made, plan_from
from ...shared.errors import BadInputError
from ..aggregation import RobustMean, ServerOptimizer, policy_named, require_possible
from .limits import Limits

__all__ = ["CoordinatorConfig", "Listen"]


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where the coordinator is spoken to.

    Args:
        host: interface for devices; ``0.0.0.0`` is all of them.
        port: for devices; 0 is any that is free.
        certificate, key: PEM files of TLS.
        authorities: PEM file that goes into invitations, where the certificate is signed by none
            that devices trust anyway.
        operator_port: of metrics and the operator's page, on loopback only; 0 is any.
    """

    host: str = "127.0.0.1"
    port: int = 8443
    certificate: Path
    key: Path
    authorities: Path | None = None
    operator_port: int = 8444

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be 0..65535, got {getattr(self, name)}"
            for name in ("port", "operator_port")
            if not 0 <= getattr(self, name) <= 65535
        ]
        problems += [
            f"{name}: there is no file {path}"
            for name in ("certificate", "key", "authorities")
            if (path := getattr(self, name)) is not None and not path.is_file()
        ]
        if problems:
            raise BadInputError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class CoordinatorConfig:
    """Everything that ``locavore serve`` needs to know.

    Args:
        name: of the federation; part of what devices agree to.
        base: the base's package: its name among the built ones, or a folder.
        plan: the privacy plan. A plan for users has its cohort in it.
        listen: where it is spoken to.
        state: folder of everything that must survive: the register of devices, checkpoints,
            journals, keys and ledger.
        policy: what is shared and how it is averaged, one of
            :data:`~locavore.server.aggregation.POLICIES`.
        rank: public directions that the shared adapter uses per site.
        optimizer: how the server steps along an average.
        robust: what takes the place of the mean.
        cohort: devices per round, for a plan for records.
        min_replies: good replies below which a round is skipped.
        min_nodes: devices that must be connected before a round starts; None: the cohort.
        seed: of cohort sampling that claims nothing.
        reply_timeout_s: seconds that devices have to train.
        step_timeout_s: seconds that they have for each step of a secure sum after that.
        reconnect_s: seconds to wait for the cohort of a round that was cut off.
        pause_s: seconds between two rounds.
        limits: on what devices may send.
        repository: folder of a repository that is served along, if there is one, and gets the
            shared adapter of every round where its adapters are the server's to sign.
        base_target: the base's name in the repository, for invitations.
    """

    name: str
    base: str
    plan: RecordPlan | UserPlan
    listen: Listen
    state: Path
    policy: str = "core"
    rank: int = 2
    optimizer: ServerOptimizer = field(default_factory=ServerOptimizer)
    robust: RobustMean | None = None
    cohort: int | None = None
    min_replies: int = 1
    min_nodes: int | None = None
    seed: int = 0
    reply_timeout_s: float = 3600.0
    step_timeout_s: float = 120.0
    reconnect_s: int = 60
    pause_s: float = 0.0
    limits: Limits = field(default_factory=Limits)
    repository: Path | None = None
    base_target: str | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be above 0, got {getattr(self, name)}"
            for name in ("reply_timeout_s", "step_timeout_s")
            if not getattr(self, name) > 0
        ]
        if self.pause_s < 0:
            problems.append(f"pause_s must be at least 0, got {self.pause_s}")
        if isinstance(self.plan, UserPlan) == (self.cohort is not None):
            problems.append(
                "cohort: a plan for users has it in its own table"
                if self.cohort is not None
                else "cohort: a plan for records needs the number of devices per round"
            )
        if problems:
            raise BadInputError("; ".join(problems))
        require_possible(
            policy_named(self.policy),
            self.plan,
            optimizer=self.optimizer,
            robust=self.robust,
            rank=self.rank,
            cohort=self.devices,
        )

    @property
    def devices(self) -> int:
        """Devices per round."""
        if isinstance(self.plan, UserPlan):
            return self.plan.cohort
        assert self.cohort is not None
        return self.cohort

    @classmethod
    def load(cls, path: Path) -> CoordinatorConfig:
        """Read a TOML file; paths in it are relative to its folder.

        Raises:
            BadInputError: it cannot be read, or says something that cannot be.
        """
        try:
            said = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise BadInputError(f"{path} cannot be read: {error}") from None
        try:
            return _config(said, path.parent)
        except BadInputError as error:
            raise BadInputError(f"{path}: {error}") from None


def _config(said: dict[str, Any], folder: Path) -> CoordinatorConfig:
    for name in ("plan", "listen"):
        if not isinstance(said.get(name), Mapping):
            raise BadInputError(f"the table [{name}] is missing")
    parts: dict[str, Any] = {
        "plan": plan_from(said["plan"]),
        "listen": _made(Listen, said["listen"], "[listen]", folder),
        "limits": _made(Limits, said.get("limits", {}), "[limits]", folder),
        "optimizer": _made(ServerOptimizer, said.get("optimizer", {}), "[optimizer]", folder),
    }
    if "robust" in said:
        parts["robust"] = _made(RobustMean, said["robust"], "[robust]", folder)
    if (folder / str(said.get("base"))).is_dir():
        said["base"] = str(folder / said["base"])
    config: CoordinatorConfig = _made(CoordinatorConfig, {**said, **parts}, "the file", folder)
    return config


def _made(kind: Any, said: Mapping[str, Any], what: str, folder: Path) -> Any:
    types = {one.name: str(one.type) for one in fields(kind)}
    return made(
        kind,
        {k: folder / v if "Path" in types.get(k, "") else v for k, v in said.items()},
        what,
    )
