"""Token error and sequence error of masked samplers, by steps and length, on languages with a known law."""
