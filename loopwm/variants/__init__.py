"""Other systems behind the same verbs, so that every comparison shares data, losses, trainer and report."""
