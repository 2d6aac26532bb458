"""The coordinator of a deployed federation: what runs on the internet, and whom it lets in."""
