"""Answers given prompts: their likelihoods, and models in lm-evaluation-harness."""
