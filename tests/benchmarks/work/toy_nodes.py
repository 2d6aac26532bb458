"""Embedded nodes as threads of a process. Usage: toy_nodes.py FOLDER PORT FIRST LAST KIND"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import Context

from locavore.client.answers import Answers
from locavore.client.app import make_client_app
from locavore.client.node import EmbeddedNode, NodeConfig
from locavore.client.secure_sum import SecureSums

sys.path.insert(0, str(Path(__file__).parent))

from toy_federation import Toy, keys_of, roster_of, summing_plan  # type: ignore[import-not-found]


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def main(folder: Path, port: int, first: int, last: int, kind: str) -> None:
    logging.disable(logging.INFO)
    known = json.loads((folder / "nodes.json").read_text())
    certificates = (folder / "tls" / "ca.pem").read_text()
    total, identities = len(known), keys_of(len(known))
    roster = roster_of(total)
    before = resident_mb()
    nodes = []
    for place in range(first, last):
        sums = None
        if kind == "sums":
            plan = summing_plan(total)
            sums = SecureSums(plan, identities[place], roster.named, random=os.urandom)
        device: Any = Toy(place, sums)

        def of(context: Context, device: Any = device) -> Any:
            return device

        node_id, key = known[place]
        nodes.append(
            EmbeddedNode(
                make_client_app(of, Answers()),
                f"127.0.0.1:{port}",
                load_pem_private_key(key.encode(), None),  # type: ignore[arg-type]
                NodeConfig(app_id="toy", busy_poll_s=0.5, idle_poll_s=1.0),
                certificates=certificates,
                node_id=node_id,
            )
        )
    threads = [threading.Thread(target=node.run, daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    sys.stdin.read()  # until the benchmark closes it
    print(json.dumps({"before": before, "after": resident_mb()}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    port, first, last = map(int, sys.argv[2:5])
    main(Path(sys.argv[1]), port, first, last, sys.argv[5])
