"""What one audit has to say, whole: its findings, what it shows, who the attacker is.

A section is what ``locavore audit X --out`` writes, and what the report puts on a page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...shared.errors import BadInputError
from ..noise import Doubles
from .evidence import LowerBound
from .findings import Finding

__all__ = ["AT_LEAST", "AUDITS", "CLAIMED", "Figure", "Section", "epsilon_bars", "histogram"]

AUDITS: Mapping[str, str] = {
    "claims": "whether the ε that was published is what the charges and the plan cost",
    "wire": "whether anything travelled that may not",
    "mechanism": "whether devices are hidden by what the server releases",
    "training": "whether records are hidden by what a device sends",
    "membership": "whether adapters or texts show who or what was trained on",
    "update": "whether texts can be read off updates",
    "extraction": "whether planted secrets can be got out of adapters",
    "retrieval": "whether a device shows records that are not meant to be shown",
    "attributes": "whether adapters show what sort of person trained them",
}
"""By name, what every audit asks. A report names those that are missing."""

CLAIMED, AT_LEAST = "ε claimed", "ε at least"

Kind = Literal["roc", "bars", "histogram", "table", "texts"]

_NEEDED: dict[str, tuple[str, ...]] = {
    "roc": ("curves",),
    "bars": ("labels", "values"),
    "histogram": ("values",),
    "table": ("head", "rows"),
    "texts": ("pairs",),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Something to be drawn or shown.

    Args:
        title: what is seen, in a sentence.
        kind: ``roc`` has ``curves``, by name a pair of lists, false and true positive rates;
            ``bars`` has ``labels`` and ``values``, by name a list or none for what is unknown,
            and from :func:`epsilon_bars` also ``bounds``; ``histogram`` has ``values``, by name a
            list; ``table`` has ``head`` and ``rows``; ``texts`` has ``pairs`` of what is true and
            what was recovered.
        data: of that kind; JSON.

    Raises:
        BadInputError: the kind is unknown, or lacks its data.
    """

    title: str
    kind: Kind
    data: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.kind not in _NEEDED:
            raise BadInputError(f"a figure is one of {', '.join(_NEEDED)}, got {self.kind!r}")
        if lacking := [name for name in _NEEDED[self.kind] if name not in self.data]:
            raise BadInputError(f"a figure of kind {self.kind!r} lacks {', '.join(lacking)}")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One audit's part of a report.

    Args:
        name: of the command, such as ``membership``.
        title: for the page.
        threat: who attacks, what they see, what they know and want; in plain sentences.
        findings: claims, and whether they hold.
        figures: to be shown, in this order.
        untested: what this audit does not say, a sentence each.
    """

    name: str
    title: str
    threat: str
    findings: Sequence[Finding]
    figures: Sequence[Figure] = ()
    untested: Sequence[str] = ()

    def to_json(self) -> str:
        """As :meth:`from_json` reads it."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, raw: str) -> Section:
        """Undo :meth:`to_json`.

        Raises:
            BadInputError: it is none.
        """
        try:
            data = json.loads(raw)
            data["findings"] = tuple(Finding(**row) for row in data["findings"])
            data["figures"] = tuple(Figure(**row) for row in data["figures"])
            data["untested"] = tuple(data["untested"])
            return cls(**data)
        except (ValueError, KeyError, TypeError) as error:
            raise BadInputError(f"this is no section of an audit: {error}") from None


def epsilon_bars(title: str, rows: Sequence[tuple[str, float, LowerBound]]) -> Figure:
    """Claims beside bounds.

    Args:
        title: what is claimed, and of what.
        rows: a label, the ε that is claimed and a bound at the same δ. An estimate is no bound.

    Raises:
        BadInputError: something else is in a bound's place.
    """
    for label, _, bound in rows:
        if not isinstance(bound, LowerBound):
            raise BadInputError(f"{label!r} is shown as a bound and is none: {bound}")
    return Figure(
        title=title,
        kind="bars",
        data={
            "labels": [label for label, _, _ in rows],
            "values": {
                CLAIMED: [claim for _, claim, _ in rows],
                AT_LEAST: [bound.epsilon for _, _, bound in rows],
            },
            "bounds": [str(bound) for _, _, bound in rows],
        },
    )


def histogram(title: str, values: Mapping[str, Doubles]) -> Figure:
    """Scores ``(n,)`` of several groups, by the group's name."""
    rounded = {name: scores.round(4).tolist() for name, scores in values.items()}
    return Figure(title=title, kind="histogram", data={"values": rounded})
