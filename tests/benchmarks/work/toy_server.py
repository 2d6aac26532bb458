"""The coordinator's link alone, over TLS. Usage: toy_server.py FOLDER NODES ROUNDS plain|sums"""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from locavore.server.app import make_server_app
from locavore.server.coordinator.limits import Limited, Limits
from locavore.server.coordinator.link import Link
from locavore.server.coordinator.localhost import make_certificates
from locavore.server.coordinator.serve import listening

sys.path.insert(0, str(Path(__file__).parent))

from toy_federation import Watch, federation  # type: ignore[import-not-found]


def main(folder: Path, nodes: int, rounds: int, kind: str) -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    make_certificates(folder / "tls")
    link = Link()
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(nodes)]
    ids = [link.admit(public_key_to_bytes(key.public_key())) for key in keys]
    how = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "nodes.json").write_text(
        json.dumps([[i, k.private_bytes(*how).decode()] for i, k in zip(ids, keys, strict=True)])
    )
    limits = Limits(address_requests_per_s=1e6, address_burst=1e6)
    tls = {
        "ssl_certfile": str(folder / "tls" / "server.pem"),
        "ssl_keyfile": str(folder / "tls" / "server.key"),
    }
    with listening(Limited(link.fleet(), limits), "127.0.0.1", 0, **tls) as port:
        print(f"PORT {port}", flush=True)
        config = federation(folder / "checkpoints", nodes, rounds, sums=kind == "sums")
        link.run(make_server_app(config, Watch(partial(print, flush=True))), "toy")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
