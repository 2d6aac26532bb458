"""Training on the device: the shared adapter under differential privacy, the private one freely.

Needs the ``train`` extra; importing :mod:`locavore.client` does not import this package.
"""
