"""Data preparation, objectives and the Accelerate training loop."""
