"""Federations of many devices in one process: data, devices, run reports."""
