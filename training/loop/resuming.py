"""Resuming a run: compare its stored settings and data with those requested now."""

from collections.abc import Collection, Iterator
from typing import Any

from arche_mdlm.configuration.presets import preset_from_dict
from arche_mdlm.configuration.settings import Preset
from arche_mdlm.training.command_line import ListedError
from arche_mdlm.training.loop.optimizers import decay_start
from arche_mdlm.training.loop.provenance import portable

# What leaves the steps as they are: names, counts of logs and checkpoints, means to the same end. Everything else counts,
# so a new setting is compared until it is named here. The data's source is compared by its content.
FREE = frozenset(
    ["name", "description", "model.config.attn_implementation"]
    + [f"data.{name}" for name in ("source", "streaming", "num_workers", "description", "license", "language")]
    + [f"training.{name}" for name in ("accumulation", "compile", "compile_mode", "eval_every", "eval_train_rows",
                                       "save_every", "keep_checkpoints", "log_every", "branches")]
)  # fmt: skip
# What the checkpoint itself decides, so that nothing can change it.
_FIXED = ("model.", "data.tokenizer", "data.vocab_size", "training.optimizer", "init_from")


def setting_changes(stored: dict, preset: Preset, asked: dict[str, Any], branch: bool = False) -> dict[str, tuple]:
    """{setting: (stored, asked)} of the settings that would change the run.

    Args:
        stored: `trainer_state.json` of the checkpoint.
        asked: `init_from`, `validation_data` and `data` (names and hashes), as `train.py` records them.
        branch: the checkpoint is of a longer run, which this one leaves at its peak rate.
    """
    earlier = preset_from_dict(stored["preset"])  # with the defaults of settings that are newer than the checkpoint
    before, now = (dict(_flat(portable(values.to_dict()))) for values in (earlier, preset))
    free = set(FREE)
    if branch or _at_peak(stored, preset):
        free |= {"training.max_steps"} | ({"training.decay_share"} if not branch else set())
    if before.get("training.epochs") is not None and before["training.epochs"] == now.get("training.epochs"):
        free |= {"training.max_steps"}  # known when the data is; `data_changes` compares its rows
    changes = {key: (before.get(key), now.get(key)) for key in {**before, **now} if key not in free}
    record = stored.get("run", {})
    if record.get("init_from") and asked.get("init_from") is None:
        asked = asked | {"init_from": record["init_from"]}  # the weights are in the checkpoint
    for key in ("init_from", "validation_data"):
        if key in record:
            changes[key] = (portable(record[key]), portable(asked.get(key)))
    for split, own in record.get("sources", {}).items():
        changes[f"{split} data"] = (own, asked["sources"][split])
    return {key: pair for key, pair in changes.items() if _plain(pair[0]) != _plain(pair[1])}


def data_changes(stored: dict, data: dict[str, dict]) -> dict[str, tuple]:
    """{figure: (stored, asked)} of the prepared data, `data` being the summaries of both splits."""
    changes = {}
    for split, own in stored.get("run", {}).get("data", {}).items():
        for figure in ("sha256", "rows", "tokens"):
            pair = own[figure], data[split][figure]
            if pair[0] != pair[1]:
                changes[f"{split} data, {figure}"] = pair
    return changes


def refuse_changes(changes: dict[str, tuple], where: str, allowed: bool) -> str | None:
    """A note about allowed changes; None without changes.

    Raises:
        ListedError: a line for each change that is not allowed, or that no flag can allow.
    """
    fixed = {key: pair for key, pair in changes.items() if _is_fixed(key, pair)}
    refused = fixed if allowed else changes
    if not refused:
        return f"note: {where} goes on with other settings (stored -> asked)\n{_lines(changes)}" if changes else None
    why = "the checkpoint decides these" if allowed else "give the stored values, or --allow_changes"
    raise ListedError(f"{where} was made with other settings or data (stored -> asked): {why}\n{_lines(refused)}")


def _is_fixed(key: str, pair: tuple) -> bool:
    return key.startswith(_FIXED) or (key == "training.ema_decay" and None in pair)


def _at_peak(stored: dict, preset: Preset) -> bool:
    """Whether runs of all lengths are equal up to here: the learning rate has not begun to fall."""
    before, now = stored["preset"]["training"], preset.training
    if not before.get("schedule") == now.schedule == "warmup_stable_decay":
        return False
    starts = [decay_start(before["max_steps"], before["decay_share"]), decay_start(now.max_steps, now.decay_share)]
    return stored["step"] <= min(starts)


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and key in ("model", "data", "training", "config"):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plain(value: Any) -> Any:
    """Tuples are lists in JSON."""
    return (
        [_plain(inner) for inner in value]
        if isinstance(value, Collection) and not isinstance(value, (str, dict))
        else value
    )


def _lines(changes: dict[str, tuple]) -> str:
    return "\n".join(f"  {key}: {_short(before)} -> {_short(now)}" for key, (before, now) in changes.items())


def _short(value: Any) -> str:
    return "none" if value is None else str(value)
