"""Whether a model still loops as when its training ended: a reference kept with the run, and what departs from it."""
