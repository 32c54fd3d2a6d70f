"""Measurements that this repository publishes, each one command from nothing to its numbers."""
