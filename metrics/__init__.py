"""Likelihoods and diversity metrics."""
