"""For researchers: a private federation over your own folders of text, in a few lines.

python examples/private_federation.py FOLDER --base smollm2-135m-instruct-int8 --out run

FOLDER holds one subfolder of .txt or .md files per person.
"""

import argparse
from pathlib import Path

from locavore.client.training.private import PrivateTraining
from locavore.home import find_base
from locavore.privacy.plan import RecordPlan
from locavore.server.simulation.config import SimulationConfig
from locavore.server.simulation.corpus import load_folder
from locavore.server.simulation.run import run_simulation
from locavore.server.simulation.writing import WritingStudy


def main() -> None:
    """State the privacy plan and what it costs, run, and print every arm's loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", default="smollm2-135m-instruct-int8", help="name or path")
    parser.add_argument("--out", type=Path, default=Path("run"))
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()

    plan = RecordPlan(
        relation="add-or-remove-one",
        rounds=arguments.rounds,
        noise_multiplier=1.0,
        expected_batch=8,
    )
    print(f"a device with 100 records would spend ε = {plan.epsilon(100):.2f} at δ = {plan.delta}")
    config = SimulationConfig(
        plan=plan,
        rank=1,
        private=PrivateTraining(rank=1, steps=2),
        made=1,
        reference=False,
    )
    study = WritingStudy(
        corpus=load_folder(arguments.folder, held_out=2),
        data_name=arguments.folder.name,
        prompt_tokens=8,
        tokens=8,
    )
    result = run_simulation(find_base(arguments.base), study, config, arguments.out)
    for arm, figures in result["summary"].items():
        print(f"{arm:32} loss {figures['loss']:.3f}")


if __name__ == "__main__":
    main()
