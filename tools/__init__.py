"""Scripts of the maintainers, which make what is committed (docs/checkpoints.md): `python -m tools.NAME`."""
