"""Private federated adapters on authors' writing, as a Flower app."""
