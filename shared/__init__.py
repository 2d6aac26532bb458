"""The language that devices, servers and exporters speak. Imports no torch."""
