"""The device's side."""

import os
import sys

from locavore.client.app import make_client_app

sys.path.insert(0, os.environ["TOY_WORK"])

from toy_federation import Toy

app = make_client_app(lambda context: Toy(int(context.node_config["partition-id"])))
