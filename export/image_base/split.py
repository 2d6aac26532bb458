"""Who learns from which drawing: the base, or a device; and what a device never draws.

Two rules, both by name alone, so that they hold for drawings that are added later:

- A drawing belongs to a device if its team or artist is one of :data:`DEVICES`; the base never
  sees any of them. All others are the base's, but for one in fifty, which measure it.
- A *concept* is held out when its digest says so, one in five, for all devices alike: no device
  trains on anybody's drawing of it, so that what a device learned from others cannot give it away.
  The base knows these concepts from its own teams: what is tested is style, not vocabulary.
"""

from __future__ import annotations

import hashlib

__all__ = ["ARTISTS", "DEVICES", "TEAMS", "held_out", "measures_base", "rank"]

TEAMS = ("emojione", "fxemoji", "noto-v1", "streamline-emojis", "streamline-freehand-color")
ARTISTS = ("Danny Allen", "Gerald G.", "Jean-Victor Balin", "Jose Hevia", "Nicu Buculei")
DEVICES = (*TEAMS, *ARTISTS)
_HELD_OUT_SHARE = 0.2
_MEASURED_SHARE = 0.02


def held_out(concept: str) -> bool:
    """Whether no device trains on drawings of this concept."""
    return _share(f"concept/{concept}") < _HELD_OUT_SHARE


def measures_base(drawing: str) -> bool:
    """Whether the base's own drawing of this name is kept for validation."""
    return _share(f"drawing/{drawing}") < _MEASURED_SHARE


def rank(concept: str) -> float:
    """A number 0..1 by which some of many concepts are chosen, the same for everyone."""
    return _share(f"rank/{concept}")


def _share(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
