"""Learning rates, length of the decay and batch size of both arms, one at a time."""
