"""The federation's server: Flower ServerApp, aggregation and checkpoints."""
