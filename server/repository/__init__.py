"""A repository of base models and shared adapters: signed folders that any static host serves."""
