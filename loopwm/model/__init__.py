"""The looped core and the verbs around it. Nothing here knows about training."""
