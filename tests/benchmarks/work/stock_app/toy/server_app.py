"""The server's side."""

import os
import sys
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from locavore.server.app import make_server_app

sys.path.insert(0, os.environ["TOY_WORK"])

from toy_federation import Watch, federation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation."""
    config = context.run_config
    folder = Path(str(config["folder"]))
    settings = federation(folder, int(config["nodes"]), int(config["rounds"]), sums=False)
    make_server_app(settings, Watch(partial(print, flush=True)))(grid, context)
