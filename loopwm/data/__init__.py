"""Trajectories: recording, storing, splitting and sampling them."""
