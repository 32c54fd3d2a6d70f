"""Text worlds that can be recorded."""
