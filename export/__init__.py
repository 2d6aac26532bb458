"""From a torch model to a signed base-model package."""
