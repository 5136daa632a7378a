"""A checkpoint of either arm as a model of lm-evaluation-harness; importing this module registers it as `arche_mdlm`.

Source of the protocol: EleutherAI, lm-evaluation-harness, `lm_eval/api/model.py`.
"""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm.auto import tqdm

from arche_mdlm.evaluation.pair_likelihood import LIKELIHOODS, Pair, PairLikelihoods, pair_likelihoods, seed_of
from arche_mdlm.evaluation.requests import Encoder, Writing, check_options
from arche_mdlm.metrics.batch_sizes import AUTO, BatchSize
from arche_mdlm.order_mdlm import ANTITHETIC
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import load_arm, load_config
from arche_mdlm.training.processes import Processes

logger = logging.getLogger(__name__)

NAME = "arche_mdlm"
DTYPES = ("float32", "bfloat16", "float16", "auto")
GREEDY = ("auto", "always", "never")
KNOWN = ("pretrained", "likelihood", "num_samples", "antithetic", "seed", "greedy", "dtype", "device", "batch_size", "max_batch_size",
         "max_length", "max_gen_toks", "window_context", "trust_remote_code")  # fmt: skip


@register_model(NAME)
class ArcheMDLM(LM):
    """A diffusion model of any family, or a causal language model, with its tokenizer.

    Args (lm-eval's `--model_args`):
        pretrained: folder or repository.
        likelihood (defaults to `"nelbo"`): of a diffusion model, a bound from `num_samples` draws; or a policy of
            `metrics.policy_likelihood` (`left_to_right`, `confidence`, `margin`, `entropy`): exact, a forward a token.
        num_samples, antithetic: as in `metrics.likelihood.nelbo`.
        seed (defaults to 0): of draws and of sampled texts; each request has a stream of its own, by its tokens.
        greedy (defaults to `"auto"`): for which continuations it is found out whether greedy decoding writes them
            (`evaluation.greedy.writes_greedily`); `"auto"`: those that are alone in their document, since tasks of multiple choice do not
            ask. `"never"`: the flag is False. An AR model has it at no cost.
        dtype (defaults to `"float32"`), device: of the weights; the CPU where torch sees no GPU.
        batch_size: canvases a forward, texts written together; `"auto"`: as the memory allows.
        max_length: most tokens of context and continuation; default: the model's context.
        max_gen_toks (defaults to 256): most tokens written, where a task does not say.
        window_context (defaults to 1): least tokens of context of the windows of a long text.
        max_batch_size, trust_remote_code: taken, since lm-eval gives them, and without effect.
        **options: of generation by a diffusion model: `sampler`, `num_diffusion_steps`, `block_length`, ...
            (`MDLMGenerationConfig`).

    Raises:
        ValueError: for an argument that does not exist or is out of its range, or a checkpoint that cannot be loaded.
    """

    def __init__(
        self,
        pretrained: str = "",
        likelihood: str = "nelbo",
        num_samples: int = 16,
        antithetic: str = "counts",
        seed: int = 0,
        greedy: str = "auto",
        dtype: str = "float32",
        device: str | None = None,
        batch_size: int | str = AUTO,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        window_context: int = 1,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        _check_choices(likelihood=likelihood, antithetic=antithetic, dtype=dtype, greedy=greedy)
        _check_numbers(num_samples=(num_samples, 2), max_gen_toks=(max_gen_toks, 1), window_context=(window_context, 1))
        if not pretrained:
            raise ValueError("model_args needs pretrained=FOLDER, a checkpoint folder or repository")
        self.batch_size = _batch_size(batch_size)
        config = load_config(pretrained)
        self.arm = arm_of(config)
        check_options(options, KNOWN, self.arm.denoises)
        if likelihood != "nelbo" and not self.arm.denoises:
            raise ValueError(
                f"model_args likelihood={likelihood!r} is for diffusion models; for an AR model the NLL is exact"
            )
        context = config.max_position_embeddings
        if max_length is not None and not 2 <= max_length <= context:
            raise ValueError(f"model_args max_length={max_length} must be from 2 to {context}, the model's context")
        self.max_length = max_length or context
        if window_context >= self.max_length:
            raise ValueError(f"model_args window_context={window_context} must be below max_length={self.max_length}")
        self.likelihood, self.num_samples, self.antithetic = likelihood, num_samples, antithetic
        self.seed, self.greedy, self.max_gen_toks, self.options = seed, greedy, max_gen_toks, options
        self.standard_errors: dict[str, list[float]] = defaultdict(
            list
        )  # by task, of the requests of this process, in nats
        self._load(pretrained, dtype, device, window_context)

    def _load(self, pretrained: str, dtype: str, device: str | None, window_context: int) -> None:
        self.processes = Processes(cpu=device == "cpu")
        self._rank, self._world_size = self.processes.index, self.processes.count
        self._device = self._device_of(device)
        self.model, self.tokenizer = load_arm(pretrained, dtype if dtype == "auto" else getattr(torch, dtype))
        self.model.to(self._device).eval()
        self.encoder = Encoder(self.tokenizer, self.max_length, window_context)

    def _device_of(self, asked: str | None) -> torch.device:
        """lm-eval asks for cuda:0 where nobody has asked for anything, in each of several processes and on machines without a GPU."""
        if asked is None or (asked.startswith("cuda") and (self.processes.count > 1 or not torch.cuda.is_available())):
            return torch.device(self.processes.default_device())
        return torch.device(asked)

    # --- likelihoods --------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation given its context in nats (a lower bound, for the NELBO), and whether greedy decoding
        writes it."""
        pairs = [self.encoder.pair(*request.args) for request in requests]
        self._warn_of_cuts()
        found = self._score(pairs, self._asks_for_greedy(requests), disable_tqdm)
        self._note_errors(requests, found.standard_error)
        results = [(-nats, flag) for nats, flag in zip(found.nats.tolist(), found.greedy.tolist(), strict=True)]
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each text in nats, of windows that score each token once; 0 for an empty text."""
        windows = [self.encoder.windows(text) for (text,) in (request.args for request in requests)]
        pairs = [pair for own in windows for pair in own]
        nats = errors = torch.zeros(0, dtype=torch.float64)
        if pairs:
            nats, errors, _ = self._score(pairs, None, disable_tqdm)
        counts = [len(own) for own in windows]
        sums = [float(-part.sum()) for part in nats.split(counts)]
        self._note_errors(requests, torch.stack([part.square().sum().sqrt() for part in errors.split(counts)]))
        for request, result in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
        return sums

    def _score(self, pairs: Sequence[Pair], greedy: Sequence[bool] | None, quiet: bool) -> PairLikelihoods:
        return pair_likelihoods(
            self.model, pairs, likelihood=self.likelihood, num_samples=self.num_samples, antithetic=self.antithetic,
            seed=self.seed, greedy=greedy, batch_size=self.batch_size, progress=not quiet and self.rank == 0,
        )  # fmt: skip

    def _asks_for_greedy(self, requests: list[Any]) -> list[bool]:
        if self.greedy != "auto":
            return [self.greedy == "always"] * len(requests)
        places = [(request.task_name, request.doc_id) for request in requests]
        answers: dict[Any, set[Any]] = defaultdict(set)
        for place, request in zip(places, requests, strict=True):
            answers[place].add(request.args)
        return [place[1] is None or len(answers[place]) == 1 for place in places]

    def _note_errors(self, requests: list[Any], errors: torch.Tensor) -> None:
        if not self.arm.denoises or self.likelihood != "nelbo":
            return
        for request, error in zip(requests, errors.tolist(), strict=True):
            self.standard_errors[request.task_name or "unnamed"].append(error)
        for task, summary in self._error_summary().items():
            logger.info("standard error of the log-likelihoods of %s, in nats: %s", task, summary)

    def _error_summary(self) -> dict[str, dict[str, float]]:
        return {
            task: {"requests": len(errors), "mean": math.fsum(errors) / len(errors), "largest": max(errors)}
            for task, errors in self.standard_errors.items()
        }

    def _warn_of_cuts(self) -> None:
        if self.encoder.num_cut:
            logger.warning(
                "%d contexts were truncated on the left: with the continuation they have more than max_length=%d tokens",
                self.encoder.num_cut, self.max_length,
            )  # fmt: skip
            self.encoder.num_cut = 0

    # --- texts --------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """A text for each request, up to its first stop string or EOS."""
        writings = [Writing.of(options, self.max_gen_toks) for _, options in (request.args for request in requests)]
        for writing in set(writings):
            if writing.max_new_tokens >= self.max_length:
                raise ValueError(
                    f"max_gen_toks={writing.max_new_tokens} leaves no room for a context in max_length={self.max_length}: set a lower value with "
                    "--gen_kwargs max_gen_toks=N"
                )
        prompts = [
            self.encoder.fit(self.encoder.context(request.args[0]), self.max_length - writing.max_new_tokens)
            for request, writing in zip(requests, writings, strict=True)
        ]
        self._warn_of_cuts()
        seeds, times = [], Counter[Any]()
        for prompt, writing in zip(prompts, writings, strict=True):
            key = (tuple(prompt), writing)
            seeds.append(seed_of(self.seed, prompt, [times[key]]))  # a request that is repeated gets other texts
            times[key] += 1
        texts: dict[int, str] = {}
        groups: dict[Writing, list[int]] = defaultdict(list)
        for index in sorted(range(len(requests)), key=lambda index: len(prompts[index]), reverse=True):
            groups[writings[index]].append(index)
        quiet = disable_tqdm or self.rank != 0
        with tqdm(total=len(requests), desc="writing", unit="text", disable=quiet) as bar:
            for writing, rows in groups.items():
                size = BatchSize.of(self.batch_size, self.model, self.max_length)

                def write(part: list[int], writing: Writing = writing) -> list[str]:
                    return self._write(writing, [prompts[row] for row in part], [seeds[row] for row in part])

                for part, written in size.run(rows, write):
                    texts |= dict(zip(part, written, strict=True))
                    for row in part:
                        self.cache_hook.add_partial("generate_until", requests[row].args, texts[row])
                    bar.update(len(part))
        return [texts[index] for index in range(len(requests))]

    def _write(self, writing: Writing, prompts: list[list[int]], seeds: list[int]) -> list[str]:
        batch = self.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(self._device)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        options = self.arm.cache_options(self.model.config) | self.options | dict(writing.options)
        options |= {"max_new_tokens": writing.max_new_tokens}
        if writing.stops:
            options |= {"stop_strings": list(writing.stops), "tokenizer": self.tokenizer}
        with torch.no_grad():
            sequences = self.arm.generate(self.model, inputs, seeds, options).sequences
        return [writing.cut(self._decode(row)) for row in sequences[:, inputs["input_ids"].shape[1] :].tolist()]

    def _decode(self, ids: list[int]) -> str:
        eos = self.tokenizer.eos_token_id
        return self.tokenizer.decode(ids[: ids.index(eos)] if eos in ids else ids, skip_special_tokens=True)

    # --- chats, processes, and what a report says ---------------------------------------------------------------------

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages as one text, by the tokenizer's template."""
        return self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )  # fmt: skip

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's template, of a name where it has several; ValueError where it has none."""
        if not chat_template:
            return None
        return self.tokenizer.get_chat_template(chat_template if isinstance(chat_template, str) else None)

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """(processes,) the numbers of all processes."""
        if self.world_size == 1:
            return tensor
        from accelerate.utils import gather

        return gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """What all processes have, in process `dst`; None in the others."""
        if self.world_size == 1:
            return [obj]
        found: list[Any] | None = [None] * self.world_size if self.rank == dst else None
        torch.distributed.gather_object(obj, found, dst=dst)
        return found

    def barrier(self) -> None:
        self.processes.wait()

    def get_model_info(self) -> dict[str, Any]:
        """What stands in the results under "config": how likelihoods were made, and their standard errors by task."""
        exact = not self.arm.denoises or self.likelihood != "nelbo"
        info: dict[str, Any] = {
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": str(self.model.dtype),
            "diffusion": self.arm.family(self.model.config),
            "likelihood": "exact NLL" if not self.arm.denoises else self.likelihood,
        }
        if exact:
            return info
        return info | {"num_samples": self.num_samples, "log_likelihood_standard_error_nats": self._error_summary()}


_CHOICES = {"likelihood": LIKELIHOODS, "antithetic": ANTITHETIC, "dtype": DTYPES, "greedy": GREEDY}


def _check_choices(**given: str) -> None:
    for name, value in given.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"model_args {name}={value!r} is not one of {', '.join(_CHOICES[name])}")


def _check_numbers(**given: tuple[int, int]) -> None:
    """Of each name, the number and the least allowed."""
    for name, (number, least) in given.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"model_args {name}={number!r} must be a whole number of at least {least}")


def _batch_size(value: int | str) -> int | str:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if value == AUTO or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"batch_size={value!r} must be a whole number of at least 1, or {AUTO!r}")
