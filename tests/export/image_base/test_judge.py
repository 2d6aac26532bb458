"""A picture is recognised when no other drawing is nearer."""

from __future__ import annotations

from locavore.export.image_base.drawings import Drawings
from locavore.export.image_base.judge import nearest_ranks, recognised
from locavore.export.image_base.model import ImageBase


def test_the_drawings_themselves_are_recognised(shapes: Drawings) -> None:
    assert not nearest_ranks(shapes.pixels, shapes.pixels).any()


def test_another_drawing_is_not(shapes: Drawings) -> None:
    ranks = nearest_ranks(shapes.pixels[::-1].copy(), shapes.pixels)
    assert ranks.min() >= 1


def test_a_base_that_has_learned_nothing_is_near_chance(
    untrained: ImageBase, shapes: Drawings
) -> None:
    found = recognised(untrained, shapes, seed=0, guidance=1.0)
    assert found.among == len(shapes)
    assert found.first < 0.5
    assert "nearest of 12" in found.sentence()
