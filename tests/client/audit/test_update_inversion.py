"""Updates of the tiny base's text adapters: read where they show spans, and not under noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from locavore.client.audit.canaries import random_tokens
from locavore.client.audit.matching import GradientMatcher
from locavore.client.audit.spans import SpanReader
from locavore.client.audit.update_inversion import UpdateInversion
from locavore.client.audit.updates import Releases
from locavore.client.federated import form_training
from locavore.client.training.text import TextTwin
from locavore.privacy.audit.sections import Section
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.noise import insecure_seeded_noise
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions, FormName, SharedForm

from ...plans import record_plan

START = [0]
RECORDS = random_tokens(8, 7, 512, np.random.default_rng(0))
CROWD = random_tokens(7, 7, 512, np.random.default_rng(1))


def releases(
    twin: TextTwin, directions: Directions, name: FormName, noise: float, rounds: int = 8
) -> Releases:
    """A federation's round after others on public texts."""
    form = SharedForm(name, twin.base_id, directions.limited(4))
    plan = record_plan(clip=1.0, noise_multiplier=noise)
    theta = form.zero()
    training = form_training(twin, form, replace(plan, noise_multiplier=0.0))
    for round in range(rounds):
        theta = theta + training.round(theta, [CROWD], [insecure_seeded_noise(round)])[0]
    streams = iter(range(10**6))
    return Releases(
        twin=twin,
        form=form,
        plan=plan,
        theta=theta,
        start=START,
        source=lambda: insecure_seeded_noise(1, next(streams)),
    )


def read_tokens(it: Releases, record: list[int], **how: Any) -> set[int]:
    reader = SpanReader(it.twin, it.form, it.theta, it.start)
    apart = reader.token_distances(reader.spans(it.release(how.pop("view"), [[record]], **how)))
    return set(np.argsort(apart)[: len(set(record[:-1]))].tolist())


@pytest.mark.parametrize("view", ["raw", "clipped"])
def test_all_tokens_of_a_single_record_are_read_off_both_factors(
    twin: TextTwin, directions: Directions, view: str
) -> None:
    it = releases(twin, directions, "lora", 0.0)
    for record in RECORDS[:3]:
        assert read_tokens(it, record, view=view) == set(record[:-1])


@pytest.mark.parametrize("form", ["ffa", "core"])
def test_a_small_form_shows_fewer_tokens_than_its_rank_alone(
    twin: TextTwin, directions: Directions, form: FormName
) -> None:
    it = releases(twin, directions, form, 0.0, rounds=0)
    reader = SpanReader(it.twin, it.form, it.theta, it.start)
    short, long = RECORDS[0][:3], RECORDS[0]  # with the start: 3 and 7 inputs in rank 4
    assert any(span.open for span in reader.spans(it.release("raw", [[short]])))
    assert not any(span.open for span in reader.spans(it.release("raw", [[long]])))


def test_an_untrained_adapter_shows_its_up_matrix_alone(
    twin: TextTwin, directions: Directions
) -> None:
    it = releases(twin, directions, "lora", 0.0, rounds=0)
    change = it.form.unpack(it.release("raw", [[RECORDS[0]]]).change.astype(np.float32))
    for site in directions.factors:
        assert not change[f"{site}.A"].any()  # B is zero
        assert change[f"{site}.B"].any()


def test_matching_repairs_a_guess(twin: TextTwin, directions: Directions) -> None:
    it = releases(twin, directions, "ffa", 0.0)
    record = RECORDS[1]
    seen = it.release("clipped", [[record]])
    matcher = GradientMatcher(it.twin, it.form, it.theta, it.start)
    cosines = matcher.similarities(seen, RECORDS)
    assert cosines.argmax() == 1
    assert cosines[1] == pytest.approx(1, abs=1e-3)
    bag = [*record, 97, 98, 99]
    for wrong in ([*record[:3], 99, *record[4:]], [*record[:-1], 98]):
        assert matcher.refined(seen, wrong, bag, changes=2, likely=2) == record
    expected = matcher.expected(record[:2], 5)
    assert len(set(expected)) == 5
    assert matcher.expected([], 0) == []


def test_a_deployment_without_noise_is_refuted_and_its_texts_are_read(
    twin: TextTwin, directions: Directions
) -> None:
    audit = UpdateInversion(
        releases=releases(twin, directions, "lora", 0.0),
        records=RECORDS,
        crowd=CROWD,
        changes=1,
        likely=2,
    )
    assert audit.leaves == ("clipped", "summed")
    clipped, summed = audit.findings()
    assert not clipped.holds
    assert "100 % of them" in clipped.found
    assert summed.holds
    section = audit.section()
    assert Section.from_json(section.to_json()).name == "update"
    pairs = section.figures[3].data["pairs"]
    assert len(pairs) == 4
    truth, read = (" ".join(side).split() for side in zip(*pairs, strict=True))
    assert np.equal(truth, read).mean() > 0.5


def test_nothing_is_read_under_noise(twin: TextTwin, directions: Directions) -> None:
    audit = UpdateInversion(
        releases=releases(twin, directions, "lora", 1.0),
        records=RECORDS,
        crowd=CROWD,
        changes=0,
        likely=1,
    )
    assert audit.leaves == ("noised", "summed")
    assert all(finding.holds for finding in audit.findings())
    by_noise = audit.found_by_noise()
    assert by_noise[0.0][0] == 1
    assert by_noise[1.0][0] < 0.2


def test_the_noise_of_a_release_is_what_it_says(twin: TextTwin, directions: Directions) -> None:
    it = releases(twin, directions, "ffa", 2.0)
    quiet = it.release("clipped", [[RECORDS[0]]])
    for view, devices in (("noised", [RECORDS[0]]), ("summed", [RECORDS[0], *CROWD])):
        seen = it.release(view, [[record] for record in devices])  # type: ignore[arg-type]
        assert seen.devices == len(devices)
        assert np.std(seen.change) == pytest.approx(seen.noise, rel=0.1)
        assert seen.noise > 10 * np.std(quiet.change)
    assert quiet.noise == 0


def test_what_cannot_be_attacked_is_refused(twin: TextTwin, directions: Directions) -> None:
    it = releases(twin, directions, "core", 0.0, rounds=0)
    with pytest.raises(BadInputError, match="got 'share-a'"):
        replace(it, form=SharedForm("share-a", twin.base_id, directions))
    with pytest.raises(BadInputError, match="fixed clipping"):
        replace(it, plan=record_plan(clip=AdaptiveClip(initial=1.0, count_noise=5.0)))
    with pytest.raises(BadInputError, match="got 3 records"):
        UpdateInversion(releases=it, records=RECORDS[:3], crowd=CROWD)
