"""The server's side: locavore's ServerApp, configured by the run."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from authors.task import form, plan
from locavore.server.app import FederationConfig, make_server_app
from locavore.server.checkpoint import latest
from locavore.shared.adapters import save_adapter

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation and save the shared adapter in PEFT's format."""
    config = context.run_config
    shared = form(str(config["base"]), int(config["rank"]))
    agreed = plan(int(config["rounds"]), float(config["noise-multiplier"]))
    checkpoints = Path(str(config["checkpoints"]))
    federation = FederationConfig(
        base_id=shared.base_id,
        plan_digest=agreed.digest,
        form=f"core-{config['rank']}",
        dim=agreed.width(shared.dim),
        rounds=agreed.rounds,
        cohort=int(config["cohort"]),
        min_replies=1,
        seed=0,
        checkpoint_dir=checkpoints,
    )
    make_server_app(federation, lambda report: print(report.sentence(), flush=True))(grid, context)
    final = latest(checkpoints)
    if final is not None:
        save_adapter(shared.to_adapter(final.theta), checkpoints / "shared")
        print(f"wrote {checkpoints / 'shared'}", flush=True)
