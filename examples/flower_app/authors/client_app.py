"""The device's side: locavore's ClientApp over an author's device."""

from flwr.app import Context

from authors.task import device
from locavore.client.app import make_client_app
from locavore.client.federated import FederatedLearner


def author(context: Context) -> FederatedLearner:
    """The device that a node stands for."""
    config = context.run_config
    return device(
        int(context.node_config["partition-id"]),
        str(config["base"]),
        int(config["rank"]),
        int(config["rounds"]),
        float(config["noise-multiplier"]),
    )


app = make_client_app(author)
