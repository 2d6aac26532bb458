"""pfl-research's own simulation: ``python -m tests.benchmarks.work.pfl_rounds MODEL``.

In an environment of its own, see ``make bench-env``; one process, as ``pip install`` gives it.
Prints a line when it has loaded, and answers a request with the seconds of a round.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn

from .users import BATCH, LEARNING_RATE, MODELS, Sizes, adapt, frozen, samples

__all__: list[str] = []


class Adapted(nn.Module):
    """The frozen model with trained factors, as pfl wants a model."""

    def __init__(self, name: str, rank: int) -> None:
        super().__init__()
        self.frozen, sites = frozen(name, False)
        self.kind = MODELS[name]
        factors = {}
        for site in sites:
            layer: Any = self.frozen.get_submodule(site)
            a = nn.Parameter(torch.randn(layer.in_features, rank) * layer.in_features**-0.5)
            b = nn.Parameter(torch.zeros(rank, layer.out_features))
            factors[site] = (a, b)
        self.factors = nn.ParameterList([value for pair in factors.values() for value in pair])
        adapt(self.frozen, factors)

    def loss(self, *columns: torch.Tensor) -> torch.Tensor:
        """Mean over a batch; ``columns`` are the values of a batch in order."""
        names = ("ids",) if len(columns) == 1 else ("x", "y")
        batch = dict(zip(names, columns, strict=True))
        return self.kind.losses(self.frozen, batch).mean()

    def metrics(self, *columns: torch.Tensor) -> dict[str, Any]:
        """Asked for in the first round only, which is not counted."""
        return {"loss": Weighted(float(self.loss(*columns)), len(columns[0]))}


class Clock(TrainingProcessCallback):  # type: ignore[misc]  # pfl is in another environment
    """When each round ended."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Look at the clock; go on."""
        self.stamps.append(time.perf_counter())
        return False, Metrics()


def main(name: str) -> None:
    """Answer requests until there are no more."""
    sizes = Sizes()
    module = Adapted(name, sizes.rank)
    trained = [value for value in module.parameters() if value.requires_grad]
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(trained, lr=1.0),
    )

    def user(number: int) -> Dataset:
        return Dataset(tuple(samples(name, module.frozen, number, sizes.samples).values()))

    sampler = get_user_sampler("minimize_reuse", list(range(sizes.users)))
    data = FederatedDataset(user, sampler)
    print(json.dumps({"engine": "pfl"}), flush=True)
    for _ in sys.stdin:
        clock = Clock()
        FederatedAveraging().run(
            NNAlgorithmParams(
                central_num_iterations=sizes.rounds,
                evaluation_frequency=sizes.rounds + 1,
                train_cohort_size=sizes.cohort,
                val_cohort_size=0,
            ),
            SimulatedBackend(data, data),
            model,
            NNTrainHyperParams(
                local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=BATCH
            ),
            callbacks=[clock],
        )
        seconds = (clock.stamps[-1] - clock.stamps[0]) / (len(clock.stamps) - 1)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
