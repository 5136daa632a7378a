"""From prepared rows to the batches of a step."""
