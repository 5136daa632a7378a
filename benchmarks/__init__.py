"""Speed of the library against the arche paper's implementation: `python -m benchmarks`."""
