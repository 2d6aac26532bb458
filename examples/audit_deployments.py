"""For auditors: what a server reads off updates, of a careless deployment and of a careful one.

python examples/audit_deployments.py --base smollm2-135m-instruct-int8 --out audits

The careless one sends both matrices of a LoRA without noise; the careful one sends a small core in
public directions with noise for every record, and sums devices before anybody looks.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from locavore.client.audit.attacked import attack_updates
from locavore.home import find_base
from locavore.privacy.plan import RecordPlan

NOTES = (
    "My test came back positive",
    "I owe my brother a lot",
    "Meet me by the old mill",
    "She wants to leave him",
    "The spare key is outside",
    "We sell the farm in May",
    "His heart is not strong",
    "I start the new job soon",
)
PUBLIC = (
    "The committee met on Monday.",
    "A small boat is never late.",
    "We bought bread and apples.",
    "Rain fell on the tin roof.",
    "The nurse wrote a letter.",
    "The street was quiet again.",
    "Some flour and two eggs.",
)


def main() -> None:
    """Attack both deployments with the same attacks; print what was read, write all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="smollm2-135m-instruct-int8", help="name or path")
    parser.add_argument("--out", type=Path, default=Path("audits"))
    arguments = parser.parse_args()

    base = find_base(arguments.base)
    arguments.out.mkdir(parents=True, exist_ok=True)
    private = RecordPlan(relation="add-or-remove-one", noise_multiplier=1.0, learning_rate=1.0)
    silent = replace(private, noise_multiplier=0.0)
    for name, plan, audit in (
        ("careless", silent, attack_updates(base, NOTES, PUBLIC, silent, form="lora", rank=4)),
        ("careful", private, attack_updates(base, NOTES, PUBLIC, private, form="core", rank=2)),
    ):
        section = audit.section()
        (arguments.out / f"{name}.json").write_text(section.to_json(), "utf-8")
        print(f"\n{name}: ε = {plan.epsilon(100):.2f} for a record of a device with 100")
        for finding in section.findings:
            print(finding)
        for text, read in audit.texts(audit.leaves[0])[:4]:
            print(f"  wrote {text!r:32} read {read!r}")


if __name__ == "__main__":
    main()
