"""Presets (model, data and training settings as YAML) and accelerate launch files."""
