"""The benchmark's federation as a Flower app."""
