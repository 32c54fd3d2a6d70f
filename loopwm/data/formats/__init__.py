"""Recordings in other forms than the own store: read, written, recognised."""
