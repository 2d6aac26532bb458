"""What a malicious server, or devices that collude with it, try; one test an attack.

Where Flower's SecAgg+ (flwr 1.41) can be asked the same, the same script is run against it: there
it succeeds.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from locavore.privacy.secagg.device import SecAggDevice
from locavore.privacy.secagg.session import (
    Advertisement,
    Inbox,
    Opened,
    Roll,
    Roster,
    SecureSum,
    indices,
)
from locavore.privacy.secagg.shamir import SHARE_BYTES
from locavore.shared.errors import SecAggError

from .rounds import Round, identity, repeatable

pytest.importorskip("flwr", reason="the control needs the extra 'federate'")

from .flower_rounds import FlowerRound

VICTIM = 2


@pytest.fixture
def world() -> Round:
    return Round(6)


def secrets(count: int = 4) -> list[npt.NDArray[np.float64]]:
    """Vectors for Flower's clients."""
    return list(np.random.default_rng(0).uniform(-1, 1, (count, 30)))


class TestDoubleUnmasking:
    """Ask for both shares of a device: then its vector lies open."""

    def test_opened_once(self, world: Round) -> None:
        world.to("open")
        signatures = world.server.signatures()
        device = world.devices[0]
        opened = device.open(signatures)
        assert set(opened.owners) == world.everybody() - {0}
        with pytest.raises(SecAggError, match="asked to open, but this device is about to closed"):
            device.open(signatures)

    def test_another_set_after_signing(self, world: Round) -> None:
        world.to("confirm")
        device = world.devices[0]
        device.confirm(world.server.survivors())
        with pytest.raises(SecAggError, match="asked to confirm, but this device is about to open"):
            device.confirm(tuple(sorted(world.everybody() - {VICTIM})))

    def test_shares_of_one_kind_a_device(self, world: Round) -> None:
        """What is opened follows from the set that was signed: there is nothing to overlap."""
        world.advertise()
        world.share()
        world.mask(gone=[VICTIM])
        world.confirm()
        opened = world.devices[0].open(world.server.signatures())
        assert len(opened.owners) == len(set(opened.owners)) == 5
        held = world.devices[0]
        assert not held._held  # both kinds are forgotten
        assert all(len(share) == SHARE_BYTES for share in opened.shares)

    def test_flower_opens_both(self) -> None:
        flower = FlowerRound(secrets(), threshold=3).to_masked()
        both = [flower.unmask(node, active=flower.ids, dead=flower.ids) for node in (1, 3, 4)]
        found = flower.uncover(
            VICTIM,
            [shares[VICTIM - 1] for shares in both],
            [shares[4 + VICTIM - 1] for shares in both],
        )
        assert flower.vector(found) == pytest.approx(flower.vectors[VICTIM - 1], abs=1e-5)


class TestKeySwap:
    """Give devices keys of the server's own, so that it knows every mask."""

    def test_refused(self, world: Round) -> None:
        world.advertise()
        roll = world.server.roll()
        mallory = Round(6, seed=9).devices
        keys = [device.advertise() for device in mallory]
        swapped = [
            member if place == VICTIM else replace(member, masking=key.masking, sealing=key.sealing)
            for place, (member, key) in enumerate(zip(roll.members, keys, strict=True))
        ]
        with pytest.raises(SecAggError, match="not signed by it for this session"):
            world.devices[VICTIM].share(Roll(tuple(swapped)))

    def test_own_keys_exchanged(self, world: Round) -> None:
        world.advertise()
        roll = world.server.roll()
        swapped = list(roll.members)
        swapped[VICTIM] = replace(swapped[VICTIM], masking=roll[0].masking)
        with pytest.raises(SecAggError, match="keys are not in the round, or were exchanged"):
            world.devices[VICTIM].share(Roll(tuple(swapped)))

    def test_flower_takes_them(self) -> None:
        flower = FlowerRound(secrets(), threshold=3)
        for node in flower.ids:
            flower.advertise(node)
        mallory = FlowerRound(secrets(), threshold=3)
        for node in mallory.ids:
            mallory.advertise(node)
        shown = mallory.keys | {VICTIM: flower.keys[VICTIM]}
        flower.share(VICTIM, shown)
        for node in set(flower.ids) - {VICTIM}:
            mallory.share(node, shown)
        flower.letters[VICTIM] = mallory.letters[VICTIM]
        flower.mask(VICTIM)
        # The server holds the private keys that all shares and masks are for.
        for node in set(flower.ids) - {VICTIM}:
            mallory.letters[node] += flower.letters[node]
            mallory.mask(node)
        opened = [mallory.states[i].rd_seed_share_dict[VICTIM] for i in (1, 3, 4)]
        keys = [mallory.states[i].sk1_share_dict[VICTIM] for i in (1, 3, 4)]
        flower.keys |= {i: mallory.keys[i] for i in flower.ids if i != VICTIM}
        found = flower.uncover(VICTIM, opened, keys)
        assert flower.vector(found) == pytest.approx(flower.vectors[VICTIM - 1], abs=1e-5)


class TestReplay:
    """Bring back what was said in another session."""

    def test_keys(self, world: Round) -> None:
        world.advertise()
        before = Round(6, nonce=b"1" * 16)
        before.advertise()
        old = before.server.roll()
        members = [old[p] if p != VICTIM else world.server.roll()[p] for p in range(6)]
        with pytest.raises(SecAggError, match="exchanged or replayed"):
            world.devices[VICTIM].share(Roll(tuple(members)))
        fresh = Round(6)
        with pytest.raises(SecAggError, match="exchanged or replayed"):
            fresh.server.advertised(old[0])

    def test_shares(self, world: Round) -> None:
        world.to("mask")
        before = Round(6, nonce=b"1" * 16).to("mask")
        inbox = replace(world.server.inbox(VICTIM), sealed=before.server.inbox(VICTIM).sealed)
        with pytest.raises(SecAggError, match="forged, or of another round"):
            world.devices[VICTIM].mask(world.vectors[VICTIM], inbox)

    def test_signatures(self, world: Round) -> None:
        world.to("open")
        before = Round(6, nonce=b"1" * 16).to("open")
        with pytest.raises(SecAggError, match="has not signed this set of survivors"):
            world.devices[VICTIM].open(before.server.signatures())


class TestSplitView:
    """Tell some devices that the victim is in the sum, and others that it is gone."""

    def test_survivors(self) -> None:
        world = Round(10).to("confirm")
        everybody = world.server.survivors()
        without = tuple(sorted(world.everybody() - {VICTIM}))
        half = {place: world.devices[place].confirm(everybody) for place in range(5)}
        other = {place: world.devices[place].confirm(without) for place in range(5, 10)}
        with pytest.raises(SecAggError, match="5 signatures of 10, at least 6 are needed"):
            world.devices[0].open(half)
        with pytest.raises(SecAggError, match="others were shown another one"):
            world.devices[1].open(half | {5: other[5]})
        with pytest.raises(SecAggError, match="others were shown another one"):
            world.devices[6].open(other | {0: half[0]})

    def test_rolls(self) -> None:
        world = Round(10, rules=SecureSum(neighbours=6))
        world.advertise()
        whole = world.server.roll()
        part = Roll(whole.members[:9])
        for place in range(9):
            shown = whole if place < 5 else part
            world.server.shared(place, world.devices[place].share(shown))
        with pytest.raises(SecAggError, match="forged, or of another round"):
            world.devices[0].mask(world.vectors[0], world.server.inbox(0))

    def test_spot_checks_find_a_false_majority(self) -> None:
        world = Round(60).to("confirm")
        everybody = world.server.survivors()
        right = {p: world.devices[p].confirm(everybody) for p in range(30)}
        false = {p: bytes(64) for p in range(30, 40)}
        refused = 0
        for place in range(30):
            try:
                world.devices[place].open(right | false)
            except SecAggError:
                refused += 1
        assert refused == 30

    def test_flower_believes_both(self) -> None:
        flower = FlowerRound(secrets(6), threshold=3).to_masked()
        others = [i for i in flower.ids if i != VICTIM]
        alive = [flower.unmask(node, active=flower.ids, dead=[]) for node in (1, 3, 4)]
        dead = [flower.unmask(node, active=others, dead=[VICTIM]) for node in (5, 6, VICTIM)]
        found = flower.uncover(
            VICTIM, [s[VICTIM - 1] for s in alive], [s[len(others)] for s in dead]
        )
        assert flower.vector(found) == pytest.approx(flower.vectors[VICTIM - 1], abs=1e-5)


class TestSmallCohort:
    """Sum few vectors, so that the noise is less than accounted for."""

    def test_few_devices(self) -> None:
        world = Round(5, fewest=6)
        world.advertise()
        with pytest.raises(SecAggError, match="5 devices have sent their keys, 6 are needed"):
            world.server.roll()
        roll = Roll(tuple(world.server._advertised[k] for k in sorted(world.server._advertised)))
        with pytest.raises(SecAggError, match="5 devices are in the round, the plan wants at le"):
            world.devices[0].share(roll)

    def test_few_survivors(self) -> None:
        world = Round(6, fewest=5).to("confirm")
        with pytest.raises(SecAggError, match="4 devices in the sum of 6, at least 5 are needed"):
            world.devices[0].confirm((0, 1, 2, 3))

    def test_few_signers(self) -> None:
        """Devices that the server made up do not sign, so they make no noise that counts."""
        world = Round(6, fewest=5).to("confirm")
        survivors = world.server.survivors()
        signed = {p: world.devices[p].confirm(survivors) for p in range(4)}
        with pytest.raises(SecAggError, match="4 signatures of 6, at least 5 are needed"):
            world.devices[0].open(signed)

    def test_the_server_cannot_lower_the_number(self) -> None:
        """It is in the session, which a device makes from its own plan."""
        world = Round(6, fewest=5)
        asked = replace(world.session, fewest=3)
        lax = SecAggDevice(asked, world.keys[0], world.roster, repeatable("lax"))
        with pytest.raises(SecAggError, match="exchanged or replayed"):
            world.server.advertised(lax.advertise())

    def test_flower_lets_the_server_choose(self) -> None:
        flower = FlowerRound(secrets(2), threshold=1).to_masked()
        shares = flower.unmask(1, active=[1, 2], dead=[])
        keys = flower.unmask(1, active=[1], dead=[2])
        found = flower.uncover(2, [shares[1]], [keys[1]])
        assert flower.vector(found) == pytest.approx(flower.vectors[1], abs=1e-5)


class TestStaleRound:
    """Keep a device's shares of a round for a later one."""

    def test_a_session_is_one_round(self, world: Round) -> None:
        world.to("open")
        later = replace(world.session, round=2)
        device = SecAggDevice(later, world.keys[0], world.roster, repeatable("later"))
        device.advertise()
        with pytest.raises(SecAggError, match="keys are not in the round"):
            device.share(world.server.roll())
        with pytest.raises(SecAggError, match="asked to open"):
            device.open(world.server.signatures())


class TestForgedShares:
    """Change shares on their way, or open others than one holds."""

    def test_sealed(self, world: Round) -> None:
        world.to("mask")
        inbox = world.server.inbox(VICTIM)
        changed = bytes([inbox.sealed[0][0] ^ 1]) + inbox.sealed[0][1:]
        with pytest.raises(SecAggError, match="the shares of device 0 are forged"):
            world.devices[VICTIM].mask(
                world.vectors[VICTIM], replace(inbox, sealed=(changed, *inbox.sealed[1:]))
            )

    def test_of_the_wrong_length(self, world: Round) -> None:
        world.to("mask")
        inbox = world.server.inbox(VICTIM)
        with pytest.raises(SecAggError, match="forged"):
            world.devices[VICTIM].mask(
                world.vectors[VICTIM], replace(inbox, sealed=(b"", *inbox.sealed[1:]))
            )

    def test_a_device_opens_nonsense(self) -> None:
        """The sum is still right, from the others' shares."""
        world = Round(7).to("open")
        signatures = world.server.signatures()
        for place in range(7):
            opened = world.devices[place].open(signatures)
            if place == 0:
                opened = Opened(opened.owners, tuple(bytes(33) for _ in opened.owners))
            world.server.opened(place, opened)
        assert (world.server.total() == world.expected()).all()

    def test_too_many_open_nonsense(self) -> None:
        world = Round(7).to("open")
        signatures = world.server.signatures()
        for place in range(7):
            opened = world.devices[place].open(signatures)
            if place < 4:
                opened = Opened(opened.owners, tuple(bytes(33) for _ in opened.owners))
            world.server.opened(place, opened)
        with pytest.raises(SecAggError, match=r"device .*'s self mask do not fit together"):
            world.server.total()

    def test_shares_of_others(self, world: Round) -> None:
        world.to("open")
        opened = world.devices[0].open(world.server.signatures())
        with pytest.raises(SecAggError, match="has not opened the shares that it holds"):
            world.server.opened(0, Opened(opened.owners[1:], opened.shares[1:]))
        with pytest.raises(SecAggError, match="has not opened the shares that it holds"):
            world.server.opened(0, Opened(opened.owners, (b"", *opened.shares[1:])))


class TestOverflowAndWeight:
    """Count for more than one device."""

    def test_other_words(self, world: Round) -> None:
        world.to("mask")
        masked = world.devices[0].mask(world.vectors[0], world.server.inbox(0))
        for bad in (masked.astype(np.int64) << 20, masked.astype(np.float32), masked[:-1]):
            with pytest.raises(SecAggError, match="a masked vector is uint16 of shape"):
                world.server.masked(0, bad)
        world.server.masked(0, masked)

    def test_twice(self, world: Round) -> None:
        world.to("mask")
        masked = world.devices[0].mask(world.vectors[0], world.server.inbox(0))
        world.server.masked(0, masked)
        with pytest.raises(SecAggError, match="or has sent it already"):
            world.server.masked(0, masked)
        with pytest.raises(SecAggError, match="has advertised its keys already"):
            world.server.advertised(world.server.roll()[0])

    def test_a_device_that_is_not_in_the_round(self, world: Round) -> None:
        world.advertise()
        world.share(gone=[5])
        world.server.inbox(0)
        with pytest.raises(SecAggError, match="device 5 has no vector to send"):
            world.server.masked(5, world.vectors[5])

    def test_flower_only_warns(self, caplog: pytest.LogCaptureFixture) -> None:
        flower = FlowerRound(secrets(), threshold=3)
        for step in (flower.advertise, flower.share):
            for node in flower.ids:
                step(node)
        with caplog.at_level(logging.WARNING):
            flower.mask(1, examples=1000)
        assert len(flower.masked[1]) == 2


class TestSybils:
    """Surround a device with others that belong to the server."""

    def test_strangers(self, world: Round) -> None:
        stranger = identity(99)
        known = Roster([*world.roster.identities, stranger.public_key().public_bytes_raw()])
        theirs = replace(world.session, roster=known.digest)
        sybil = SecAggDevice(theirs, stranger, known, repeatable("sybil"))
        advertised = sybil.advertise()
        with pytest.raises(SecAggError, match="is not on the roster"):
            world.server.advertised(advertised)
        world.advertise()
        members = sorted([*world.server.roll().members, advertised], key=lambda m: m.identity)
        with pytest.raises(SecAggError, match="1 devices of the round are not on the roster"):
            world.devices[VICTIM].share(Roll(tuple(members)))

    def test_one_device_twice(self, world: Round) -> None:
        world.advertise()
        members = world.server.roll().members
        with pytest.raises(SecAggError, match="a device is twice in the round"):
            world.devices[VICTIM].share(Roll((members[0], *members)))

    def test_the_device_draws_its_neighbours_itself(self) -> None:
        """The server knows all keys and all of the session, and cannot foresee them."""
        rules = SecureSum(neighbours=5)
        drawn = []
        for seed in range(20):
            world = Round(40, seed=seed, rules=rules)
            world.advertise()
            drawn.append(world.devices[VICTIM].share(world.server.roll()).neighbours)
        assert len(set(drawn)) == 20
        assert len({place for each in drawn for place in each}) > 30

    def test_crowding(self) -> None:
        """Devices that all draw the same one hold no shares of it, and are refused."""
        world = Round(40, rules=SecureSum(neighbours=4)).to("mask")
        inbox = world.server.inbox(VICTIM)
        crowd = tuple(p for p in range(40) if p != VICTIM)
        with pytest.raises(SecAggError, match="39 devices want to be this device's neighbours"):
            world.devices[VICTIM].mask(
                world.vectors[VICTIM],
                Inbox(inbox.sharers, crowd, tuple(bytes(82) for _ in crowd)),
            )

    def test_hiding_the_honest_neighbours(self) -> None:
        world = Round(40, rules=SecureSum(neighbours=4, agreement=0.51)).to("mask")
        drawn = world.server._shares[VICTIM].neighbours
        hidden = set(drawn[:2])
        left = tuple(sorted(world.everybody() - hidden))
        inbox = world.server.inbox(VICTIM)
        kept = [
            (sender, sealed)
            for sender, sealed in zip(inbox.senders, inbox.sealed, strict=True)
            if sender not in hidden
        ]
        with pytest.raises(SecAggError, match="2 of this device's 4 neighbours are left"):
            world.devices[VICTIM].mask(
                world.vectors[VICTIM],
                Inbox(left, tuple(s for s, _ in kept), tuple(x for _, x in kept)),
            )

    def test_another_roster(self, world: Round) -> None:
        other = Roster([identity(i).public_key().public_bytes_raw() for i in range(3)])
        with pytest.raises(SecAggError, match="another roster than this device's"):
            SecAggDevice(world.session, world.keys[0], other, repeatable("x"))


class TestLeavingOut:
    """Take a vector and leave its device out of what everybody signs."""

    def test_of_the_round(self, world: Round) -> None:
        world.to("mask")
        inbox = world.server.inbox(VICTIM)
        others = tuple(sorted(world.everybody() - {VICTIM}))
        with pytest.raises(SecAggError, match="has handed out shares, but the round leaves it out"):
            world.devices[VICTIM].mask(world.vectors[VICTIM], replace(inbox, sharers=others))

    def test_of_the_sum(self, world: Round) -> None:
        world.to("confirm")
        with pytest.raises(SecAggError, match="has sent its vector, but the sum leaves it out"):
            world.devices[VICTIM].confirm(tuple(sorted(world.everybody() - {VICTIM})))

    def test_strange_sets(self, world: Round) -> None:
        world.to("confirm")
        for bad in ((0, 0, 1, 2, 3, 4), (1, 0, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5, 6)):
            with pytest.raises(SecAggError, match="survivors are not distinct devices"):
                Round(6).to("confirm").devices[0].confirm(bad)


class TestKeysThatAreNone:
    """Advertise a point of low order: then everybody knows the shared secret."""

    def test_refused(self) -> None:
        world = Round(4)
        for place in range(3):
            world.server.advertised(world.devices[place].advertise())
        session, key = world.session, world.keys[3]
        forged = Advertisement.sign(key, session, bytes(32), bytes(32))
        with pytest.raises(SecAggError, match="has advertised a key that is none"):
            world.server.advertised(forged)
        with pytest.raises(SecAggError, match="has advertised a key that is none"):
            world.devices[0].share(Roll((*world.server.roll().members, forged)))


def test_out_of_turn(world: Round) -> None:
    device = world.devices[0]
    for ask in (
        lambda: device.share(Roll(())),
        lambda: device.mask(world.vectors[0], Inbox((), (), ())),
        lambda: device.confirm(()),
        lambda: device.open({}),
    ):
        with pytest.raises(SecAggError, match="but this device is about to advertise"):
            ask()


def test_nothing_follows_a_refusal(world: Round) -> None:
    world.to("confirm")
    device = world.devices[VICTIM]
    with pytest.raises(SecAggError):
        device.confirm((0, 1))
    with pytest.raises(SecAggError, match="about to closed"):
        device.confirm(world.server.survivors())
    assert not hasattr(device, "_self_seed")
    assert not device._held


def test_truncated_messages() -> None:
    with pytest.raises(SecAggError, match="parts of 160 bytes each were expected, got 100"):
        Roll.of(bytes(100))
    with pytest.raises(SecAggError, match="parts of 4 bytes each were expected, got 5"):
        indices(bytes(5))
