"""Losses of one sample each, for the training core.

An objective is a callable ``(model, batch) -> losses (B,)``. Whatever is random about a sample,
such as its diffusion time and noise, is in the batch; no sample's loss depends on another's row.
"""
