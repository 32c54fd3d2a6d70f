"""`loopwm report` of runs that learned a text world: what is stored about them, as one page."""
