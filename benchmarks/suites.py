"""What `python -m benchmarks` measures: ours and a reference side by side, round after round."""

import argparse
from dataclasses import dataclass

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

    @property
    def process_rounds(self) -> int:
        """Of contestants that need a process each time."""
        return 1 if self.args.quick else self.args.rounds


def timed(run: Run, contestants: dict, warm_up: bool = True, rounds: int | None = None) -> dict[str, list[float]]:
    """`side_by_side` with the run's rounds and device."""
    return side_by_side(contestants, rounds or run.args.rounds, run.device, warm_up)


def measure_training(run: Run) -> None:
    note("training steps of both arms: ours, the paper's, and AR as transformers' Trainer has it")
    shape, device = run.shape, run.device
    speed = timed(
        run,
        {
            "mdlm": train_step.our_step(shape, "mdlm", run.dtype, device),
            "mdlm_paper": train_step.paper_step(shape, "mdlm", device),
            "ar": train_step.our_step(shape, "ar", run.dtype, device),
            "ar_paper": train_step.paper_step(shape, "ar", device),
            "ar_transformers": train_step.transformers_step(shape, run.dtype, device),
        },
    )
    for name, per_second in speed.items():
        run.report.record(name, per_second)
    unit, paper = "tokens/s", "full logits, float32, plain AdamW"
    add = run.report.add
    add("train_step_vs_naive", speed["mdlm"], speed["mdlm_paper"], unit, f"MDLM step, ours over the paper's ({paper})")
    add("ar_train_step_vs_naive", speed["ar"], speed["ar_paper"], unit, f"AR step, ours over the paper's ({paper})")
    add("ar_train_step_vs_transformers", speed["ar"], speed["ar_transformers"], unit,
        "AR step, ours over LlamaForCausalLM with its own loss and fused AdamW, same type")  # fmt: skip
    add("mdlm_vs_ar_tokens_per_s", speed["mdlm"], speed["ar"], unit, "our MDLM step over our AR step, same rows")


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
    few = sampling.ours(mdlm, "ancestral", args.sample_length, args.few_steps, args.sample_batch_size)
    cached = sampling.autoregressive(ar, args.sample_length, args.sample_batch_size)
    speed = timed(run, {"ours": few, "ar": cached}, warm_up=False)
    run.report.add(f"sampling_{args.few_steps}_steps_vs_ar_cached", speed["ours"], speed["ar"], "stories/s",
                   f"{size}, ancestral in {args.few_steps} steps over AR of equal size with its KV cache")  # fmt: skip
    many = sampling.ours(mdlm, "ancestral", args.sample_length, args.sample_steps, args.sample_batch_size)
    paper = sampling.paper(mdlm, args.sample_length, args.sample_steps)
    speed = timed(run, {"ours": many, "paper": paper}, warm_up=False)
    run.report.add("ancestral_vs_naive", speed["ours"], speed["paper"], "stories/s",
                   f"{size} in {args.sample_steps} steps, float32, over the paper's loop, one text at a time")  # fmt: skip


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
