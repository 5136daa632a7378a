"""Predicted memory and speed of training on many GPUs."""
