"""A worker that draws: ``python -m tests.benchmarks.work.images ENGINE PACKAGE THREADS``.

``ENGINE`` is ``ours``, the runtime, or ``torch``, the package's twin with the same sampler and the
same noise. A request holds ``prompts``, ``steps``, ``seed`` and ``out``, where the pixels go.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from locavore.home import find_base

__all__: list[str] = []

Draw = Callable[[Sequence[str], int, int], Any]


def _ours(package: str, threads: int) -> tuple[Draw, int]:
    from locavore.client.image_model import Drawing, ImageModel

    model = ImageModel(find_base(package), threads=threads)

    def draw(prompts: Sequence[str], steps: int, seed: int) -> Any:
        found = model.generate(prompts, Drawing(steps=steps, seed=seed))
        return np.stack([picture.pixels for picture in found])

    return draw, model.package.nbytes


def _torch(package: str, threads: int) -> tuple[Draw, int]:
    import torch

    from locavore.shared.pictures import Picture
    from locavore.shared.prompts import Prompts
    from locavore.shared.sampler_config import SamplerConfig
    from locavore.shared.samplers import Sampler, denoise
    from locavore.shared.twin import open_image_twin

    torch.set_num_threads(threads)
    opened = find_base(package)
    twin, prompts_of, details = open_image_twin(opened), Prompts.of(opened), opened.manifest.details

    @torch.inference_mode()
    def draw(prompts: Sequence[str], steps: int, seed: int) -> Any:
        sampler = Sampler(SamplerConfig.read(details["sampler"]), steps)
        rows = [
            np.random.default_rng([seed, i]).standard_normal(details["latent"], np.float32)
            for i in range(len(prompts))
        ]
        ids = torch.from_numpy(prompts_of.ids([*prompts, *[""] * len(prompts)]))
        hidden = twin.embed(ids)

        def predict(x: Any, timestep: Any) -> Any:
            given = (torch.from_numpy(x), torch.from_numpy(timestep).float(), hidden)
            return twin.predict(*given).numpy()

        start = sampler.initial(np.stack(rows))
        latents = denoise(sampler, predict, start, guidance=details["guidance"])
        signals = twin.pictures(torch.from_numpy(latents)).numpy()
        return np.stack([Picture.of_signal(signal).pixels for signal in signals])

    return draw, sum(p.numel() * 4 for p in twin.parameters())


def main() -> None:
    """Load, say so, and answer requests until the input ends."""
    engine, package, threads = sys.argv[1:4]
    draw, nbytes = (_ours if engine == "ours" else _torch)(package, int(threads))
    print(json.dumps({"bytes": nbytes}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.perf_counter()
        pixels = draw(asked["prompts"], asked["steps"], asked["seed"])
        seconds = time.perf_counter() - began
        np.save(asked["out"], pixels)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
