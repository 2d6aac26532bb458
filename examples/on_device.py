"""For integrators: personal text on a device, with retrieval and adapters, and no torch.

python examples/on_device.py --base smollm2-135m-instruct-int8 --adapter RUN/devices/NAME/private
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from locavore.client import Device, Generation, TextModel
from locavore.home import find_base
from locavore.shared.adapters import load_adapter
from locavore.shared.contexts import Consent, Instruction, Provenance, UserDocument

NOTES = {
    "2026-03-02": "Dear Ann, the tomatoes are in. I talk to them, as you taught me.",
    "2026-05-19": "Dear Ann, first fruit today, small, crooked, sweeter than any shop's.",
    "2026-06-30": "Dear Tom, the boat needs paint. I have none, and no wish to buy any this year.",
}


def main() -> None:
    """Remember three letters, then write on, and say what the text was built from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="smollm2-135m-instruct-int8", help="name or path")
    parser.add_argument("--adapter", type=Path, help="PEFT adapter folder of this base")
    parser.add_argument("--out", type=Path, default=Path("letter.txt"))
    arguments = parser.parse_args()

    device = Device(TextModel(find_base(arguments.base)))
    for day, body in NOTES.items():
        device.remember(
            UserDocument(
                body=body,
                time=datetime.fromisoformat(day).replace(tzinfo=UTC),
                consent=Consent(retrieve=True),
                provenance=Provenance(source="letters", uri=day),
            )
        )
    if arguments.adapter:
        device.private = load_adapter(arguments.adapter)

    beginning = "Dear Ann, the tomatoes"
    content = device.generate(Instruction(text=beginning), Generation(max_tokens=40), k=2)
    arguments.out.write_text(beginning + content.output + "\n", "utf-8")
    print(beginning + content.output)
    for hit in content.trace.hits:
        print(f"built from the letter of {hit.record.provenance.uri}: {hit.why}")


if __name__ == "__main__":
    main()
