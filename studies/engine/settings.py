"""Checks that the settings of all studies share. Imports nothing heavy: the help reads settings."""

import math
from collections.abc import Mapping
from typing import Any


def check_least(settings: Any, least: Mapping[str, int]) -> None:
    """ValueError for a field of `settings` below its least value."""
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise ValueError(f"{name}={getattr(settings, name)} must be at least {value}")


def check_temperature(settings: Any) -> None:
    """ValueError for a `temperature` that is not a number above 0."""
    if not 0 < settings.temperature < math.inf:
        raise ValueError(f"temperature={settings.temperature} must be above 0")
