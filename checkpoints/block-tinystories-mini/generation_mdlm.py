"""`generate` for masked diffusion: transformers' own method with a denoising loop behind it."""

import copy
import inspect
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NoReturn, cast

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel, StoppingCriteriaList
from transformers.generation import LogitsProcessorList
from transformers.utils import ModelOutput, logging

from .block_cache_mdlm import BlockCache, RankCache
from .canvas_mdlm import Canvas, Timetable
from .canvas_stream_mdlm import CanvasStream
from .compiling_mdlm import compiled_layers, is_compiled
from .configuration_mdlm import MDLMConfig
from .family_mdlm import family_of
from .generation_config_mdlm import MDLMGenerationConfig, check_settings, draws_length, refuse_unsupported
from .length_mdlm import draw_ends
from .noise_mdlm import Generators, RowNoise, draw_seeds
from .ordered_samplers_mdlm import OrderedSampler  # noqa: F401  (registers its samplers, as the next one does)
from .prediction_mdlm import Guidance, Predictor
from .processors_mdlm import anneal, on_canvas, without_temperature, without_warpers
from .remasking_mdlm import RemaskingSampler  # noqa: F401
from .samplers_mdlm import Sampler, busy_steps, get_sampler, left_to_right_steps
from .stopping_mdlm import Stopping
from .uniform_samplers_mdlm import UniformAncestralSampler  # noqa: F401

logger = logging.get_logger(__name__)

_LAST_STEP = 2**31  # step number for the random numbers that finish a text when `max_time` is over
_NOT_ON_A_CANVAS = "{} decodes from left to right with a cache; use generate for a masked diffusion model"


@dataclass
class MDLMGenerationOutput(ModelOutput):
    """Output of `generate(return_dict_in_generate=True)`.

    Args:
        sequences (`torch.LongTensor`, (B, L)): prompts and generated tokens, with pads after the first EOS or pad.
        num_forward_passes (`torch.LongTensor`, (B,)): number of forwards for each row.
        tokens_per_forward (`torch.Tensor`, (B,)): filled positions divided by forwards; 0 for a row without forwards.
        history (`torch.LongTensor`, (S, B, L)): the canvas after each of S steps, with masks at unfilled positions; only with
            `output_history`.
        tokens_behind_end (`torch.LongTensor`, (B,)): number of tokens after the first EOS or pad of a row, which are dropped
            (sampling with few steps can put an EOS or pad inside the text).
    """

    sequences: torch.Tensor | None = None
    num_forward_passes: torch.Tensor | None = None
    tokens_per_forward: torch.Tensor | None = None
    history: torch.Tensor | None = None
    tokens_behind_end: torch.Tensor | None = None


class MDLMGenerationMixin(GenerationMixin):
    """A `GenerationMixin` that denoises a canvas."""

    config: MDLMConfig
    generation_config_class = MDLMGenerationConfig

    @torch.no_grad()
    def generate(  # type: ignore[override]  # transformers' order of arguments, without those of text written left to right
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        stopping_criteria: Any = None,
        streamer: Any = None,
        generator: Generators = None,
        guidance_scale: float | None = None,
        negative_prompt_ids: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | MDLMGenerationOutput:
        """Generate text, or fill the masks inside it.

        Args:
            inputs (`torch.LongTensor`, (B, P), *optional*): prompts, also as `input_ids`, padded on either side with
                `attention_mask` 0. Masks in them are filled too. Default: the empty prompt, a BOS.
            generation_config (`GenerationConfig`, *optional*): settings of this call. Default: from the checkpoint.
            stopping_criteria (one or a list, *optional*): called with the canvases (B, L) after each step that may have
                changed them; a row that stops does not change any more (`Stopping`).
            streamer (*optional*): `TextStreamer` (finished text, left to right), `TextDiffusionStreamer` (the canvas of one
                row), or an object with `put_canvas(tokens (B, L))` and `end()`, which gets all rows after each step.
            generator (`torch.Generator` or a list with one per row, *optional*): the text of a row depends only on its seed.
                With `do_sample=False` and no generator the result is deterministic.
            guidance_scale (`float`, *optional*): scale of classifier-free guidance; values above 1 double the forwards.
            negative_prompt_ids (`torch.LongTensor`, (B, Pn), *optional*): prompts that guidance moves away from.
            negative_prompt_attention_mask (`torch.Tensor`, (B, Pn), *optional*): 0 at their padding.
            **kwargs: fields of `MDLMGenerationConfig`, `logits_processor`, `attention_mask`. `max_new_tokens=0` fills only
                the masks of the prompt. `max_length`: maximum number of tokens of each row, without padding.
                `min_new_tokens`, `min_length`: no EOS or pad before this number of tokens. `max_time` (seconds):
                afterwards one forward fills all open positions. `stop_strings` (with `tokenizer`): the text ends with the
                token that completes the first of them. `temperature=0`: the same as `do_sample=False`.

        Returns:
            `torch.LongTensor`, (B * num_return_sequences, L); `MDLMGenerationOutput` with `return_dict_in_generate`.

        Raises:
            ValueError: if a length does not fit the context, the sampler is unknown, or a setting is out of range, belongs to
                another sampler or is not supported (`generation_config_mdlm.WORKING` lists the supported ones).

        Source: Sahoo et al. 2024, arXiv 2406.07524; each sampler names its paper. Example:

        ```python
        >>> import torch, arche_mdlm
        >>> from transformers import AutoModelForMaskedLM, AutoTokenizer
        >>> folder = "checkpoints/mdlm-tinystories-mini"
        >>> tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder)
        >>> prompt = tokenizer("The dog [MASK][MASK] was", return_tensors="pt")
        >>> seed = torch.Generator().manual_seed(0)
        >>> output = model.generate(**prompt, max_new_tokens=8, num_diffusion_steps=8, generator=seed)
        >>> output.shape[1] - prompt["input_ids"].shape[1], bool((output == tokenizer.mask_token_id).any())
        (8, False)

        ```
        """
        config = copy.deepcopy(generation_config) if generation_config is not None else self.generation_config_class()
        explicit = generation_config is not None
        places = [kwargs, vars(config) if explicit else {}, vars(self.generation_config)]
        stock = {*vars(GenerationConfig()), *inspect.signature(GenerationMixin.generate).parameters}
        refuse_unsupported(kwargs, places[1:], stock | set(inspect.signature(self.forward).parameters))  # type: ignore[attr-defined]
        get = partial(_setting, places)
        family = family_of(self.config)
        guidance = {"guidance_scale": guidance_scale, "negative_prompt_ids": negative_prompt_ids}
        if get("block_length") is None:
            kwargs["block_length"] = family.order.block_length
        check_settings(partial(_setting, [guidance, *places]), kwargs, family)
        if get("temperature") == 0:
            kwargs |= {"do_sample": False, "temperature": 1.0}
        stopping = Stopping(stopping_criteria, get("max_time"), get("stop_strings"), kwargs.pop("tokenizer", None))
        least = {name: get(name) for name in ("min_new_tokens", "min_length")}
        # Stock generate would guide by a causal, cached forward: it must not see the scale.
        guidance_scale = get("guidance_scale") if guidance_scale is None else guidance_scale
        if guidance_scale is not None:
            kwargs["guidance_scale"] = 1
        input_ids = inputs if inputs is not None else kwargs.get("input_ids")
        new_tokens = self._resolve_lengths(config, kwargs, input_ids, explicit)
        # Bound here: generate drops a streamer for custom loops, and its own stopping criteria count positions.
        loop = partial(
            type(self)._denoise, new_tokens=new_tokens, least=least, stopping=stopping, stream=streamer,
            generator=generator, guidance=(guidance_scale, negative_prompt_ids, negative_prompt_attention_mask),
        )  # fmt: skip
        settings = config if explicit else None  # `custom_generate` decides what is returned
        return super().generate(inputs, settings, custom_generate=loop, **kwargs)  # type: ignore[misc, return-value]

    def generate_batch(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not for masked diffusion: transformers' continuous batching is a causal decoder."""
        raise NotImplementedError(_NOT_ON_A_CANVAS.format("generate_batch"))

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not for masked diffusion."""
        raise NotImplementedError(_NOT_ON_A_CANVAS.format("continuous batching"))

    def continuous_batching_context_manager(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not for masked diffusion."""
        raise NotImplementedError(_NOT_ON_A_CANVAS.format("continuous batching"))

    def compute_transition_scores(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not for masked diffusion."""
        raise NotImplementedError(
            "compute_transition_scores is not supported: see metrics.policy_likelihood for the likelihood of an order of generation"
        )

    def _resolve_lengths(
        self, config: GenerationConfig, kwargs: dict[str, Any], input_ids: torch.Tensor | None, explicit: bool
    ) -> tuple[str, int, bool]:
        """("new", n, ...): every row gets n new tokens; ("total", n, ...): every row is filled up to n tokens of its own;
        the third says whether the length is only the checkpoint's default.

        Takes the lengths out of `kwargs` and `config`, and leaves a harmless one for transformers' own checks.
        """
        width = 1 if input_ids is None else max(input_ids.shape[-1], 1)
        places = [kwargs, vars(config) if explicit else {}, vars(self.generation_config)]
        chosen, is_default = ("total", self.config.max_position_embeddings), True
        for place in places:
            if place.get("max_new_tokens") is not None:
                chosen = ("new", int(place["max_new_tokens"]))
            elif place.get("max_length") is not None:
                chosen = ("total", int(place["max_length"]))
            else:
                continue
            is_default = place is places[-1]
            break
        kwargs.pop("max_new_tokens", None)
        config.max_new_tokens = None
        if explicit:
            config.max_length = width + 1
            kwargs.pop("max_length", None)
        else:
            kwargs["max_length"] = width + 1
        return (*chosen, is_default)

    def _validate_generated_length(self, *args: Any, **kwargs: Any) -> None:
        """Lengths were resolved, and are checked a row at a time, in `Canvas.build`."""

    def _prepare_generated_length(
        self, generation_config: GenerationConfig, *args: Any, **kwargs: Any
    ) -> GenerationConfig:
        """With the checkpoint's own length gone, which transformers would hold against the harmless one."""
        generation_config.max_new_tokens = None
        return super()._prepare_generated_length(generation_config, *args, **kwargs)  # type: ignore[misc]

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> StoppingCriteriaList:
        return StoppingCriteriaList()  # `Stopping` has its own

    def prepare_inputs_for_generation(  # type: ignore[override]  # no cache to prepare
        self, input_ids: torch.Tensor, **kwargs: Any
    ) -> dict[str, Any]:
        """The arguments of `forward`, as they are."""
        return {"input_ids": input_ids, **kwargs}

    def adjust_generation_fn(self, *args: Any, **kwargs: Any) -> None:
        """Load the checkpoint's generation config as our own class, so that resaving keeps our fields."""
        super().adjust_generation_fn(*args, **kwargs)  # type: ignore[misc]
        loaded = self.generation_config.to_dict()
        self.generation_config = self.generation_config_class(**loaded)

    def _denoise(
        self, input_ids: torch.Tensor, logits_processor: Any, generation_config: MDLMGenerationConfig, **settings: Any
    ) -> torch.Tensor | MDLMGenerationOutput:
        """Run the loop, its layers compiled where that is asked for."""
        compile_config = generation_config.compile_config
        if compile_config is None or generation_config.disable_compile:
            return self._fill(input_ids, logits_processor, generation_config, **settings)
        names = ("backend", "mode", "options", "fullgraph")
        with compiled_layers(cast(PreTrainedModel, self), **{name: getattr(compile_config, name) for name in names}):
            return self._fill(input_ids, logits_processor, generation_config, **settings)

    def _fill(
        self,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        generation_config: MDLMGenerationConfig,
        *,
        new_tokens: tuple[str, int, bool],
        least: dict[str, Any],
        stopping: Stopping,
        stream: Any,
        generator: Generators,
        guidance: tuple[float | None, torch.Tensor | None, torch.Tensor | None],
        stopping_criteria: Any = None,
        **model_kwargs: Any,
    ) -> torch.Tensor | MDLMGenerationOutput:
        """Fill a canvas over `num_diffusion_steps` steps from t = 1 to t = 0; see `generate`.

        The attention mask stays in `model_kwargs`: transformers would pass a named one twice.
        """
        # 1. settings
        noise_name = family_of(self.config).corruption.name
        sampler = get_sampler(generation_config.sampler or "ancestral", noise_name).from_config(
            generation_config, self.config
        )
        processors = on_canvas(logits_processor)
        end = getattr(generation_config, "temperature_end", None)
        if sampler.anneals_temperature:
            processors = without_temperature(processors)
        elif end is not None and sampler.do_sample:
            processors = anneal(processors, sampler.temperature, end)
        # 2. canvas and streams
        canvas = Canvas.build(
            self.config, generation_config, input_ids, model_kwargs.get("attention_mask"), new_tokens, **least
        )
        guide = Guidance.build(*guidance, canvas, self.config.max_position_embeddings)
        predictor = Predictor(self, canvas, processors, guide, self._cache(generation_config, canvas))
        seeds = self._seeds(generator, sampler, canvas)
        canvas.start(seeds)
        if draws_length(generation_config, sampler, family_of(self.config)):
            draw_ends(Predictor(self, canvas, without_warpers(processors), guide), canvas, seeds, sampler.do_sample)
        plan = self._timetable(generation_config, sampler, canvas)
        stream = None if stream is None else CanvasStream(stream, canvas, settles=not sampler.remasks)
        history: list[torch.Tensor] | None = [] if getattr(generation_config, "output_history", None) else None
        # 3. from noise to text
        t = torch.ones_like(canvas.confidence[:, :1])
        busy = range(plan.total) if history is not None else busy_steps(sampler, canvas, plan, seeds)
        planned = ((step, sampler, *plan.at(step)) for step in busy)
        for step, now, block, t, s in chain(planned, left_to_right_steps(sampler, canvas, plan)):
            if stopping.is_late() or (not sampler.remasks and canvas.is_complete()):
                break
            rows = canvas.open_rows(block, sampler.remasks)
            if len(rows):
                noise = RowNoise(seeds[rows], canvas.position_ids[rows], step)
                predict = predictor.at(rows, block[rows], t[rows])
                draft = canvas.draft(rows, block[rows])
                canvas.write(rows, now.step(predict, draft, t[rows], s[rows], noise))
                stopping.after_step(canvas, rows)
            if stream is not None:
                stream(canvas)
            if history is not None:
                history.append(canvas.tokens.masked_fill(~canvas.attended, canvas.pad_token_id))
        # 4. what a sampler left open is filled with the most probable tokens at t = 0
        if stopping.is_late():
            self._fill_at_once(canvas, Predictor(self, canvas, processors, guide), sampler, t, seeds)
        self._fill_rest(canvas, predictor)
        # 5. text
        stopping.mark_ends(canvas)
        sequences, behind = canvas.finish(), canvas.tokens_behind_end()
        if stream is not None:
            stream.end(sequences)
        if not generation_config.return_dict_in_generate:
            return sequences
        tokens_per_forward = canvas.num_filled / canvas.num_forwards.clamp(min=1)
        if history is None:
            return MDLMGenerationOutput(sequences, canvas.num_forwards, tokens_per_forward, None, behind)
        steps = torch.stack(history) if history else sequences.new_zeros(0, *sequences.shape)
        return MDLMGenerationOutput(sequences, canvas.num_forwards, tokens_per_forward, steps, behind)

    def _cache(self, generation_config: MDLMGenerationConfig, canvas: Canvas) -> BlockCache | None:
        """The cache, if `prefix_cache` is set."""
        if not getattr(generation_config, "prefix_cache", None):
            return None
        if is_compiled(cast(PreTrainedModel, self)):
            raise ValueError("prefix_cache=True cannot be used with compiled layers: leave compile_config out")
        if canvas.order.has_ranks:
            return RankCache(self, canvas)
        if not BlockCache.is_exact(self.config):
            logger.warning_once(
                "prefix_cache=True is an approximation for this model: keys and values outside a block are computed before the "
                "block is filled (exact for attention_block_length without time_conditioning)"
            )
        return BlockCache(self, canvas)

    @staticmethod
    def _seeds(generator: Generators, sampler: Sampler, canvas: Canvas) -> torch.Tensor:
        rows = len(canvas.tokens)
        deterministic = generator is None and not sampler.do_sample
        seeds = torch.zeros(rows, dtype=torch.int64) if deterministic else draw_seeds(generator, rows)
        return seeds.to(canvas.tokens.device)

    def _timetable(self, generation_config: MDLMGenerationConfig, sampler: Sampler, canvas: Canvas) -> Timetable:
        steps = generation_config.num_diffusion_steps
        if steps is None and sampler.sets_own_pace:
            return Timetable(canvas.masked.sum(-1).clamp(min=1), canvas.num_blocks)
        steps = self.config.num_diffusion_steps if steps is None else int(steps)
        return Timetable(torch.full_like(canvas.num_blocks, steps), canvas.num_blocks)

    @staticmethod
    def _fill_at_once(
        canvas: Canvas, predictor: Predictor, sampler: Sampler, t: torch.Tensor, seeds: torch.Tensor
    ) -> None:
        """Settle what is open in all blocks from one forward; rows have come to the times t (B, 1)."""
        rows = canvas.masked.any(-1).logical_and(~canvas.stopped).nonzero()[:, 0]
        if len(rows):
            last = canvas.num_blocks[rows] - 1
            predict = predictor.at(rows, last, sampler.finishing_time(t[rows]))
            noise = RowNoise(seeds[rows], canvas.position_ids[rows], _LAST_STEP)
            canvas.write(rows, sampler.finish(predict, canvas.draft(rows), t[rows], noise))

    @staticmethod
    def _fill_rest(canvas: Canvas, predictor: Predictor) -> None:
        for number in range(int(canvas.num_blocks.max())):
            block = torch.full_like(canvas.num_blocks, number)
            rows = canvas.open_rows(block)
            if not len(rows):
                continue
            draft = canvas.draft(rows, block[rows])
            zero = torch.zeros_like(canvas.confidence[rows, :1])
            predict = predictor.at(rows, block[rows], zero)
            canvas.write(rows, draft.fill(draft.masked, predict.propose(draft.masked, None)))


def _setting(places: list[dict[str, Any]], name: str) -> Any:
    """The value of the first of `places` that has one."""
    return next((place[name] for place in places if place.get(name) is not None), None)


assert "custom_generate" in inspect.signature(GenerationMixin.generate).parameters, "transformers >= 5.20 is needed"
