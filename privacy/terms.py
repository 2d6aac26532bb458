"""What a device agrees to when it joins a federation: written down, hashed and pinned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..shared.errors import BadInputError
from ..shared.forms import FORMS, Directions, FormName, SharedForm, Turns
from .clipping import AdaptiveClip
from .matrix import Correlation
from .plan import PrivacyPlan, RecordPlan, UserPlan
from .secagg.session import SecureSum

__all__ = ["Terms", "made", "plan_from", "plan_to"]

_PLANS: Mapping[str, type[RecordPlan] | type[UserPlan]] = {"record": RecordPlan, "user": UserPlan}
_PARTS: Mapping[str, Any] = {
    "clip": AdaptiveClip,
    "correlation": Correlation,
    "secure_sum": SecureSum,
}


def plan_to(plan: PrivacyPlan) -> dict[str, Any]:
    """A plan as plain data, with its unit."""
    said = {"unit": plan.unit, **asdict(plan)}
    if isinstance(plan, UserPlan) and plan.within is not None:
        said["within"] = plan_to(plan.within)
    return said


def plan_from(said: Mapping[str, Any]) -> RecordPlan | UserPlan:
    """A plan from plain data, such as a table of a TOML file.

    Raises:
        BadInputError: no unit, an unknown field, or values that make no plan.
    """
    rest = dict(said)
    unit = rest.pop("unit", None)
    if unit not in _PLANS:
        raise BadInputError(f"a plan's unit must be 'record' or 'user', got {unit!r}")
    for name, part in _PARTS.items():
        if isinstance(rest.get(name), Mapping):
            rest[name] = made(part, rest[name], f"the plan's {name}")
    if isinstance(rest.get("within"), Mapping):
        rest["within"] = plan_from(rest["within"])
    plan: RecordPlan | UserPlan = made(_PLANS[unit], rest, f"a plan for the unit {unit!r}")
    return plan


def made(kind: Any, said: Mapping[str, Any], what: str) -> Any:
    """A dataclass from plain data; BadInputError, about ``what``, where it cannot be made."""
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(said) - known):
        raise BadInputError(
            f"{what} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    try:
        return kind(**said)
    except TypeError as error:
        raise BadInputError(f"{what} cannot be made: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a federation trains, how it protects, and who says who is in it.

    Args:
        name: of the federation.
        base_id: identity of the base model's weights.
        form, turns, carried: of the shared vector, see :class:`~locavore.shared.forms.SharedForm`.
        rank: public directions that it uses per site.
        plan: the privacy plan.
        admission: Ed25519 public key (hex) of who lets devices in and signs the roster.
    """

    name: str
    base_id: str
    form: FormName
    rank: int
    plan: RecordPlan | UserPlan
    admission: str
    turns: Turns = "never"
    carried: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} must not be empty" for name in ("name", "base_id") if not getattr(self, name)
        ]
        if self.form not in FORMS:
            problems.append(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        if self.rank < 1:
            problems.append(f"rank must be at least 1, got {self.rank}")
        try:
            whole = len(bytes.fromhex(self.admission)) == 32
        except ValueError:
            whole = False
        if not whole:
            problems.append(f"admission must be 64 hex digits, got {self.admission!r}")
        if problems:
            raise BadInputError("; ".join(problems))

    def over(self, directions: Directions) -> SharedForm:
        """The shared form, in a base's public directions.

        Raises:
            BadInputError: they are fewer than the rank.
        """
        limited = directions.limited(self.rank)
        return SharedForm(self.form, self.base_id, limited, self.turns, self.carried)

    @property
    def app_id(self) -> str:
        """What devices pin: they answer no other app."""
        return f"locavore/{self.name}"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the terms: what an invitation names."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical text."""
        said = {**vars(self), "plan": plan_to(self.plan), "format": 1}
        return json.dumps(said, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Terms:
        """From :meth:`to_json`.

        Raises:
            BadInputError: it is not what this version writes.
        """
        try:
            said = json.loads(text)
            if said.pop("format") != 1:
                raise BadInputError("these terms are of another format; update locavore")
            said["plan"] = plan_from(said["plan"])
            terms: Terms = made(cls, said, "a federation's terms")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInputError(f"a federation's terms cannot be read: {error}") from None
        return terms

    def sentences(self, records: int) -> list[str]:
        """What a person should know before they agree.

        Args:
            records: of theirs that may be federated.
        """
        plan = self.plan
        whom = {
            "local": "Nobody has to be trusted: what leaves this device is noised already.",
            "secure-aggregation": (
                f"The server sees sums of {plan.least_summed} or more devices' updates, never one; "
                "who lets devices in must be trusted not to invent them."
                if isinstance(plan, UserPlan)
                else ""
            ),
            "central": "The server sees this device's update and must be trusted with it.",
        }[plan.trust]
        what = {
            "record": "whether any one record was used",
            "user": "whether this device took part at all",
        }[plan.unit]
        epsilon = plan.epsilon(max(1, records))
        return [
            f"{self.name!r} trains a shared adapter of {self.base_id} in {plan.rounds} rounds.",
            "Only the change of that adapter leaves this device, clipped. No text does.",
            whom,
            f"After all rounds, {what} is hidden with epsilon {epsilon:.2f} at delta "
            f"{plan.delta:g} ({plan.relation}).",
        ]
