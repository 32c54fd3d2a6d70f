"""Encoders and decoder of text worlds; the core between them is the same as everywhere.

encoders     E and U: words onto latent tokens, and the Memory of all words that a decoder may look back at
head         D, in training: log-probabilities of known texts; pointer: whether and what to repeat, naming: what speaks
             against it
writing      D, in use: greedy or by a beam; under_way: texts so far, with what is kept of them
packing      texts without padding; layers: attention on them; numbers: what digits are part of
"""
