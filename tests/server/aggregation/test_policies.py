"""One contract for every policy: what a row of the table says of it must be so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from locavore.privacy.noise import Doubles, insecure_seeded_noise
from locavore.server.aggregation import (
    OPTIMIZERS,
    POLICIES,
    Aggregation,
    Policy,
    ServerOptimizer,
    Upload,
    averaging,
    policy_named,
)
from locavore.shared.adapters import Array
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions, SharedForm

from ...plans import user_plan

SITES = {"one": (9, 7), "two": (6, 8)}
RANK = 3
NAMES = tuple(POLICIES)
SEEDS = st.integers(0, 2**32 - 1)
MANY = 60  # a carried rank that leaves nothing out here


def directions(rank: int = RANK) -> Directions:
    rng = np.random.default_rng(0)
    return Directions(
        {
            site: (
                rng.standard_normal((width_in, rank)).astype(np.float32),
                rng.standard_normal((rank, width_out)).astype(np.float32),
            )
            for site, (width_in, width_out) in SITES.items()
        }
    )


def over(name: str) -> SharedForm:
    return POLICIES[name].over("base", directions(), carried=MANY)


def a_vector(form: SharedForm, seed: int) -> Array:
    """A vector in the middle of a federation."""
    drawn = np.random.default_rng(seed).standard_normal(form.dim) * 0.3
    return drawn.astype(np.float32)


def some_uploads(
    form: SharedForm, round: int, count: int, seed: int, scale: float = 0.3
) -> list[Upload]:
    rng = np.random.default_rng((seed, 1))
    size = len(form.leaves(round))
    return [
        Upload((scale * rng.standard_normal(size)).astype(np.float32), form.rank)
        for _ in range(count)
    ]


def after(aggregation: Aggregation, theta: Array, uploads: list[Upload], round: int) -> Array:
    if not aggregation.policy.linear:
        return aggregation.combined(theta, uploads, round)
    change = aggregation.average(theta, uploads, round)
    return aggregation.stepped(theta, change, round, {})[0]


def products(form: SharedForm, theta: Array, kept: Array | None = None) -> dict[str, Doubles]:
    adapter = form.to_adapter(theta, kept)
    return {s: a.astype(np.float64) @ b.astype(np.float64) for s, (a, b) in adapter.factors.items()}


def alone(form: SharedForm, theta: Array, upload: Upload, round: int) -> Array:
    """The vector after one device's update."""
    trained = theta.copy()
    trained[form.leaves(round)] += upload.change
    return trained


def error(name: str, round: int, seed: int, count: int = 5) -> float:
    """Largest difference between the new adapter and the mean of the devices' adapters."""
    form = over(name)
    theta, uploads = a_vector(form, seed), some_uploads(form, round, count, seed)
    kept = np.random.default_rng((seed, 2)).standard_normal(form.kept_dim).astype(np.float32)
    found = products(
        form, after(Aggregation(policy=POLICIES[name], form=form), theta, uploads, round), kept
    )
    owners = [products(form, alone(form, theta, upload, round), kept) for upload in uploads]
    wanted = {site: np.mean([own[site] for own in owners], axis=0) for site in found}
    return max(float(np.abs(found[s] - wanted[s]).max() / np.abs(wanted[s]).max()) for s in wanted)


@pytest.fixture(params=NAMES)
def policy(request: pytest.FixtureRequest) -> Policy:
    return POLICIES[request.param]


class TestEveryPolicy:
    """What holds for all rows."""

    def test_the_zero_start_changes_nothing(self, policy: Policy) -> None:
        form = over(policy.name)
        assert not any(np.any(p) for p in products(form, form.zero()).values())
        assert form.to_adapter(form.zero()).base_id == "base"

    def test_no_update_moves_nothing(self, policy: Policy) -> None:
        form = over(policy.name)
        theta = form.zero()
        uploads = [Upload(np.zeros(len(form.leaves(1)), np.float32), RANK) for _ in range(3)]
        found = after(Aggregation(policy=policy, form=form), theta, uploads, 1)
        for product in products(form, found).values():
            np.testing.assert_allclose(product, 0, atol=1e-6)

    @pytest.mark.parametrize("round", [1, 2])
    def test_an_answer_has_the_announced_length(self, policy: Policy, round: int) -> None:
        form = over(policy.name)
        small = 2 if policy.mixed_ranks else RANK
        aggregation = Aggregation(policy=policy, form=form, ranks={7: small})
        for node, rank in ((7, small), (8, RANK)):
            own = form.limited(rank)
            theta = form.zero()
            assert aggregation.sent(theta, node).size == own.dim
            assert aggregation.up(round, theta.size, node) == len(own.leaves(round))
            with_entry = np.append(theta, np.float32(5))
            assert aggregation.sent(with_entry, node)[-1] == 5
            assert aggregation.up(round, with_entry.size, node) == len(own.leaves(round)) + 1

    def test_only_what_is_shared_is_in_an_answer(self, policy: Policy) -> None:
        form = over(policy.name)
        letters = {matrix.letter for matrix in form.shared}
        assert letters == set("RAB") & set(policy.shares)
        assert {matrix.letter for matrix in form.stays} == set(policy.keeps)
        sizes = sum(matrix.size for matrix in form.shared)
        turns = [len(form.leaves(round)) for round in (1, 2)]
        assert sum(turns) == (sizes if policy.turns == "round" else 2 * sizes)
        assert len(form.start()) == sizes + form.kept_dim

    @settings(max_examples=20)
    @given(seed=SEEDS, name=st.sampled_from(NAMES), round=st.integers(1, 2), data=st.data())
    def test_who_answers_first_changes_no_bit(
        self, seed: int, name: str, round: int, data: Any
    ) -> None:
        form = over(name)
        aggregation = Aggregation(policy=POLICIES[name], form=form)
        theta, uploads = a_vector(form, seed), some_uploads(form, round, 4, seed)
        shuffled = data.draw(st.permutations(uploads))
        first = after(aggregation, theta, uploads, round)
        assert after(aggregation, theta, shuffled, round).tobytes() == first.tobytes()

    def test_the_table_is_complete(self, policy: Policy) -> None:
        assert policy_named(policy.name) is policy
        assert policy.source
        assert policy.secure_sums == policy.linear == (policy.bound(user_plan()) is not None)
        assert policy.linear == policy.sensitivity.startswith("a sum")
        assert "carried" in policy.exact if policy.carries else "carried" not in policy.exact


class TestExactness:
    """The mean of what is sent is the mean of the adapters, where the table says so."""

    @settings(max_examples=25)
    @given(seed=SEEDS, name=st.sampled_from(NAMES), round=st.integers(1, 2))
    def test_as_declared(self, seed: int, name: str, round: int) -> None:
        exact = POLICIES[name].exact
        if exact == "never":
            return
        # No common adapter: what is shared is exact beside one device's own half.
        assert error(name, round, seed) < 1e-5

    @pytest.mark.parametrize("name", [n for n in NAMES if POLICIES[n].exact == "never"])
    def test_never_means_that_it_fails(self, name: str) -> None:
        assert error(name, 1, seed=1) > 1e-3

    def test_a_carried_rank_that_is_too_small_leaves_something_out(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy = POLICIES["flora"]
        form = policy.over("base", directions(), carried=2)
        theta = form.zero()
        uploads = some_uploads(form, 1, 4, seed=1)
        after(Aggregation(policy=policy, form=form), theta, uploads, 1)
        assert "one: rank 2 leaves out" in caplog.text

    def test_flexlora_is_the_best_of_its_rank(self) -> None:
        form = over("flexlora")
        uploads = some_uploads(form, 1, 5, seed=3)
        theta = a_vector(form, 4)
        found = after(Aggregation(policy=POLICIES["flexlora"], form=form), theta, uploads, 1)
        owners = [products(form, alone(form, theta, upload, 1)) for upload in uploads]
        for site in SITES:
            mean = np.mean([own[site] for own in owners], axis=0)
            u, s, v = np.linalg.svd(mean, full_matrices=False)
            for rank in range(1, RANK + 1):
                own = form.limited(rank)
                best = (u[:, :rank] * s[:rank]) @ v[:rank]
                got = products(own, found[form.prefix(rank)])[site]
                np.testing.assert_allclose(got, best, atol=1e-5)
        columns = {s: np.linalg.norm(a, axis=0) for s, (a, _) in directions().factors.items()}
        for site, (a, _) in form.to_adapter(found).factors.items():
            np.testing.assert_allclose(np.linalg.norm(a, axis=0), columns[site], rtol=1e-5)

    def test_fedex_goes_on_with_the_mean_of_the_factors(self) -> None:
        form, plain = over("fedex"), over("fedit")
        theta, uploads = a_vector(plain, 1), some_uploads(plain, 1, 5, seed=2)
        whole = np.concatenate([theta, np.zeros(form.dim - form.main, np.float32)])
        found = after(Aggregation(policy=POLICIES["fedex"], form=form), whole, uploads, 1)
        mean = after(Aggregation(policy=POLICIES["fedit"], form=plain), theta, uploads, 1)
        np.testing.assert_allclose(found[: form.main], mean, atol=1e-6)


class TestLinearity:
    """A sum of vectors of one length is all that a linear policy needs."""

    @settings(max_examples=20)
    @given(
        seed=SEEDS,
        name=st.sampled_from([n for n in NAMES if POLICIES[n].linear]),
        round=st.integers(1, 2),
    )
    def test_the_sum_is_enough(self, seed: int, name: str, round: int) -> None:
        form = over(name)
        aggregation = Aggregation(policy=POLICIES[name], form=form)
        theta, uploads = a_vector(form, seed), some_uploads(form, round, 4, seed)
        total = np.sum([upload.change for upload in uploads], axis=0, dtype=np.float64)
        np.testing.assert_allclose(aggregation.total(theta, uploads, round), total, atol=1e-6)
        one = after(aggregation, theta, uploads, round)
        twice = [Upload(2 * upload.change, upload.rank) for upload in uploads]
        two = after(aggregation, theta, twice, round)
        np.testing.assert_allclose(two - theta, 2 * (one - theta), atol=1e-5)

    @settings(max_examples=20)
    @given(
        seed=SEEDS,
        name=st.sampled_from([n for n in NAMES if POLICIES[n].linear]),
        round=st.integers(1, 2),
        scale=st.sampled_from([0.01, 1.0, 1e6]),
    )
    def test_one_device_moves_it_by_no_more_than_declared(
        self, seed: int, name: str, round: int, scale: float
    ) -> None:
        plan = user_plan(cohort=4, clip=0.5)
        policy, form = POLICIES[name], over(name)
        aggregation = Aggregation(policy=policy, form=form)
        theta = a_vector(form, seed)
        sealed = [
            Upload(
                plan.seal(u.change.astype(np.float64), 0.0, insecure_seeded_noise(0)).astype(
                    np.float32
                ),
                u.rank,
            )
            for u in some_uploads(form, round, 5, seed, scale)
        ]
        one = aggregation.total(theta, sealed[:4], round) / plan.cohort
        other = aggregation.total(theta, sealed[1:], round) / plan.cohort
        bound = policy.bound(plan)
        assert bound == 0.25
        assert np.linalg.norm(one - other) <= bound * (1 + 1e-6)
        without = aggregation.total(theta, sealed[1:4], round) / plan.cohort
        assert np.linalg.norm(one - without) <= bound / 2 * (1 + 1e-6)

    @pytest.mark.parametrize("name", [n for n in NAMES if not POLICIES[n].linear])
    def test_no_bound_means_that_one_device_moves_it_far(self, name: str) -> None:
        form = over(name)
        aggregation = Aggregation(policy=POLICIES[name], form=form)
        theta, uploads = a_vector(form, 1), some_uploads(form, 1, 4, seed=2)
        loud = [Upload(uploads[0].change * 1e4, RANK), *uploads[1:]]
        moved = after(aggregation, theta, loud, 1) - after(aggregation, theta, uploads, 1)
        assert np.linalg.norm(moved) > 100


class TestMixedRanks:
    """Devices with fewer directions, where the table allows them."""

    RANKS = (1, 2, 3, 3)

    def uploads(self, form: SharedForm, seed: int, round: int = 1) -> list[Upload]:
        rng = np.random.default_rng(seed)
        return [
            Upload(
                (0.3 * rng.standard_normal(len(form.limited(r).leaves(round)))).astype(np.float32),
                r,
            )
            for r in self.RANKS
        ]

    @pytest.mark.parametrize("round", [1, 2])
    @pytest.mark.parametrize(
        "name", [n for n in NAMES if POLICIES[n].mixed_ranks and POLICIES[n].linear]
    )
    def test_what_a_device_does_not_train_counts_as_zero(self, name: str, round: int) -> None:
        form = over(name)
        theta, uploads = a_vector(form, 1), self.uploads(form, 2, round)
        found = after(Aggregation(policy=POLICIES[name], form=form), theta, uploads, round)
        wanted = theta.astype(np.float64)
        for upload in uploads:
            own = form.limited(upload.rank)
            places = form.prefix(upload.rank)[own.leaves(round)]
            wanted[places] += upload.change / len(uploads)
        np.testing.assert_allclose(found, wanted, atol=1e-6)

    @pytest.mark.parametrize("name", ["core", "ffa", "flora"])
    def test_exact_stays_exact(self, name: str) -> None:
        """Beside a start at which everybody's adapter is the same."""
        form = over(name)
        theta, uploads = form.zero(), self.uploads(form, 2)
        found = products(
            form, after(Aggregation(policy=POLICIES[name], form=form), theta, uploads, 1)
        )
        owners = []
        for upload in uploads:
            own = form.limited(upload.rank)
            trained = own.zero()
            trained[own.leaves(1)] += upload.change
            owners.append(products(own, trained))
        for site in SITES:
            mean = np.mean([own[site] for own in owners], axis=0)
            np.testing.assert_allclose(found[site], mean, atol=1e-5)

    def test_a_prefix_of_the_vector_is_the_smaller_devices_vector(self, policy: Policy) -> None:
        form = over(policy.name)
        theta = a_vector(form, 1)
        own = form.limited(2)
        whole, small = form.unpack(theta), own.unpack(theta[form.prefix(2)])
        for name, part in small.items():
            rows, columns = part.shape
            np.testing.assert_array_equal(part, whole[name][:rows, :columns])


class TestResume:
    """The optimizer's state is all that a policy needs beside the vector."""

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_cut_in_two_gives_the_same(self, policy: Policy, kind: str) -> None:
        if not policy.linear:
            pytest.skip("steps along no mean")
        form = over(policy.name)
        optimizer = ServerOptimizer(kind=kind, learning_rate=0.1)  # type: ignore[arg-type]
        aggregation = Aggregation(policy=policy, form=form, optimizer=optimizer)
        theta, states = form.zero(), []
        state = aggregation.begin(form.dim)
        for round in range(1, 7):
            uploads = some_uploads(form, round, 3, seed=round)
            change = aggregation.average(theta, uploads, round)
            theta, state = aggregation.stepped(theta, change, round, state)
            states.append((theta, state))
        again, held = states[2]
        for round in range(4, 7):
            uploads = some_uploads(form, round, 3, seed=round)
            change = aggregation.average(again, uploads, round)
            again, held = aggregation.stepped(again, change, round, held)
        assert again.tobytes() == theta.tobytes()


def test_an_entry_for_the_clipping_norm_takes_the_plain_mean() -> None:
    form = over("core")
    optimizer = ServerOptimizer(kind="fedadam", learning_rate=0.1)
    aggregation = Aggregation(policy=POLICIES["core"], form=form, optimizer=optimizer)
    theta = np.append(form.zero(), np.float32(1.5))
    uploads = [
        Upload(np.append(u.change, np.float32(vote)), RANK)
        for u, vote in zip(some_uploads(form, 1, 2, seed=1), (0.5, 1.5), strict=True)
    ]
    assert after(aggregation, theta, uploads, 1)[-1] == np.float32(2.5)


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(BadInputError, match=r"policy must be one of 'core', .* got 'magic'"):
        policy_named("magic")


def test_a_form_that_is_averaged_has_its_policy() -> None:
    for name, policy in POLICIES.items():
        if policy.linear:
            assert averaging(over(name)).name == name
    with pytest.raises(BadInputError, match="no policy averages the form 'lora'"):
        averaging(over("fedex"))


def test_the_documentation_has_the_same_table() -> None:
    text = (Path(__file__).parents[3] / "docs" / "aggregation.md").read_text("utf-8")
    rows = [
        f"| `{p.name}` | {p.shares} | {p.exact} | {'yes' if p.secure_sums else 'no'} "
        f"| {'yes' if p.mixed_ranks else 'no'} | {p.source} |"
        for p in POLICIES.values()
    ]
    assert "\n".join(rows) in text
