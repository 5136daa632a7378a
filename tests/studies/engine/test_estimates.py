"""Estimates of time follow the speed of the machine."""

import time

import pytest
import torch

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.studies.engine import estimates


@pytest.fixture
def measured():
    """The rate is measured anew, and again after the test."""
    estimates.operations_per_second.cache_clear()
    yield
    estimates.operations_per_second.cache_clear()


def test_a_slower_processor_has_longer_estimates(measured, monkeypatch):
    preset, threads = load_preset("mini-mdlm"), torch.get_num_threads()
    here = estimates.training_seconds(preset, "cpu", 1000)
    assert estimates.training_seconds(preset, "cpu", 1000) == here, "measured once"
    assert torch.get_num_threads() == threads

    product = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *matrices: (time.sleep(0.5), product(*matrices))[1])
    monkeypatch.setattr(estimates, "_ROUNDS", 1)
    estimates.operations_per_second.cache_clear()
    assert estimates.training_seconds(preset, "cpu", 1000) > 2 * here
    assert estimates.operations_per_second("cpu") < 0.4 * 2 * 2048 * 192 * 512 / 0.5


def test_twice_the_steps_take_twice_the_time(measured):
    preset = load_preset("mini-mdlm")
    once, twice, thrice = (estimates.training_seconds(preset, "cpu", steps) for steps in (1000, 2000, 3000))
    assert twice - once == pytest.approx(thrice - twice)
    assert twice > once > 0
