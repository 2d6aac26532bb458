"""For users: import mail and notes, recall, write with them, forget, and prove that it is gone.

python examples/vault_walk.py --mbox sent.mbox --me you@example.org --folder notes/ --about tomatoes
"""

import argparse
import tempfile
from pathlib import Path

from locavore.client import Device, Generation, TextModel
from locavore.client.importers import import_records, read_source
from locavore.client.importers.reading import Reading
from locavore.home import find_base
from locavore.shared.contexts import Consent, Instruction


def main() -> None:
    """Walk through the life of a record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mbox", type=Path, required=True, help="mailbox file")
    parser.add_argument("--me", required=True, help="your own address")
    parser.add_argument("--folder", type=Path, required=True, help="folder of notes")
    parser.add_argument("--about", required=True, help="what to recall, write about and forget")
    parser.add_argument("--base", default="smollm2-135m-instruct-int8", help="name or path")
    parser.add_argument("--vault", type=Path, help="folder for the vault; a temporary one if none")
    parser.add_argument("--out", type=Path, default=Path("certificate.json"))
    given = parser.parse_args()

    folder = given.vault or Path(tempfile.mkdtemp()) / "vault"
    device = Device.create(folder, passphrase="a passphrase of your own", model=None)
    how = Reading(consent=Consent(retrieve=True), me=frozenset([given.me.lower()]))
    for source in (given.mbox, given.folder):
        done = import_records(device, read_source(source, how))
        print(f"{source.name}: {done.added} records")
    device.close()

    model = TextModel(find_base(given.base))
    device = Device.open(folder, passphrase="a passphrase of your own", model=model)
    hits = device.recall(given.about, k=3)
    for hit in hits:
        print(f"recalled from {hit.record.provenance.source}: {' '.join(hit.text.split())[:70]}")
    content = device.generate(Instruction(text=given.about), Generation(max_tokens=30), k=3)
    print(f"{given.about}{content.output}\n({content.trace.reason})")
    used = device.explain(content).prompt
    print(f"written from {len(used)} of your records")

    certificate = device.store.forget([record.id for record in used])
    certificate.verify()
    given.out.write_text(certificate.to_json(), "utf-8")
    print("\n".join(certificate.sentences()))
    device.close()

    device = Device.open(folder, passphrase="a passphrase of your own")
    again = {hit.record.id for hit in device.recall(given.about, k=99)}
    assert not again & {record.id for record in used}
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    found = [r for r in used if r.text.encode() in everything or r.id.encode() in everything]
    print(f"{len(everything)} bytes of the vault searched: {len(found)} of {len(used)} found")
    device.close()


if __name__ == "__main__":
    main()
