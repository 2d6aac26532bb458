"""Was anything in the messages that may not be there?

Every recorded message is held against the wire's allow-list again, and its bytes are searched for
planted secrets: texts in the codings in which they might hide, token ids, and stretches of arrays
in three precisions. What is compressed or encrypted is not found.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...shared.errors import WireError
from ...shared.wire import STEPS, Phase, Records, check_incoming, check_outgoing, check_step
from .findings import Finding
from .sections import Figure, Section

__all__ = ["Recorded", "Secret", "forms", "wire_findings", "wire_section"]

Secret = str | bytes | Sequence[int] | npt.NDArray[Any]
"""A text, raw bytes, token ids, or numbers of an array."""

_STRETCH = 4  # neighbouring numbers of an array that are no chance
_WINDOWS = 64  # of an array that are searched


@dataclass(frozen=True, eq=False)
class Recorded:
    """A message as it travelled.

    Args:
        phase: what it was for; None for one that the wire does not know.
        way: to a device or from it.
        records: its plain description.
        raw: all bytes of it, its metadata included.
        error: the text of an error that was the answer.
    """

    phase: Phase | None
    way: Literal["down", "up"]
    records: Records
    raw: bytes = field(repr=False)
    error: str = ""


def wire_findings(
    messages: Iterable[Recorded], secrets: Mapping[str, Secret], *, width: int, plan: str
) -> list[Finding]:
    """Hold messages against the allow-list and search them.

    Args:
        messages: of a whole run.
        secrets: by name, what must not travel, planted where a person's records and private
            adapters are.
        width: length of the shared vector.
        plan: the plan's digest.
    """
    seen = list(messages)
    return [
        _listed(seen, width, plan),
        _found(seen, secrets),
        _errors(seen),
    ]


def wire_section(
    messages: Iterable[Recorded], secrets: Mapping[str, Secret], *, width: int, plan: str
) -> Section:
    """The same with all that travelled; see :func:`wire_findings`."""
    seen = list(messages)
    untested = [
        "Secrets that travel compressed or encrypted: their bytes are not found by a search.",
        "What an update tells of records in ways other than by holding them.",
        "That somebody takes part, when, and for how long: messages show it.",
    ]
    if not secrets:
        untested.insert(0, "Secrets: none were given, so the bytes were searched for none.")
    return Section(
        name="wire",
        title="What travelled",
        threat="Somebody reads every message between the devices and the server, and knows the "
        "wire's format. They look for a person's texts, token ids and private adapters, or for any "
        "field that is not on the list of what may travel.",
        findings=wire_findings(seen, secrets, width=width, plan=plan),
        figures=(_travelled(seen),),
        untested=untested,
    )


def _travelled(messages: Sequence[Recorded]) -> Figure:
    kinds: dict[tuple[str, str], list[Recorded]] = {}
    for one in messages:
        kind = f"{one.phase or 'unknown'}{' error' * bool(one.error)}"
        kinds.setdefault((kind, one.way), []).append(one)
    rows = [
        [kind, way, len(group), _fields(group), sum(len(one.raw) for one in group)]
        for (kind, way), group in kinds.items()
    ]
    return Figure(
        title="Every kind of message that travelled",
        kind="table",
        data={"head": ["message", "way", "how many", "fields", "bytes in all"], "rows": rows},
    )


def _fields(messages: Sequence[Recorded]) -> str:
    """What is in them; a field that one of them has is named."""
    found = {
        f"{record}.{key}": None
        for one in messages
        for record, values in one.records.items()
        for key in values
    }
    return ", ".join(found) or "none"


def _listed(messages: Sequence[Recorded], width: int, plan: str) -> Finding:
    problems = [problem for one in messages if (problem := _problem(one, width, plan))]
    return Finding(
        audit="wire",
        claim="nothing travels that is not on the allow-list",
        found=f"{len(messages)} messages"
        + (f", {len(problems)} broke it: {problems[0]}" if problems else ""),
        holds=not problems,
    )


def _problem(one: Recorded, width: int, plan: str) -> str:
    if one.error:
        return ""
    if one.phase is None:
        return "a message of a kind that the wire does not know"
    try:
        if one.way == "down" and one.phase in STEPS:
            check_step(one.records, phase=one.phase)
        elif one.way == "down":
            check_incoming(one.records, phase=one.phase)
        else:
            said: Mapping[str, Any] = one.records.get("config", {})
            packed: Any = one.records.get("arrays", {}).get("masked")
            check_outgoing(
                one.records,
                phase=one.phase,
                dim=width if packed is None else len(packed),
                plan=plan,
                round=said.get("round", 1),
            )
    except WireError as error:
        return str(error)
    return ""


def _found(messages: Sequence[Recorded], secrets: Mapping[str, Secret]) -> Finding:
    needles = [(name, kind, form) for name, it in secrets.items() for kind, form in forms(it)]
    hits = [
        f"{name} as {kind} in a {one.phase} message {one.way}"
        for name, kind, form in needles
        for one in messages
        if form in one.raw or form in one.error.encode()
    ]
    return Finding(
        audit="wire",
        claim="no planted secret is in the bytes",
        found=f"{len(secrets)} secrets in {len(needles)} forms, "
        + (f"found {len(hits)} times: {hits[0]}" if hits else "none found"),
        holds=not hits,
    )


def _errors(messages: Sequence[Recorded]) -> Finding:
    """Our errors name a class or quote the server's own message; tracebacks are never sent."""
    told = [one.error for one in messages if "Traceback" in one.error or '", line ' in one.error]
    return Finding(
        audit="wire",
        claim="errors tell nothing of how a device got there",
        found=f"{sum(bool(one.error) for one in messages)} errors, {len(told)} with a traceback",
        holds=not told,
    )


def forms(secret: Secret) -> list[tuple[str, bytes]]:
    """The byte strings by which a secret would show, each with a name for the coding."""
    if isinstance(secret, str | bytes):
        return _text_forms(secret.encode() if isinstance(secret, str) else secret)
    values = np.asarray(secret)
    if values.dtype.kind in "iu":
        return [(kind, values.astype(kind).tobytes()) for kind in ("<i2", "<i4", "<i8", ">i4")]
    flat = values.ravel()
    starts = np.linspace(0, max(0, len(flat) - _STRETCH), _WINDOWS).astype(int)
    stretches = {int(at): flat[at : at + _STRETCH] for at in starts}
    return [
        (f"{kind} from {at}", part.astype(kind).tobytes())
        for at, part in stretches.items()
        if len(np.unique(part)) > 1  # zeros are everywhere
        for kind in ("<f2", "<f4", "<f8")
    ]


def _text_forms(raw: bytes) -> list[tuple[str, bytes]]:
    found = [("text", raw), ("hex", raw.hex().encode()), ("HEX", raw.hex().upper().encode())]
    text = raw.decode("utf-8", errors="ignore")
    if text.encode() == raw:
        found += [
            ("UTF-16", text.encode("utf-16-le")),
            ("escapes", json.dumps(text)[1:-1].encode()),
        ]
    for shift in range(3):  # where the secret begins inside a longer text
        coded = base64.b64encode(bytes(shift) + raw)
        inside = coded[(0, 2, 3)[shift] : len(coded) - (0, 4, 4)[min(2, (len(raw) + shift) % 3)]]
        if len(inside) >= 8:
            found.append(("base64", inside))
    return found
