"""The training loop: one optimiser step after another, logged, evaluated, checkpointed, and resumable at any of them."""

import json
import math
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arche_mdlm.compiling_mdlm import compile_layers
from arche_mdlm.configuration.settings import Preset
from arche_mdlm.training.batches.step_batches import StepBatches
from arche_mdlm.training.files.checkpointing import STATE_FILE, rotate, write_folder_atomically, write_json_atomically
from arche_mdlm.training.loop.distillation import Teacher
from arche_mdlm.training.loop.evaluation import Evaluator, in_words
from arche_mdlm.training.loop.optimizers import build_optimizers, decay_start, learning_rate
from arche_mdlm.training.loop.sharding import (
    full_optimizer_state,
    full_state,
    load_full_optimizer_state,
    load_full_state,
    reshard,
    shard,
    sharding_plugin,
    whole_norm,
)
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.flops import StepFlops, part_at_labels, peak_flops
from arche_mdlm.training.models.loading import save_arm


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


@dataclass
class RunState:
    """The state that a checkpoint needs besides weights and optimiser; all other randomness is a function of (seed, step)."""

    step: int = 0
    best_step: int | None = None
    best_nats: float = math.inf
    seconds: float = 0.0
    tokens: int = 0
    supervised: int = 0
    history: list[dict] = field(default_factory=list)
    window: dict = field(default_factory=dict)  # steps since the last log entry


class Trainer:
    """Trains one arm. `fit` returns whether the run is complete (False: stopped, and saved)."""

    def __init__(
        self,
        preset: Preset,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batches: StepBatches,
        evaluator: Evaluator,
        output_dir: Path,
        accelerator: Accelerator,
        resume_from: Path | None = None,
        record: dict[str, Any] | None = None,
        on_saved: Callable[[Path], None] | None = None,
        train_evaluator: Evaluator | None = None,
    ) -> None:
        self.preset, self.settings, self.tokenizer = preset, preset.training, tokenizer
        self.record = record or {}  # what else a run that goes on is compared with
        self.on_saved = on_saved  # of the main process, with the folder of each checkpoint
        self.output_dir, self.accelerator = Path(output_dir), accelerator
        self.batches, self.evaluator, self.train_evaluator = batches, evaluator, train_evaluator
        self.raw_model = model
        # Saved in its place: its class is still that of the checkpoint, which a sharded model's is not.
        self._blank = _without_weights(model)
        self.arm = arm_of(model)
        self.arm.prepare_for_training(model)
        self.ema = None
        if self.settings.ema_decay:
            self.ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(self.settings.ema_decay))
        self.teacher = None
        if self.settings.distillation_steps is not None:  # before layers are compiled, which are not to be copied
            self.teacher = Teacher(model, self.settings)
        self.model, self.optimizers = self._distribute(model)
        self.flops = StepFlops.of(model.config, part_at_labels(model, batches.index_labels))
        self.peak_flops = peak_flops(accelerator.device)
        self.state = RunState()
        self._branch_steps = {decay_start(steps, self.settings.decay_share) for steps in self.settings.branches}
        if resume_from is not None:
            self._restore(resume_from)
        self._stop = False

    def _distribute(self, model: Any) -> tuple[torch.nn.Module, list[torch.optim.Optimizer]]:
        """Model and optimisers on the device: whole, behind DDP, or sharded. The averages are placed as the model is."""
        plugin = sharding_plugin(self.accelerator, self.settings)
        self.sharded = plugin is not None
        if self.sharded:
            if self.teacher is not None:
                raise ValueError("training.distillation_steps is not supported with FSDP2: use DDP")
            if self.settings.optimizer == "muon":
                raise ValueError("training.optimizer='muon' is not supported with FSDP2: use DDP, or 'adamw'")
            shard(model, self.accelerator, plugin)
            if self.ema is not None:
                shard(cast(PreTrainedModel, self.ema.module), self.accelerator, plugin)
            return model, build_optimizers(model, self.settings)
        if self.settings.compile:
            for own in [model] + ([self.teacher.model] if self.teacher is not None else []):
                compile_layers(own, mode=self.settings.compile_mode)
        if self.ema is not None:
            self.ema.to(self.accelerator.device)
        if self.teacher is not None:
            self.teacher.model.to(self.accelerator.device)
        model, *optimizers = self.accelerator.prepare(
            model, *build_optimizers(model, self.settings, self.accelerator.device)
        )
        return model, optimizers

    # ------------------------------------------------------------------ the loop

    def fit(self, stop_after: int | None = None) -> bool:
        last = self.settings.max_steps
        end = last if stop_after is None else min(last, self.state.step + stop_after)
        if self._reached():  # a finished run that is asked to go on
            end = self.state.step
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.state.step, end),
            num_workers=self.preset.data.num_workers if self.accelerator.device.type == "cuda" else 0,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        previous = self._catch_signals()
        show = self.accelerator.is_main_process
        bar = tqdm(total=last, initial=self.state.step, desc=self.preset.name, unit="step", disable=not show)
        self.window = _Window(self.accelerator, self.state.window)
        try:
            for batch in loader:
                self.window.add(batch, self._step(batch), self._count_flops(batch))
                self._after_step(bar)
                if self._reached() or self._agreed_to_stop():
                    break
        finally:
            bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self.state.step > 0 and not (self.output_dir / self._folder_name() / STATE_FILE).exists():
            self.save()
        return self.state.step >= last or self._reached()

    def _reached(self) -> bool:
        """Whether an evaluation was at or below the likelihood that ends the run, or the last one is far enough past the best one."""
        goal, factor, state = self.settings.stop_at_nats, self.settings.stop_past_best, self.state
        if goal is not None and state.best_nats <= goal:
            return True
        if factor is None or state.best_step is None:
            return False
        evaluated = next(entry["step"] for entry in reversed(state.history) if "validation_nats" in entry)
        return evaluated >= factor * state.best_step

    def _step(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step; (loss, gradient norm), not yet read back to the host."""
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(self.state.step, self.settings, group["peak"])
        # Dropout and anything else random: a function of (seed, step, rank), so that a resumed run draws the same.
        torch.manual_seed(hash((self.settings.seed, self.state.step, self.accelerator.process_index)) & 0x7FFFFFFF)
        self.model.train()
        total = torch.zeros((), device=self.accelerator.device)
        for index, inputs in enumerate(batch["inputs"]):
            inputs = send_to_device(inputs, self.accelerator.device, non_blocking=True)
            final = index == len(batch["inputs"]) - 1
            with self.accelerator.autocast():
                # Gradients are averaged over the processes; the sum over the global batch is wanted.
                scale = self.accelerator.num_processes / batch["denominator"]
                # A sharded run sums its parts after every micro-batch, as memory does not suffice for whole gradients.
                with nullcontext() if final or self.sharded else self.accelerator.no_sync(self.model):
                    loss = self._loss(inputs) * scale
                    self.accelerator.backward(loss)
            total += loss.detach()
        norm = whole_norm(self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.raw_model)
        return total, norm

    def _count_flops(self, batch: dict) -> int:
        """Of this process's share of the step."""
        total, share = 0, batch["num_supervised"] / self.accelerator.num_processes
        for inputs in batch["inputs"]:
            rows, length = inputs["input_ids"].shape
            total += self.flops.count(rows, length, round(share / len(batch["inputs"])))
        return total

    def _loss(self, inputs: dict) -> torch.Tensor:
        """Sum over the micro-batch; `num_items_in_batch=1` leaves the division to the caller."""
        # A tensor on the right device: transformers' losses want one.
        one = torch.ones((), device=self.accelerator.device)
        if self.teacher is not None:
            inputs = self.teacher.guide(inputs)
        return self.model(**inputs, **self.arm.loss_arguments, num_items_in_batch=one).loss

    def _after_step(self, bar: Any) -> None:
        self.state.step += 1
        step, settings = self.state.step, self.settings
        if self.teacher is not None:
            self.teacher.after_step(step, self.raw_model)
        bar.update()
        if step % settings.log_every == 0 or step == settings.max_steps:
            self._log(bar)
        improved = False
        if step % settings.eval_every == 0 or step == settings.max_steps:
            self.window.stop_clock()
            self.evaluate()
            improved = self.state.best_step == step
            if self._reached() and self.window.losses:
                self._log(bar)  # the run ends here
            self.window.restart_clock()
        if improved or step in self._branch_steps or step % settings.save_every == 0 or step == settings.max_steps:
            self.save()
            self.window.restart_clock()

    def _log(self, bar: Any) -> None:
        entry = self.window.entry()
        self.window = _Window(self.accelerator)
        if not math.isfinite(entry["loss"]):
            raise TrainingDiverged(
                f"loss is {entry['loss']} at step {self.state.step}; lower training.learning_rate "
                f"({self.settings.learning_rate}) or resume from an earlier checkpoint in {self.output_dir}"
            )
        state = self.state
        state.seconds += entry["seconds"]
        state.tokens += entry["tokens"]
        state.supervised += entry["supervised"]
        flops = entry.pop("flops") / max(entry["seconds"], 1e-9)
        entry["tflop_per_second"] = flops / 1e12  # of one process, matrix products only
        if self.peak_flops:
            entry["mfu"] = flops / self.peak_flops
        if self.accelerator.device.type == "cuda":
            entry["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        entry |= {"step": state.step, "learning_rate": learning_rate(state.step - 1, self.settings)}
        self._record(entry)
        utilised = f", MFU {entry['mfu']:.0%}" if "mfu" in entry else ""
        bar.set_postfix_str(f"loss {entry['loss']:.3f}, {entry['tokens_per_second']:,.0f} tok/s{utilised}")

    def evaluate(self) -> dict:
        """Likelihood of the validation split, with averaged weights if the run has them; the best step is kept, of a distillation,
        which is to shorten sampling, the last one."""
        result = self._score()
        if self.teacher is not None or result["validation_nats"] < self.state.best_nats:
            self.state.best_nats, self.state.best_step = result["validation_nats"], self.state.step
        return result

    def evaluate_start(self) -> None:
        """Likelihood of the weights that a fine-tuning starts from, for the log; they are not a result of the run."""
        self._score()

    def _score(self) -> dict:
        model = cast(PreTrainedModel, self.ema.module) if self.ema is not None else self.raw_model
        with self.accelerator.autocast():  # sharded layers come in its type, averages are not wrapped in it
            result = self.evaluator(model, self.accelerator)
            if self.train_evaluator is not None:
                result |= self.train_evaluator.on_training_rows(model, self.accelerator)
        reshard(model)
        self._record({"step": self.state.step, **result})
        if self.accelerator.is_main_process:
            tqdm.write(f"step {self.state.step}: {in_words(result)}")
        return result

    def _record(self, entry: dict) -> None:
        self.state.history.append(entry)
        numbers = {key: value for key, value in entry.items() if isinstance(value, (int, float)) and key != "step"}
        self.accelerator.log(numbers, step=entry["step"])

    # ------------------------------------------------------------------ stopping, saving, resuming

    def _catch_signals(self) -> dict:
        def handler(number: int, frame: Any) -> None:
            if self._stop:  # the second Ctrl-C means it
                raise KeyboardInterrupt
            self._stop = True
            if self.accelerator.is_main_process:
                tqdm.write("stopping after this step; the run will be saved (Ctrl-C again to stop at once)")

        return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}

    def _agreed_to_stop(self) -> bool:
        if self.accelerator.num_processes == 1:
            return self._stop
        if self.state.step % self.settings.log_every:  # agreeing costs a synchronisation: not at every step
            return False
        flag = torch.tensor(float(self._stop), device=self.accelerator.device)
        return self.accelerator.reduce(flag, reduction="sum").item() > 0

    def save(self) -> Path:
        """Write checkpoint-NNNNNN atomically, rotate, and rewrite the log."""
        folder = self.output_dir / self._folder_name()
        self.state.window = self.window.to_dict()
        tensors = self._gather()
        if self.accelerator.is_main_process:
            write_folder_atomically(folder, lambda aside: self._write(aside, tensors))
            rotate(self.output_dir, self.settings.keep_checkpoints, {self.state.best_step, *self._branch_steps})
            write_json_atomically(self.output_dir / "training_log.json", self.state.history)
            if self.on_saved is not None:
                self.on_saved(folder)
        self.accelerator.wait_for_everyone()
        return folder

    def _folder_name(self) -> str:
        return f"checkpoint-{self.state.step:06d}"

    def _gather(self) -> tuple[dict, dict]:
        """The weights that people load, and all else; sharded, every process takes part and the main one gets them."""
        weights = full_state(self.raw_model)
        optimizers = [full_optimizer_state(self.raw_model, optimizer) for optimizer in self.optimizers]
        state: dict[str, Any] = {"optimizers": optimizers}
        if self.teacher is not None:
            state["teacher"] = self.teacher.state()
        if self.ema is not None:  # people load the averaged weights; training goes on from the others
            averages = full_state(self.ema)
            state |= {"ema": averages, "model": weights}
            weights = {name.removeprefix("module."): v for name, v in averages.items() if name != "n_averaged"}
        return weights, state

    def _write(self, aside: Path, tensors: tuple[dict, dict]) -> None:
        weights, state = tensors
        save_arm(self._blank, self.tokenizer, aside, state=weights)
        torch.save(state, aside / "optimizer.pt")
        run = {**vars(self.state), "preset": self.preset.to_dict(), "best_nats": _finite(self.state.best_nats)}
        run |= {"run": self.record}
        (aside / STATE_FILE).write_text(json.dumps(run, indent=1), encoding="utf-8")

    def _restore(self, checkpoint: Path) -> None:
        """Optimiser, averages and counters; the weights were loaded with the model."""
        saved = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            load_full_optimizer_state(self.raw_model, optimizer, state)
        if self.ema is not None:
            load_full_state(self.ema, saved["ema"])
            load_full_state(self.raw_model, saved["model"])
        if self.teacher is not None:
            self.teacher.load(saved["teacher"])
        run = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        names = set(vars(self.state))
        self.state = RunState(**{key: value for key, value in run.items() if key in names})
        if self.state.best_nats is None:
            self.state.best_nats = math.inf


def _without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class and configurations, without memory for weights."""
    with torch.device("meta"):
        blank = type(model)(model.config)
    blank.generation_config = model.generation_config
    return blank


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class _Window:
    """Sums since the last log entry; losses stay on the device until they are read.

    `saved` is what `to_dict` gave of a run that stopped between two entries.
    """

    def __init__(self, accelerator: Accelerator, saved: dict | None = None):
        saved = saved or {"losses": [], "norms": [], "tokens": 0, "supervised": 0, "flops": 0, "seconds": 0.0}
        self.accelerator = accelerator
        self.losses, self.norms = ([torch.tensor(v) for v in saved[key]] for key in ("losses", "norms"))
        self.tokens, self.supervised, self.flops = saved["tokens"], saved["supervised"], saved["flops"]
        self.seconds, self.start = saved["seconds"], time.perf_counter()

    def add(self, batch: dict, step: tuple[torch.Tensor, torch.Tensor], flops: int) -> None:
        self.losses.append(step[0])
        self.norms.append(torch.as_tensor(step[1]))
        self.tokens += batch["num_tokens"]
        self.supervised += batch["num_supervised"]
        self.flops += flops

    def stop_clock(self) -> None:
        """Time for an evaluation or a checkpoint does not count until `restart_clock`."""
        self.seconds += time.perf_counter() - self.start
        self.restart_clock()

    def restart_clock(self) -> None:
        self.start = time.perf_counter()

    def to_dict(self) -> dict:
        """State for a checkpoint; the clock continues from here."""
        device = self.accelerator.device
        losses = [loss.to(device) for loss in self.losses]
        if losses:  # of all processes, so that any one of them can go on from it
            losses = self.accelerator.reduce(torch.stack(losses), reduction="mean")
        self.losses = list(losses)
        self.stop_clock()
        return {"losses": [float(loss) for loss in losses], "norms": [float(norm) for norm in self.norms],
                "tokens": self.tokens, "supervised": self.supervised, "flops": self.flops,
                "seconds": self.seconds}  # fmt: skip

    def entry(self) -> dict:
        sums = self.to_dict()
        losses, norms = sums.pop("losses"), sums.pop("norms")
        return sums | {
            "loss": sum(losses) / len(losses),
            "grad_norm": sum(norms) / len(norms),
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
        }
