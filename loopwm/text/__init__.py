"""Text worlds: recordings, vocabulary, use, benchmark.

worlds       the real ones; crew and collect: they are played by several processes, journal: nothing done is lost
recording    the file; inspection, joining
vocabulary   words as numbers; corpus: a recording as numbers
sampling     which windows are trained on; past: what they are told of what was before, names: what is told otherwise
scenes       a moment of imagined worlds, as tensors; simulator: the same with words, config: how
playing      a game in the terminal
evaluation   trained runs as systems of the benchmark; report: the page of what was measured

The network is in loopwm.model.text, its training in loopwm.train.text.
"""
