"""What the weights alone guarantee about a loop, recomputed in float64, and what can only be measured."""
