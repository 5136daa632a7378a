"""Diffusion models of others (LLaDA, Dream, dllm's a2d) as MDLMs: their files are read, their code is never run."""
