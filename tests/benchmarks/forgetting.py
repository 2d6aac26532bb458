"""On a real base: the adapter after forgetting is, hash for hash, one that never saw the record.

python -m tests.benchmarks forgetting [--quick]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from locavore.client import Device
from locavore.client.training.private import PrivateTraining, SliceTrainer
from locavore.client.vault.keys import Key
from locavore.client.vault.vault import Vault
from locavore.home import find_base
from locavore.server.simulation.corpus import load_sotu
from locavore.shared.contexts import Consent, Context, UserDocument

from .report import Options, Report, machine_line

_BASE = "smollm2-135m-instruct-int8"
_SLICES, _RECORDS = 3, 8
_GONE = 11  # in the second slice


def _lived(device: Device, trainer: SliceTrainer, records: list[Context], gone: str = "") -> Device:
    for first in range(0, len(records), _RECORDS):
        device.remember_all([r for r in records[first : first + _RECORDS] if r.id != gone])
        device.learn(trainer)
    return device


def run(options: Options) -> Report:
    """Live with and without a record; forget it; compare."""
    package = find_base(options.bases[0] if options.bases else _BASE)
    training = PrivateTraining(steps=1 if options.quick else 4, batch=4)
    trainer = SliceTrainer.of(package, training)
    person = load_sotu(1).people[0]
    records: list[Context] = [
        UserDocument(body=r.text, id=str(i), time=r.time, consent=Consent(train=True))
        for i, r in enumerate(person.train[: _SLICES * _RECORDS])
    ]
    with tempfile.TemporaryDirectory() as folder:
        vault = Vault.create(Path(folder) / "v", Key(b"k" * 32))
        device = _lived(Device(store=vault), trainer, records)
        never = _lived(Device(), trainer, records, gone=str(_GONE))
        lineage = device.store.lineages.of(package.base_id)
        chain = [str(link.adapter) for link in lineage.slices]
        begun = time.perf_counter()
        said = device.forget(str(_GONE), trainer=trainer)
        seconds = time.perf_counter() - begun
        rebuilt = [str(link.adapter) for link in lineage.slices]
        device.close()
    wanted = [str(link.adapter) for link in never.store.lineages.of(package.base_id).slices]
    said.verify()
    failures = []
    if rebuilt != wanted:
        failures.append("the rebuilt chain differs from one that never saw the record")
    if rebuilt == chain:
        failures.append("forgetting changed nothing")
    if [(cut.before, cut.after) for cut in said.adapters] != [(chain[-1], wanted[-1])]:
        failures.append("the certificate names other adapters")
    return Report(
        benchmark="forgetting",
        lines=[
            machine_line(),
            f"{package.base_id}, {len(records)} records in {_SLICES} slices; record {_GONE} "
            f"forgotten and two slices trained again in {seconds:.1f} s",
        ],
        columns=["slice", "with the record", "after forgetting", "never had it"],
        rows=[
            [str(place + 1), *(digest[:16] for digest in row)]
            for place, row in enumerate(zip(chain, rebuilt, wanted, strict=True))
        ],
        ratios={"equal slices": sum(a == b for a, b in zip(rebuilt, wanted, strict=True))},
        failures=failures,
    )
