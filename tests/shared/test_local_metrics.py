"""Figures by a tower: exact on made-up towers, and what the built-in one can tell apart."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import locavore.server.simulation as simulation
from locavore.shared.errors import BadInputError, TooLittleDataError
from locavore.shared.metrics import local
from locavore.shared.metrics.images import Pixels
from locavore.shared.metrics.towers import drawing_towers

TEAMS = ("emojione", "fxemoji", "noto-v1", "streamline-emojis", "streamline-freehand-color")


class Table:
    """A tower whose vectors are looked up: image ``i`` is all ``i``."""

    name = "table"

    def __init__(self, vectors: Any) -> None:
        self.vectors = np.asarray(vectors, np.float64)

    def embed_images(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self.vectors[pixels[:, 0, 0, 0]]
        return found

    def embed_texts(self, captions: Sequence[str]) -> npt.NDArray[np.float64]:
        return self.vectors[[int(caption) for caption in captions]]

    def features(self, pixels: Pixels) -> list[npt.NDArray[np.float64]]:
        return [self.embed_images(pixels)[:, :, None, None]]


def images(*numbers: int) -> Pixels:
    rows = np.array(numbers, np.uint8)
    return np.broadcast_to(rows[:, None, None, None], (len(numbers), 32, 32, 3)).copy()


def gaussian(count: int, mean: float = 0.0, spread: float = 1.0, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(mean, spread, (count, 4))


def halves(a: Any, b: Any) -> tuple[Table, Pixels, Pixels]:
    return Table([*a, *b]), images(*range(len(a))), images(*range(len(a), len(a) + len(b)))


def test_a_figure_has_no_name_without_its_tower() -> None:
    figure = local.clip_i(Table(np.eye(2)), images(0), images(0))
    assert (figure.name, str(figure)) == ("clip_i@table", "clip_i@table 1")


def test_cosines_are_means_over_all_pairs_or_over_own_pairs() -> None:
    tower = Table([[1, 0], [0, 2], [3, 3]])
    assert local.clip_i(tower, images(0, 1), images(0, 1)).value == pytest.approx(0.5)
    assert local.dino_i(tower, images(2), images(0, 1)).value == pytest.approx(0.5**0.5)
    assert local.clip_t(tower, images(0, 2), ["0", "1"]).value == pytest.approx((1 + 0.5**0.5) / 2)
    found = local.paired_distance(tower, images(0, 1), images(0, 0))
    assert found.value == pytest.approx(0.5)


def test_lpips_is_the_distance_of_unit_features() -> None:
    tower = Table([[1, 0], [0, 5], [4, 0]])
    assert local.lpips(tower, images(0), images(2)).value == 0
    assert local.lpips(tower, images(0, 0), images(1, 0)).value == pytest.approx(1.0)


def test_fid_of_equal_sets_is_zero_and_of_a_shift_its_square() -> None:
    points = gaussian(50)
    assert local.fid(*halves(points, points)).value == pytest.approx(0, abs=1e-9)
    assert local.fid(*halves(points, points + np.array([3, 0, 0, 4]))).value == pytest.approx(25)


def test_fid_of_a_wider_gaussian_is_the_difference_of_spreads() -> None:
    points = gaussian(50) - gaussian(50).mean(axis=0)
    wanted = np.trace(np.cov(points, rowvar=False))  # (2 - 1)^2 of every variance
    assert local.fid(*halves(points, 2 * points)).value == pytest.approx(wanted)


def test_fid_needs_no_full_rank() -> None:
    points = np.array([[0.0, 0, 0, 0], [2, 0, 0, 0]])
    assert local.fid(*halves(points, points + np.array([0, 1, 0, 0]))).value == pytest.approx(1)


def test_fid_agrees_with_a_general_matrix_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    mixing = np.random.default_rng(7).normal(size=(4, 4))  # so that the spreads do not commute
    a, b = gaussian(60) * [1, 2, 3, 4], gaussian(60, seed=1) @ mixing
    spreads = [np.cov(x, rowvar=False) for x in (a, b)]
    root = np.trace(linalg.sqrtm(spreads[0] @ spreads[1]).real)
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(sum(spreads)) - 2 * root
    assert local.fid(*halves(a, b)).value == pytest.approx(wanted)


def test_kid_is_unbiased() -> None:
    values = [
        local.kid(*halves(gaussian(40, seed=2 * i), gaussian(40, seed=2 * i + 1))).value
        for i in range(200)
    ]
    error = np.std(values) / len(values) ** 0.5
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * error
    shifted = local.kid(*halves(gaussian(40), gaussian(40, mean=1, seed=1))).value
    assert shifted > 10 * np.std(values)


def test_kid_of_two_points_is_worked_out_by_hand() -> None:
    tower, a, b = halves([[1.0], [2.0]], [[0.0], [0.0]])
    # k(1, 2) = 3^3; k(0, 0) = 1; k(x, 0) = 1
    assert local.kid(tower, a, b).value == pytest.approx(27 + 1 - 2)


def test_styles_are_told_by_the_nearest_centre() -> None:
    tower = Table([[1, 0], [0, 1], [0.9, 0.1], [0.2, 0.9]])
    judge = local.StyleClassifier.fit(tower, {"ada": images(0), "bo": images(1)})
    assert judge.people_of(images(2, 3)) == ["ada", "bo"]
    found = judge.accuracy({"ada": images(2, 3), "bo": images(3)})
    assert found.name == "style_accuracy@table"
    assert found.value == pytest.approx(0.75)


def test_personalization_is_between_others_and_oneself() -> None:
    tower = Table([[1, 0], [0, 1], [1, 1]])
    own, other, half = images(0, 0), images(1, 1), images(2, 2)
    for made, score in ((own, 1.0), (other, 0.0), (half, 0.5**0.5)):
        found = local.personalization(tower, made, own, own, {"bo": other})
        assert found.score == pytest.approx(score)
    unclear = local.personalization(tower, own, own, own, {"bo": own})
    assert unclear.score is None
    assert "give more images" in unclear.reason


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: local.clip_t(t, images(0, 1), ["0"]), BadInputError, "as many captions"),
        (lambda t: local.lpips(t, images(0), images(0, 1)), BadInputError, "as many real images"),
        (lambda t: local.fid(t, images(0), images(0, 1)), TooLittleDataError, "got 1 and 2"),
        (lambda t: local.kid(t, images(0, 1), images(0)), TooLittleDataError, "got 2 and 1"),
        (lambda t: local.StyleClassifier.fit(t, {"ada": images(0)}), TooLittleDataError, "got 1"),
        (
            lambda t: local.personalization(t, images(0), images(0), images(0), {}),
            BadInputError,
            "another person",
        ),
        (
            lambda t: local.StyleClassifier.fit(t, {"ada": images(0), "bo": images(1)}).accuracy(
                {"cy": images(0)}
            ),
            BadInputError,
            "known people, got cy",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(Table(np.eye(2)))


@pytest.fixture(scope="module")
def drawings() -> tuple[Pixels, list[dict[str, Any]]]:
    """Some of the devices' drawings, none of which the built-in tower has seen."""
    folder = Path(simulation.__file__).parent / "data"
    pixels = np.load(BytesIO(lzma.decompress((folder / "drawings.npy.xz").read_bytes())))
    lines = lzma.decompress((folder / "drawings.jsonl.xz").read_bytes()).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    kept = [i for i, row in enumerate(rows) if row["device"] in TEAMS][::5]
    return pixels[kept], [rows[i] for i in kept]


def test_the_built_in_tower_is_deterministic_and_does_not_see_batches(drawings: Any) -> None:
    pixels = drawings[0][:300]
    towers = drawing_towers()
    for tower in (towers.concepts, towers.styles, towers.looks):
        found = tower.embed_images(pixels)
        np.testing.assert_array_equal(found, tower.embed_images(pixels))
        np.testing.assert_allclose(found[:3], tower.embed_images(pixels[:3]), atol=1e-5)
    lengths = np.linalg.norm(towers.concepts.embed_images(pixels), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    assert [m.shape[2] for m in towers.looks.features(pixels[:2])] == [16, 8, 4]


def test_larger_drawings_are_averaged_down(drawings: Any) -> None:
    small = drawings[0][:4]
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    styles = drawing_towers().styles
    np.testing.assert_array_equal(styles.embed_images(large), styles.embed_images(small))
    with pytest.raises(BadInputError, match=r"squares of 32 pixels a side.*got 32 x 48"):
        styles.embed_images(np.zeros((1, 32, 48, 3), np.uint8))


def test_it_knows_teams_that_it_never_saw_apart(drawings: Any) -> None:
    pixels, rows = drawings
    held = np.array([row["held_out"] for row in rows])
    team = np.array([row["device"] for row in rows])
    styles = drawing_towers().styles
    judge = local.StyleClassifier.fit(styles, {t: pixels[(team == t) & ~held] for t in TEAMS})
    made = {t: pixels[(team == t) & held] for t in TEAMS}
    assert judge.accuracy(made).value > 0.45  # chance: 0.2


def test_it_finds_the_captions_of_teams_that_it_never_saw(drawings: Any) -> None:
    pixels, rows = drawings
    captions = [row["caption"] for row in rows]
    concepts = drawing_towers().concepts
    own = local.clip_t(concepts, pixels, captions).value
    others = local.clip_t(concepts, pixels, [*captions[7:], *captions[:7]]).value
    assert own > others + 0.1  # measured: 0.33 and 0.17
    assert concepts.embed_texts(["red apple"]).shape == (1, 64)
    with pytest.raises(BadInputError, match="one caption or more"):
        concepts.embed_texts([])


def test_a_devices_drawings_are_nearer_to_its_own_than_to_others(drawings: Any) -> None:
    pixels, rows = drawings
    team = np.array([row["device"] for row in rows])
    own = pixels[team == "fxemoji"]
    other = pixels[team == "streamline-freehand-color"]
    looks = drawing_towers().looks
    assert local.fid(looks, own[::2], own[1::2]).value < local.fid(looks, own[::2], other).value / 2
    assert local.kid(looks, own[::2], own[1::2]).value < local.kid(looks, own[::2], other).value / 2
    styles = drawing_towers().styles
    score = local.personalization(styles, other, own[::2], own[1::2], {"other": other}).score
    assert score == pytest.approx(0, abs=0.2)


def test_the_tower_needs_no_torch() -> None:
    program = (
        "import sys; from locavore.shared.metrics.towers import drawing_towers\n"
        "drawing_towers(); print({'torch', 'onnx'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(entry for entry in sys.path if entry)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "set()"
