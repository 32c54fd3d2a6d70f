"""Text worlds: recordings, vocabulary, benchmark."""
