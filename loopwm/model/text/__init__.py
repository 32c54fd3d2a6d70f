"""Encoders and decoder of text worlds; the core between them is the same as everywhere."""
