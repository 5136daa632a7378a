"""Checks of generation settings before any work is done: what transformers would ignore, or not know."""

from .samplers_mdlm import get_sampler, sampler_options


def check_settings(get, given: dict) -> None:
    """ValueError naming the setting, its value and what is allowed.

    Args:
        get: `get(name)` is the value of a setting, given or default, or None.
        given: the settings of this call alone. A default of the checkpoint may belong to another sampler than this call's.
    """
    steps = get("num_diffusion_steps")
    if steps is not None and not is_count(steps):
        raise ValueError(f"num_diffusion_steps={steps!r} must be an integer of at least 1")
    block_length = get("block_length")
    if block_length is not None and not is_count(block_length):
        raise ValueError(f"block_length={block_length!r} must be an integer of at least 1, or None for one block")
    top_p = get("top_p")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p!r} must be above 0 and at most 1")
    for name in ("temperature", "temperature_end"):
        value = get(name)
        if value is not None and not value > 0:
            raise ValueError(
                f"{name}={value!r} must be above 0; for the most probable tokens give do_sample=False instead"
            )
    if get("output_history") and not get("return_dict_in_generate"):
        raise ValueError("output_history=True needs return_dict_in_generate=True: the history is a field of its output")
    if get("prefix_cache") and get("block_length") is None:
        raise ValueError(
            "prefix_cache=True needs block_length: it keeps what stands outside of the block being written"
        )
    _check_sampler(get, given)


def _check_sampler(get, given: dict) -> None:
    """Settings that only other samplers have."""
    name = get("sampler") or "ancestral"
    sampler = get_sampler(name)
    if sampler.anneals_temperature and get("temperature_end") is not None:
        raise ValueError(
            f"temperature_end={get('temperature_end')!r}: sampler={name!r} has its own course of temperature"
        )
    for option in sorted(sampler_options() - set(sampler.options)):
        value = given.get(option)
        if value is not None:
            raise ValueError(f"{option}={value!r} is no setting of sampler={name!r}")


def is_count(value) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, (int, float)) and value >= 1 and int(value) == value
