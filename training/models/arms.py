"""The two arms of a comparison: what a batch is for each, how it is scored and sampled, and what it is called.

Everything that differs between a diffusion model and an autoregressive one is asked here: `arm_of(model)`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from arche_mdlm.block_cache_mdlm import BlockCache
from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.configuration_mdlm import MDLMConfig
from arche_mdlm.family_mdlm import Family, family_of
from arche_mdlm.gaussian_mdlm import relaxed_batch
from arche_mdlm.metrics.corpus_likelihood import CorpusLikelihood, corpus_nelbo, corpus_nll
from arche_mdlm.training.batches.batching import Canvas, draw_given
from arche_mdlm.training.batches.consistency import consistency_batch
from arche_mdlm.training.models.fused_head import fuse_head, next_tokens


class Written(NamedTuple):
    """What an arm's `generate` wrote for B prompts."""

    sequences: torch.Tensor  # (B, L), prompts included
    num_forward_passes: list[int] | None  # (B,) of the model; None: not counted, a forward a token
    tokens_per_forward: list[float] | None  # (B,)
    tokens_behind_end: list[int]  # (B,) cut off behind the first end of a text; an AR model writes none


class Arm(ABC):
    """What differs between the arms."""

    name: ClassVar[str]  # in settings and file names
    label: ClassVar[str]  # in tables and pictures
    kind: ClassVar[str]  # in a sentence, with its article
    likelihood: ClassVar[str]  # what `score` measures
    tags: ClassVar[tuple[str, ...]]  # on the Hub
    is_bound: ClassVar[bool]  # whether that is an upper bound, estimated by Monte Carlo
    causal: ClassVar[bool]  # whether a position sees those before it only
    denoises: ClassVar[bool]  # whether it writes by denoising a canvas: masks in a prompt are filled, too
    own_streams: ClassVar[bool]  # whether each text has a random stream of its own, so that batches change nothing
    trims_last_layer: ClassVar[bool]  # whether training runs the last layer at labelled positions only
    loss_arguments: ClassVar[dict[str, Any]]  # what training's forward is given besides the batch
    remote_code: ClassVar[bool]  # whether its checkpoints carry their own code
    shortest_call: ClassVar[dict[str, int]]  # options with which `generate` takes least time

    @abstractmethod
    def family(self, config: PreTrainedConfig) -> str:
        """What a table calls the model's family, such as "block of 16"."""

    # --- training ---

    @abstractmethod
    def prepare_for_training(self, model: PreTrainedModel) -> None:
        """Change a model's forward, in place, so that training never holds the logits of a batch."""

    @abstractmethod
    def canvas_length(self, planned: int, longest: int) -> int:
        """Length of a batch's rows, whose longest row has `longest` tokens; `planned` is the diffusion arm's."""

    @abstractmethod
    def inputs(
        self,
        canvas: Canvas,
        settings: TrainingSettings,
        config: PreTrainedConfig,
        generator: torch.Generator,
        step: int,
    ) -> dict[str, Any]:
        """Keyword arguments of forward for the global batch of a step, from its clean rows, with `labels` (B, L)."""

    @abstractmethod
    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """(B, L): labels at the positions that predict them, -100 elsewhere."""

    @abstractmethod
    def loss_denominator(self, objective: str, num_real_tokens: int, supervised: torch.Tensor) -> int:
        """What a global batch's sum of losses is divided by, so that losses are comparable: its real tokens, without BOS
        and padding, or those that `supervised` (B, L) says are learnt."""

    # --- likelihood ---

    @abstractmethod
    def score(
        self,
        model: PreTrainedModel,
        rows: Sequence[Sequence[int]],
        *,
        canvas_length: int,
        pad_token_id: int,
        num_bytes: Sequence[int] | None = None,
        num_samples: int,
        seed: int,
        **options: Any,
    ) -> CorpusLikelihood:
        """Likelihood of stories (BOS ... EOS ids).

        Args:
            canvas_length: tokens; a diffusion model's rows are padded to it, and their tail is scored.
            num_samples, seed: draws a story of a bound, and what they are drawn from.
            **options: `num_given`, `batch_size`, `progress` and `processes` of `corpus_nelbo` and `corpus_nll`.
        """

    @abstractmethod
    def forwards_of_score(self, num_samples: int, config: PreTrainedConfig) -> int:
        """Forwards of the model, over a row's length, for a story's `score`."""

    @abstractmethod
    def has_exact_policy(self, config: PreTrainedConfig) -> bool:
        """Whether beside the bound there is the exact likelihood of writing a token a step (`metrics.policy_likelihood`)."""

    # --- sampling ---

    @abstractmethod
    def generation_config(self, tokenizer: PreTrainedTokenizerBase, defaults: dict[str, Any]) -> dict[str, Any]:
        """`defaults` of a generation config, with those of the arm."""

    @abstractmethod
    def step_options(self, num_diffusion_steps: int) -> dict[str, int]:
        """Options of `generate` for a number of denoising steps; none where they are not taken."""

    @abstractmethod
    def forwards_of_text(self, num_diffusion_steps: int) -> int:
        """About how many forwards of a whole canvas a text costs."""

    @abstractmethod
    def cache_options(self, config: PreTrainedConfig) -> dict[str, bool]:
        """Options of `generate` with which keys and values are kept where that changes no text."""

    @abstractmethod
    def generate(
        self, model: Any, inputs: dict[str, torch.Tensor], seeds: Sequence[int], options: dict[str, Any]
    ) -> Written:
        """Texts of B prompts (`input_ids`, `attention_mask`) from their seeds; without `own_streams` the first seed is all's."""


class DiffusionArm(Arm):
    """Masked diffusion."""

    name, label, kind = "mdlm", "MDLM", "a masked diffusion"
    likelihood = "NELBO (an upper bound on the NLL), Monte Carlo"
    tags = ("masked-diffusion",)
    is_bound = denoises = own_streams = trims_last_layer = remote_code = True
    causal = False
    loss_arguments: ClassVar[dict[str, Any]] = {}
    shortest_call: ClassVar[dict[str, int]] = {"num_diffusion_steps": 1}

    def family(self, config: PreTrainedConfig) -> str:
        length = getattr(config, "attention_block_length", None)
        return str(getattr(config, "diffusion", self.name)) + (f" of {length}" if length else "")

    def prepare_for_training(self, model: PreTrainedModel) -> None:
        pass  # its own forward does it

    def canvas_length(self, planned: int, longest: int) -> int:
        return planned

    def inputs(
        self,
        canvas: Canvas,
        settings: TrainingSettings,
        config: PreTrainedConfig,
        generator: torch.Generator,
        step: int,
    ) -> dict[str, Any]:
        family, stratified = family_of(config), settings.time_sampling == "stratified"
        open = canvas.maskable
        if settings.given_share:
            open = open & ~draw_given(canvas.real, settings.given_share, generator)
        if settings.distillation_steps is not None:
            return _student_and_teacher(canvas.input_ids, open, family, settings, generator, step)
        if (temperature := settings.curriculum_temperature(step)) is not None:
            corrupted = relaxed_batch(
                canvas.input_ids, open, family, temperature, settings.curriculum_alpha, generator, stratified
            )
        else:
            corrupted = family.corrupt(
                canvas.input_ids, open, settings.objective, generator, stratified, settings.time_window
            )
        inputs: dict[str, Any] = corrupted.inputs()
        if family.corruption.tells_noise:  # else objectives differ by their weights
            inputs["objective"] = settings.objective
        return inputs

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        return labels

    def loss_denominator(self, objective: str, num_real_tokens: int, supervised: torch.Tensor) -> int:
        return max(int(supervised.sum()), 1) if objective == "masked_mean" else num_real_tokens

    def score(
        self, model: PreTrainedModel, rows: Sequence[Sequence[int]], *, canvas_length: int, pad_token_id: int,
        num_bytes: Sequence[int] | None = None, num_samples: int, seed: int, **options: Any,
    ) -> CorpusLikelihood:  # fmt: skip
        return corpus_nelbo(
            model, rows, canvas_length=canvas_length, pad_token_id=pad_token_id, num_bytes=num_bytes,
            num_samples=num_samples, generator=torch.Generator().manual_seed(seed), **options,
        )  # fmt: skip

    def forwards_of_score(self, num_samples: int, config: PreTrainedConfig) -> int:
        order = family_of(config).order
        return num_samples * order.inputs_of_draw * order.copies

    def has_exact_policy(self, config: PreTrainedConfig) -> bool:
        return family_of(config).corruption.has_order

    def generation_config(self, tokenizer: PreTrainedTokenizerBase, defaults: dict[str, Any]) -> dict[str, Any]:
        # No number of steps: the model's config has it, and samplers that set their own pace need none.
        return defaults | {"sampler": "ancestral"}

    def step_options(self, num_diffusion_steps: int) -> dict[str, int]:
        return {"num_diffusion_steps": num_diffusion_steps}

    def forwards_of_text(self, num_diffusion_steps: int) -> int:
        return num_diffusion_steps

    def cache_options(self, config: PreTrainedConfig) -> dict[str, bool]:
        return {"prefix_cache": True} if BlockCache.is_exact(cast(MDLMConfig, config)) else {}

    def generate(
        self, model: Any, inputs: dict[str, torch.Tensor], seeds: Sequence[int], options: dict[str, Any]
    ) -> Written:
        streams = {"generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
        out = model.generate(**inputs, **options | streams | {"return_dict_in_generate": True})
        counts = (out.num_forward_passes, out.tokens_per_forward, out.tokens_behind_end)
        return Written(out.sequences, *(count.tolist() for count in counts))


def _student_and_teacher(
    tokens: torch.Tensor,
    open: torch.Tensor,
    family: Family,
    settings: TrainingSettings,
    generator: torch.Generator,
    step: int,
) -> dict[str, Any]:
    """The inputs of a student, and those of its teacher, by names that `training.loop.distillation` takes out."""
    student, teacher = consistency_batch(
        tokens, open, family, settings.teacher_distance(step), settings.distillation_alpha, generator,
        settings.time_sampling == "stratified",
    )  # fmt: skip
    assert teacher.timesteps is not None
    own = {"teacher_input_ids": teacher.input_ids, "teacher_timesteps": teacher.timesteps}
    return student.inputs() | own


class AutoregressiveArm(Arm):
    """A causal language model of transformers."""

    name, label, kind = "ar", "AR", "an autoregressive"
    likelihood = "exact NLL"
    tags = ()
    is_bound = denoises = own_streams = trims_last_layer = remote_code = False
    causal = True
    loss_arguments: ClassVar[dict[str, Any]] = {"use_cache": False}
    shortest_call: ClassVar[dict[str, int]] = {"max_length": 3}

    def family(self, config: PreTrainedConfig) -> str:
        return "autoregressive"

    def prepare_for_training(self, model: PreTrainedModel) -> None:
        fuse_head(model)

    def canvas_length(self, planned: int, longest: int) -> int:
        return longest

    def inputs(
        self,
        canvas: Canvas,
        settings: TrainingSettings,
        config: PreTrainedConfig,
        generator: torch.Generator,
        step: int,
    ) -> dict[str, Any]:
        learnt = canvas.real & canvas.maskable
        return {"input_ids": canvas.input_ids, "labels": canvas.input_ids.masked_fill(~learnt, -100)}

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        return next_tokens(labels)

    def loss_denominator(self, objective: str, num_real_tokens: int, supervised: torch.Tensor) -> int:
        return max(int(supervised.sum()), 1)

    def score(
        self, model: PreTrainedModel, rows: Sequence[Sequence[int]], *, canvas_length: int, pad_token_id: int,
        num_bytes: Sequence[int] | None = None, num_samples: int, seed: int, **options: Any,
    ) -> CorpusLikelihood:  # fmt: skip
        return corpus_nll(model, rows, pad_token_id=pad_token_id, num_bytes=num_bytes, **options)

    def forwards_of_score(self, num_samples: int, config: PreTrainedConfig) -> int:
        return 1

    def has_exact_policy(self, config: PreTrainedConfig) -> bool:
        return False  # its likelihood is exact

    def generation_config(self, tokenizer: PreTrainedTokenizerBase, defaults: dict[str, Any]) -> dict[str, Any]:
        # It shares the vocabulary, so it has a row for the mask: never to be written.
        return defaults | {"suppress_tokens": [tokenizer.mask_token_id]}

    def step_options(self, num_diffusion_steps: int) -> dict[str, int]:
        return {}

    def forwards_of_text(self, num_diffusion_steps: int) -> int:
        return 2  # a token at a time with a cache

    def cache_options(self, config: PreTrainedConfig) -> dict[str, bool]:
        return {"use_cache": True}

    def generate(
        self, model: Any, inputs: dict[str, torch.Tensor], seeds: Sequence[int], options: dict[str, Any]
    ) -> Written:
        torch.manual_seed(seeds[0])
        if options.get("max_new_tokens") is not None:
            # As a `max_length`: transformers warns where a checkpoint has one and a call gives the other.
            length = inputs["input_ids"].shape[1] + options["max_new_tokens"]
            options = {**options, "max_new_tokens": None, "max_length": length}
        return Written(model.generate(**inputs, **options), None, None, [0] * len(seeds))


DIFFUSION, AUTOREGRESSIVE = DiffusionArm(), AutoregressiveArm()
ARMS = {arm.name: arm for arm in (DIFFUSION, AUTOREGRESSIVE)}


def arm_of(model_or_config: Any) -> Arm:
    """The arm of a model or its config, also of one loaded as remote code, whose class is another object."""
    return arm_of_architecture(getattr(model_or_config, "config", model_or_config).model_type)


def arm_of_architecture(architecture: str) -> Arm:
    """The arm of a model type, which is what a preset's `model.architecture` names."""
    return DIFFUSION if architecture == "mdlm" else AUTOREGRESSIVE
