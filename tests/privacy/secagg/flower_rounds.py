"""Flower's own SecAgg+, its client functions one by one: the control of our attack scripts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

__all__ = ["FlowerRound"]

# Flower's package has a function of the module's own name
flower = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")

_RANGE = 1 << 32


class FlowerRound:
    """Flower's clients, ids from 1, among whom everybody is a neighbour of everybody within reach.

    Args:
        vectors: one a client.
        threshold: shares that open a secret.
        neighbours: on either side together, on the ring of ids; None: all others.
    """

    def __init__(
        self,
        vectors: Sequence[npt.NDArray[np.float64]],
        threshold: int,
        neighbours: int | None = None,
    ) -> None:
        self.vectors = vectors
        self.ids = list(range(1, len(vectors) + 1))
        self.reach = len(vectors) if neighbours is None else neighbours // 2
        shares = len(vectors) if neighbours is None else neighbours + 1
        self.setup: dict[str, Any] = {
            Key.SAMPLE_NUMBER: len(vectors),
            Key.SHARE_NUMBER: shares,
            Key.THRESHOLD: threshold,
            Key.CLIPPING_RANGE: 8.0,
            Key.TARGET_RANGE: 1 << 22,
            Key.MOD_RANGE: _RANGE,
            Key.MAX_WEIGHT: 1.0,
        }
        self.states = {i: flower.SecAggPlusState(nid=i) for i in self.ids}
        self.keys: dict[int, list[bytes]] = {}
        self.letters: dict[int, list[tuple[int, bytes]]] = {i: [] for i in self.ids}
        self.masked: dict[int, Any] = {}

    def near(self, node: int) -> list[int]:
        """A node's neighbours, itself included."""
        count = len(self.ids)
        if 2 * self.reach >= count:
            return self.ids
        return [(node - 1 + d) % count + 1 for d in range(-self.reach, self.reach + 1)]

    def advertise(self, node: int) -> None:
        """One client's two public keys."""
        answer = flower._setup(self.states[node], self.setup)
        self.keys[node] = [answer[Key.PUBLIC_KEY_1], answer[Key.PUBLIC_KEY_2]]

    def share(self, node: int, keys: Mapping[int, list[bytes]] | None = None) -> None:
        """One client's sealed shares; ``keys`` are those that the server shows it."""
        shown = {i: self.keys[i] for i in self.near(node)} if keys is None else keys
        answer = flower._share_keys(self.states[node], {str(i): k for i, k in shown.items()})
        for to, letter in zip(
            answer[Key.DESTINATION_LIST], answer[Key.CIPHERTEXT_LIST], strict=True
        ):
            self.letters[to].append((node, letter))

    def mask(self, node: int, examples: int = 1) -> Any:
        """One client's masked vector, as bytes of Flower's."""
        senders, letters = zip(*self.letters[node], strict=True)
        configs = {Key.CIPHERTEXT_LIST: list(letters), Key.SOURCE_LIST: list(senders)}
        parameters = ndarrays_to_parameters([self.vectors[node - 1]])
        answer = flower._collect_masked_vectors(self.states[node], configs, examples, parameters)
        self.masked[node] = answer[Key.MASKED_PARAMETERS]
        return self.masked[node]

    def unmask(self, node: int, active: Sequence[int], dead: Sequence[int]) -> dict[int, Any]:
        """The shares that one client opens, in the order asked for: active first."""
        configs = {Key.ACTIVE_NODE_ID_LIST: list(active), Key.DEAD_NODE_ID_LIST: list(dead)}
        answer = flower._unmask(self.states[node], configs)
        return dict(enumerate(answer[Key.SHARE_LIST]))

    def to_masked(self) -> FlowerRound:
        """Run honestly until everybody has sent a masked vector."""
        for step in (self.advertise, self.share, self.mask):
            for node in self.ids:
                step(node)
        return self

    def uncover(self, victim: int, self_shares: Any, key_shares: Any) -> npt.NDArray[np.int64]:
        """A victim's weight and quantized vector, from shares of both of its secrets."""
        seed = combine_shares(list(self_shares))
        private = bytes_to_private_key(combine_shares(list(key_shares)))
        shown = {
            i: generate_shared_key(private, bytes_to_public_key(self.keys[i][0]))
            for i, _ in self.letters[victim]
        }
        return self.strip(victim, seed, shown)

    def strip(self, victim: int, seed: bytes, shared: Mapping[int, bytes]) -> npt.NDArray[np.int64]:
        """Take masks off a victim's message."""
        arrays = [bytes_to_ndarray(raw) for raw in self.masked[victim]]
        shapes = [array.shape for array in arrays]
        total = [array.astype(np.int64) for array in arrays]
        for sign, key in itertools.chain(
            [(-1, seed)], ((-1 if victim > i else 1, key) for i, key in shared.items())
        ):
            for array, mask in zip(total, pseudo_rand_gen(key, _RANGE, shapes), strict=True):
                array += sign * mask
        found: npt.NDArray[np.int64] = total[1] % _RANGE
        return found

    def vector(self, quantized: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """What a quantized vector stands for, to the accuracy of its rounding."""
        return quantized / (1 << 22) * 16.0 - 8.0
