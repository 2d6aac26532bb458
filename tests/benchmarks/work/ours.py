"""The worker of our own runtime: ``python -m tests.benchmarks.work.ours BASE THREADS RANK``.

``RANK`` 0 is the bare base; otherwise an adapter of that rank is live at every site, and each
request swaps it for another one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import numpy as np

from locavore.client.runtime import TextModel
from locavore.home import find_base
from locavore.shared.adapters import Adapter
from locavore.shared.causal_graph import CausalGraph, Past

from .protocol import serve

__all__ = ["Ours", "random_adapter"]


def random_adapter(
    base_id: str, sites: Mapping[str, tuple[int, int]], rank: int, seed: int, strength: float = 0.05
) -> Adapter:
    """A random adapter at every site; the default strength leaves the text readable."""
    rng = np.random.default_rng(seed)
    factors = {}
    for site, (width_in, width_out) in sites.items():
        a = rng.standard_normal((width_in, rank)) / width_in**0.5
        b = rng.standard_normal((rank, width_out)) * strength / width_out**0.5
        factors[site] = (a.astype(np.float32), b.astype(np.float32))
    return Adapter(base_id, factors)


class Ours:
    """Our graph without sampling or text, which the other workers do not do either."""

    def __init__(self, base: str, threads: int, rank: int) -> None:
        package = find_base(base)
        self.nbytes = package.nbytes
        self._model = TextModel(package, threads=threads)
        self._graph: CausalGraph = self._model._graph
        self._adapters = [
            random_adapter(self._model.base_id, self._model.sites, rank, seed)
            for seed in range(2 if rank else 0)
        ]
        self._past: Past = {}
        self._length = 0

    def swap(self) -> float | None:
        """Swap the two adapters through the public call, which checks them."""
        if not self._adapters:
            return None
        self._adapters.reverse()
        begun = time.perf_counter()
        self._model.attach(self._adapters[0])
        return time.perf_counter() - begun

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt into a new cache."""
        self._past, self._length = self._graph.empty_past(1), 0
        return self._run(ids)

    def step(self, token: int) -> int:
        """Read one token."""
        return self._run([token])

    def _run(self, ids: list[int]) -> int:
        begin, self._length = self._length, self._length + len(ids)
        step = self._graph.run(
            np.array([ids]),
            np.ones((1, self._length), np.int64),
            np.arange(begin, self._length)[None],
            np.array([len(ids) - 1]),
            self._past,
        )
        self._past = step.past
        return int(step.logits[0, 0].argmax())


if __name__ == "__main__":
    serve(Ours(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
