"""The text benchmark: ScienceWorld and ALFWorld, five actions ahead.

windows      which questions: tracks, frozen samples
rules        what a model has to beat; candidates, habits and patterns are what they are made of
metrics      how answers are compared; listings, lexicon
aggregate    means and intervals; ceiling: what cannot be known; errors: why answers are wrong
predictor    what is asked of a system; benchmark: all of it together; tables: for the terminal
"""
