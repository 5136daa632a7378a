"""Pipelines beyond the stock ones of transformers."""
