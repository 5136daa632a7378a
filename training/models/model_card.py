"""The model card of a run, built only from the run's records: what it is, what it was trained on, and what was measured."""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from arche_mdlm.configuration.settings import DataSettings, Preset
from arche_mdlm.training.data.sources import DEFAULT_SOURCE
from arche_mdlm.training.models.arms import arm_of_architecture

_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER_OR_REPO"{trust})
tokenizer = AutoTokenizer.from_pretrained("FOLDER_OR_REPO"{trust})
out = model.generate(**tokenizer("The", return_tensors="pt"))
print(tokenizer.decode(out[0], skip_special_tokens=True))
```"""


# What a family is in a sentence, with its article, and its tag on the Hub, by `model.config.diffusion`.
FAMILY_WORDS = {
    "masked": ("a masked diffusion", "masked-diffusion"),
    "uniform": ("a uniform-noise diffusion", "uniform-state-diffusion"),
    "block": ("a block diffusion", "block-diffusion"),
    "uniform_block": ("a uniform-noise block diffusion", "block-diffusion"),
    "eso": ("an Eso-LM diffusion", "eso-lm"),
}


class DataFacts(NamedTuple):
    """Facts about a corpus besides its hash; None: unknown."""

    description: str | None = None
    license: str | None = None
    language: str | None = None


_KNOWN = {
    DEFAULT_SOURCE: DataFacts("short synthetic children's stories (Eldan and Li 2023)", "cdla-sharing-1.0", "en"),
    "sample": DataFacts("children's stories written by the AR model that ships with arche-mdlm", "apache-2.0", "en"),
}


def usage(remote_code: bool) -> str:
    """How a folder is loaded, as Markdown."""
    return _USE.format(trust=", trust_remote_code=True" if remote_code else "")


def facts_of(data: DataSettings) -> DataFacts:
    """Facts from the settings (`data.description`, `data.license`, `data.language`), else those known for the source."""
    known = _KNOWN.get(data.source, DataFacts())
    return DataFacts(*(getattr(data, name) or value for name, value in known._asdict().items()))


def write_model_card(
    folder: Path,
    preset: Preset,
    run: dict,
    history: list[dict],
    step: int,
    name: str,
    exported: dict | None = None,
    license: str | None = None,
) -> None:
    """Write `README.md` into `folder` from the run's own records: only what is known, also in its metadata for the Hub.

    `exported`: figures of the rounded weights that are in the folder, measured with more draws than during training.
    `license`: of the model; none is claimed by default.
    """
    scores = [entry for entry in history if "validation_nats" in entry]
    best = exported or next(entry for entry in scores if entry["step"] == step)
    arm = arm_of_architecture(preset.model.architecture)
    facts, base = facts_of(preset.data), run.get("init_from")
    kind, tags = arm.kind, list(arm.tags)
    if arm.denoises:
        kind, *tags = FAMILY_WORDS[preset.model.config.get("diffusion") or "masked"]
    validation = run["data"]["validation"]
    note = f", of the saved weights, {exported['num_samples']} draws a text" if exported and arm.is_bound else ""
    error = f" (standard error {best['validation_standard_error']:.4f})" if arm.is_bound else ""
    fine_tuned = f"Fine-tuned from `{base}`. " if base else ""
    rows = preset.training.eval_rows
    part = f"the first {rows:,} of " if rows and rows < validation["stories"] and not exported else ""
    text = f"""# {name}: {kind} language model

{fine_tuned}Trained with arche-mdlm, settings of the preset `{preset.name}`.

{run["parameters"]:,} parameters. Architecture `{preset.model.architecture}`, objective `{preset.training.objective}`.

{usage(arm.remote_code)}

## Figures

Validation split ({part}{validation["stories"]:,} texts, sha256 `{validation["sha256"][:16]}`), {arm.likelihood}, at step {step:,}{note}:
**{best["validation_nats"]:.4f} nats a token**{error},
{best["validation_nats_per_story"]:.1f} nats a text, **{_number(best["validation_bits_per_byte"])} bits a byte**.

During training, on {f"the first {rows:,} of these texts" if rows and rows < validation["stories"] else "all of them"}:

{_table(scores, arm.is_bound)}

## Training

{_training(preset, run, history, facts)}

The whole log is in `training_log.json`.

## Limits

{_limits(preset, run, history, facts, base)}
"""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=license,
        language=facts.language,
        base_model=base,
        datasets=_hub_datasets(preset, run),
        tags=[*tags, "arche-mdlm"],
        model_name=name,
        eval_results=_measured(best, validation, facts, arm.likelihood),
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(folder / "README.md")


def _hub_datasets(preset: Preset, run: dict) -> list[str] | None:
    """The dataset of the Hub that the run read, whose summary has a revision; None for files."""
    on_the_hub = preset.data.source == DEFAULT_SOURCE or run["data"]["train"].get("revision")
    return [preset.data.source] if on_the_hub else None


def _measured(best: dict, validation: dict, facts: DataFacts, kind: str) -> list[EvalResult]:
    """The likelihood of the validation split by the name of its `kind`."""
    figures = {
        "nats_per_token": (f"nats a token, {kind}", best["validation_nats"]),
        "bits_per_byte": (f"bits a byte, {kind}", best["validation_bits_per_byte"]),
    }
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=validation["source"],
            dataset_name=facts.description or validation["source"],
            dataset_split="validation",
            dataset_revision=validation.get("revision"),
            metric_type=name,
            metric_name=label,
            metric_value=round(value, 4),
        )
        for name, (label, value) in figures.items()
        if value is not None  # windows do not know their bytes
    ]


def _table(scores: list[dict], bound: bool) -> str:
    """The validation figures of the run, and those of its training rows if it has some; exact likelihoods come without a standard error."""
    trained = any("train_nats" in e for e in scores)
    header = ["step", "nats a token", *["standard error"] * bound, "bits a byte"]
    header += ["training rows, nats a token", *["standard error"] * bound] if trained else []
    rows = [header, ["---:"] * len(header)]
    for e in scores:
        row = [f"{e['step']:,}", *_with_error(e, "validation", bound), _number(e["validation_bits_per_byte"])]
        rows.append(row + (_with_error(e, "train", bound) if trained else []))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], lines[1].replace(" ", ""), *lines[2:]])


def _with_error(entry: dict, split: str, bound: bool) -> list[str]:
    """Nats a token of a split, and their standard error where they are a bound's."""
    return [_number(entry.get(f"{split}_{name}")) for name in ("nats", *["standard_error"] * bound)]


def _training(preset: Preset, run: dict, history: list[dict], facts: DataFacts) -> str:
    train, context = run["data"]["train"], preset.data.context_length
    logs = [entry for entry in history if "tokens_per_second" in entry]
    seconds = sum(entry["seconds"] for entry in logs)
    tokens, supervised = (sum(entry[key] for entry in logs) for key in ("tokens", "supervised"))
    about = f" ({facts.description})" if facts.description else ""
    lines = [
        f"data: `{train['source']}`{about}, licence {facts.license or 'unknown'}: {train['stories']:,} texts, "
        f"{train['tokens']:,} tokens, sha256 `{train['sha256'][:16]}`",
        f"layout `{preset.data.layout}`, context {context} tokens",
    ]
    if train["left_out"]:
        lines.append(f"{train['left_out']:,} texts longer than the context were left out")
    if train.get("chunked"):
        lines.append(f"{train['chunked']:,} texts longer than the context were cut into several rows")
    lines += [
        f"{_steps(preset, history):,} steps of {preset.training.batch_size} rows: {tokens:,} tokens seen, {supervised:,} supervised",
        f"{seconds / 60:.0f} minutes, {tokens / max(seconds, 1e-9):,.0f} tokens/s on {run['device']}",
        f"seed {preset.training.seed}; torch {run['versions']['torch']}, transformers {run['versions']['transformers']}",
    ]
    if run["command"]:
        lines.append(f"command: `{run['command']}`")
    return "\n".join(f"- {line}" for line in lines)


def _steps(preset: Preset, history: list[dict]) -> int:
    """How many the run had: `max_steps`, or fewer where its evaluations ended it."""
    training = preset.training
    ends_early = training.stop_at_nats is not None or training.stop_past_best is not None
    return history[-1]["step"] if ends_early else training.max_steps


def _limits(preset: Preset, run: dict, history: list[dict], facts: DataFacts, base: str | None) -> str:
    train = run["data"]["train"]
    tokens = sum(entry["tokens"] for entry in history if "tokens_per_second" in entry)
    about = facts.description or f"the texts of `{train['source']}`"
    before = f", after whatever `{base}` was trained on" if base else ""
    return (
        f"Trained on {about}{before}: {tokens / max(train['tokens'], 1):.1f} passes over {train['tokens']:,} tokens. It has not been "
        f"tested on other kinds of text or beyond {preset.data.context_length} tokens. Nothing but the likelihood above was "
        "measured in training; what it writes can be wrong or odd, and nothing filters it."
    )


def _number(value: float | None) -> str:
    """Windows do not know their bytes."""
    return "–" if value is None else f"{value:.4f}"
