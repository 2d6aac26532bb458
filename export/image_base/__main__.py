"""The recipe's steps as commands; see :mod:`locavore.export.image_base`."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import recipe
from .learn_looking import LookPlan
from .mend import MendPlan
from .model import ImageBase, ModelPlan
from .sample import draw, sheet
from .tower import TowerPlan
from .train import TrainPlan


def main() -> None:
    """Run one step of the recipe."""
    parser = argparse.ArgumentParser(prog="python -m locavore.export.image_base")
    parser.add_argument(
        "step",
        choices=[
            *("fetch", "render", "start", "mend", "train", "judge", "pack", "devices", "sheet"),
            *("tower", "pack-tower", "look"),
        ],
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for everything")
    parser.add_argument("--out", type=Path, help="folder for weights, or for the devices' data set")
    parser.add_argument("--count", type=int, default=200, help="drawings to judge by")
    parser.add_argument("--steps", type=int, help="of training, if not the plan's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--captions", nargs="*", default=["red apple", "cat face"])
    given = parser.parse_args()
    if given.step in ("pack", "pack-tower", "devices", "look") and given.out is None:
        parser.error(f"{given.step} needs --out FOLDER")
    if given.step == "fetch":
        recipe.fetch(given.work)
    elif given.step == "render":
        recipe.render(given.work)
    elif given.step == "start":
        recipe.start(given.work, ModelPlan(), given.seed)
    elif given.step == "mend":
        recipe.mend(given.work, MendPlan())
    elif given.step == "devices":
        recipe.devices(given.work, given.out)
    elif given.step == "judge":
        recipe.judge(given.work, given.count)
    elif given.step == "pack":
        recipe.pack(given.work, given.out)
    elif given.step == "train":
        plan = TrainPlan(steps=given.steps or TrainPlan.steps, seed=given.seed)
        recipe.train(given.work, plan, given.every, given.processes)
    elif given.step == "tower":
        recipe.tower(given.work, TowerPlan(steps=given.steps or TowerPlan.steps, seed=given.seed))
    elif given.step == "look":
        look = LookPlan(steps=given.steps or LookPlan.steps, seed=given.seed)
        recipe.look(given.work, given.out, look)
    elif given.step == "pack-tower":
        recipe.pack_tower(given.work, given.out)
    else:
        from PIL import Image

        base = ImageBase.load(given.work / "averaged")
        page = sheet(draw(base, given.captions, seed=given.seed), 8)
        Image.fromarray(page).save(given.work / "sheet.png")


if __name__ == "__main__":
    main()
