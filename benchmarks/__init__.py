"""Speed of the library beside the arche paper's way of doing the same: `python -m benchmarks`."""
