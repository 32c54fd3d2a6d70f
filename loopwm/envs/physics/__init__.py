"""Worlds on a physics engine that reports how hard each transition was."""
