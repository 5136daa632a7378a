"""What `python -m benchmarks` measures: ours and a reference side by side, round after round."""

import argparse
import copy
from dataclasses import dataclass, replace
from statistics import median

import torch

from benchmarks import data, likelihood, loading, memory, metrics, sampling, train_step
from benchmarks.report import Report, note
from benchmarks.timing import side_by_side


@dataclass(frozen=True)
class Run:
    args: argparse.Namespace
    report: Report
    shape: train_step.Shape
    dtype: str  # of our training steps
    device: torch.device
    compiles: bool  # whether our compiled layers are measured too

    @property
    def process_rounds(self) -> int:
        """Of contestants that need a process each time."""
        return 1 if self.args.quick else self.args.rounds


def timed(run: Run, contestants: dict, warm_up: bool = True, rounds: int | None = None) -> dict[str, list[float]]:
    """`side_by_side` with the run's rounds and device."""
    return side_by_side(contestants, rounds or run.args.rounds, run.device, warm_up)


def measure_training(run: Run) -> None:
    note("training steps of both arms: ours, compiled or not, the paper's, and AR as transformers' Trainer has it")
    shape, device, ways = run.shape, run.device, [False, True] if run.compiles else [False]
    stories = replace(shape, layout="stories")
    contestants = {
        "mdlm_paper": train_step.paper_step(shape, "mdlm", device),
        "ar_paper": train_step.paper_step(shape, "ar", device),
        "ar_transformers": train_step.transformers_step(shape, run.dtype, device),
    }
    for arm in ("mdlm", "ar"):
        for compiled in ways:
            made = train_step.our_step(shape, arm, run.dtype, device, compiled)
            contestants[arm + "_compiled" * compiled] = made
        contestants[arm + "_stories"] = train_step.our_step(stories, arm, run.dtype, device, run.compiles)
    speed = timed(run, contestants)
    for name, per_second in speed.items():
        run.report.record(name, per_second)
    mdlm, ar = (max((speed[arm + "_compiled" * c] for c in ways), key=median) for arm in ("mdlm", "ar"))
    unit, paper = "tokens/s", "full logits, float32, plain AdamW"
    add = run.report.add
    add("train_step_vs_naive", mdlm, speed["mdlm_paper"], unit, f"MDLM step, ours over the paper's ({paper})")
    if run.compiles:
        add(
            "train_step_uncompiled_vs_naive", speed["mdlm"], speed["mdlm_paper"], unit, "the same without torch.compile"
        )
    add("ar_train_step_vs_naive", ar, speed["ar_paper"], unit, f"AR step, ours over the paper's ({paper})")
    add("ar_train_step_vs_transformers", ar, speed["ar_transformers"], unit,
        "AR step, ours over LlamaForCausalLM with its own loss and fused AdamW, same type")  # fmt: skip
    add("mdlm_vs_ar_tokens_per_s", mdlm, ar, unit, "our MDLM step over our AR step, same full rows, each compiled or not, "
        "whichever is faster")  # fmt: skip
    add("mdlm_vs_ar_tokens_per_s_stories", speed["mdlm_stories"], speed["ar_stories"], unit,
        "the same for rows of unlike lengths, whose tail of pads MDLM learns and AR is spared")  # fmt: skip


def measure_memory(run: Run) -> None:
    note("peak memory of MDLM's training steps, each in a process of its own")
    found: dict[str, list[float]] = {"ours": [], "paper": []}
    for _ in range(run.process_rounds):
        for way, peaks in found.items():
            peaks.append(memory.measure(run.shape, "mdlm", way, run.dtype, run.device)["peak_bytes"])
    run.report.add("train_memory_vs_naive", found["ours"], found["paper"], "bytes",
                   "MDLM, peak bytes of two steps, weights, gradients and optimiser included, imports not; less is better")  # fmt: skip


def measure_sampling(run: Run) -> None:
    note("sampling: ours and the paper's loop, AR with its KV cache")
    args = run.args
    mdlm, ar = (sampling.random_model(run.shape.settings(arm), run.device) for arm in ("mdlm", "ar"))
    size = f"{args.sample_batch_size} texts of {args.sample_length} tokens"
    cached = sampling.autoregressive(ar, args.sample_length, args.sample_batch_size)
    paper = sampling.paper(mdlm, args.sample_length, args.sample_steps)
    models = {"": mdlm} | ({"_compiled": copy.deepcopy(mdlm)} if run.compiles else {})

    def ours(steps: int) -> dict:
        made = {}
        for name, model in models.items():
            made["ours" + name] = sampling.ours(
                model, "ancestral", args.sample_length, steps, args.sample_batch_size, compiled=bool(name)
            )
        return made

    for steps, reference, name, over in (
        (args.few_steps, cached, f"sampling_{args.few_steps}_steps_vs_ar_cached", "AR of equal size with its KV cache"),
        (args.sample_steps, paper, "ancestral_vs_naive", "the paper's loop, one text at a time"),
    ):
        speed = timed(run, {**ours(steps), "reference": reference}, warm_up=run.compiles)
        what = f"{size}, float32, ancestral in {steps} steps over {over}"
        fastest = max((key for key in speed if key != "reference"), key=lambda key: median(speed[key]))
        run.report.add(name, speed[fastest], speed["reference"], "stories/s", what)
        if run.compiles:
            run.report.add(
                f"{name}_uncompiled", speed["ours"], speed["reference"], "stories/s", "the same without torch.compile"
            )


def measure_likelihood(run: Run) -> None:
    note("likelihood: NELBO in batches, and one canvas at a time with full logits")
    speed = timed(run, likelihood.contestants(run.shape, run.device))
    run.report.add("nelbo_vs_naive", speed["ours"], speed["naive"], "canvases/s",
                   "NELBO, float32: head at the masked positions of a batch over full logits, one canvas at a time")  # fmt: skip


def measure_metrics(run: Run) -> None:
    note("metrics: exact Self-BLEU, and NLTK's text by text")
    speed = timed(run, metrics.contestants(run.args.texts))
    run.report.add("self_bleu_vs_pairwise", speed["ours"], speed["pairwise"], "texts/s",
                   f"exact Self-BLEU of {run.args.texts} texts over NLTK's sentence_bleu against all others (of two of the "
                   "texts a round)")  # fmt: skip


def measure_data(run: Run) -> None:
    note("data: text to rows on the disk, and the bare tokenizer")
    with data.workplace(1 if run.args.quick else data.REPEATS) as contestants:
        speed = timed(run, contestants)
    run.report.add("tokenise_vs_tokenizers", speed["ours"], speed["tokenizers"], "bytes/s",
                   "reading, hashing, tokenising and writing rows over `encode_batch_fast` of texts in memory, one thread "
                   "each")  # fmt: skip


def measure_loading(run: Run) -> None:
    note("import and load, each in a process of its own")
    speed = timed(run, loading.contestants(), not run.args.quick, run.process_rounds)
    run.report.add("import_vs_torch_transformers", speed["ours"], speed["alone"], "imports/s",
                   "import of torch, transformers and arche_mdlm over torch and transformers alone")  # fmt: skip
    run.report.add("load_vs_ar", speed["load_mdlm"], speed["load_ar"], "loads/s",
                   "from_pretrained of the shipped MDLM over that of its AR twin, imports included")  # fmt: skip


ALL = {
    "training": measure_training,
    "memory": measure_memory,
    "sampling": measure_sampling,
    "likelihood": measure_likelihood,
    "metrics": measure_metrics,
    "data": measure_data,
    "loading": measure_loading,
}
