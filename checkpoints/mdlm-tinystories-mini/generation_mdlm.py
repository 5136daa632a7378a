"""`generate` for masked diffusion: transformers' own front door, and a denoising loop behind it."""

import copy
import inspect
from dataclasses import dataclass
from functools import partial

import torch
from transformers import GenerationConfig, GenerationMixin, StoppingCriteriaList
from transformers.utils import ModelOutput, logging

from .block_cache_mdlm import BlockCache
from .canvas_mdlm import Canvas
from .compiling_mdlm import compiled_layers, is_compiled
from .guidance_mdlm import Guidance
from .noise_mdlm import RowNoise, draw_seeds
from .ordered_samplers_mdlm import OrderedSampler  # noqa: F401  (registers its samplers, as the next one does)
from .prediction_mdlm import Predictor, anneal, on_canvas, without_temperature
from .proposal_mdlm import propose
from .remasking_mdlm import RemaskingSampler  # noqa: F401
from .samplers_mdlm import get_sampler
from .settings_mdlm import OWN_FIELDS, check_settings, refuse_unsupported
from .stopping_mdlm import Stopping
from .streaming_mdlm import CanvasStream
from .timetable_mdlm import Timetable, busy_steps

logger = logging.get_logger(__name__)

_NOT_ON_A_CANVAS = "{} decodes from left to right with a cache; a masked diffusion model writes with generate"


class MDLMGenerationConfig(GenerationConfig):
    """A `GenerationConfig` with what denoising a canvas adds. None means the default that is named.

    Args:
        sampler: one of `available_samplers()`; `"ancestral"`.
        num_diffusion_steps: denoising steps of a row, and the most it takes; the model config's. Samplers that set their own
            pace (first_hitting, entropy_bound, threshold) by default get one for each position to fill.
        block_length: fill the canvas in blocks of so many positions, left to right, which share the steps; one block.
        temperature_end: the temperature falls (or rises) linearly from `temperature` at t = 1 to this at t = 0; constant.
        threshold, threshold_factor, entropy_bound, remasking, remasking_rate: settings of the samplers `threshold`,
            `entropy_bound` and `remdm`, explained there.
        output_history: return the canvas after each step; needs `return_dict_in_generate`.
        prefix_cache: with `block_length`, keep keys and values of all that is not in the current block while it is written
            (`BlockCache`): exact for a block-causal model that is not told the time, approximate for others, with a warning.
        compile_config: transformers' own `CompileConfig`: the model's layers run compiled in this call (`compiled_layers`).
    """

    def __init__(self, **kwargs):
        for name, default in OWN_FIELDS.items():
            setattr(self, name, kwargs.pop(name, default))
        super().__init__(**kwargs)

    @classmethod
    def from_model_config(cls, model_config):
        """The special tokens; transformers' own would also take everything that a model config has under a like name."""
        config = model_config if isinstance(model_config, dict) else model_config.to_dict()
        return cls(**{name: config.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")})


@dataclass
class MDLMGenerationOutput(ModelOutput):
    """What `generate(return_dict_in_generate=True)` returns.

    Args:
        sequences: (B, L) prompts and what was written, pads after the first EOS.
        num_forward_passes: (B,) forwards of the model that each row was part of.
        tokens_per_forward: (B,) positions filled over forwards, float; 0 for a row that needed none.
        history: (S, B, L) the canvas after each of the S steps, masks where nothing is written; with `output_history`.
    """

    sequences: torch.LongTensor | None = None
    num_forward_passes: torch.LongTensor | None = None
    tokens_per_forward: torch.FloatTensor | None = None
    history: torch.LongTensor | None = None


class MDLMGenerationMixin(GenerationMixin):
    """`GenerationMixin` whose decoding is the denoising of a canvas."""

    generation_config_class = MDLMGenerationConfig

    @torch.no_grad()
    def generate(
        self, inputs=None, generation_config=None, stopping_criteria=None, streamer=None, generator=None,
        guidance_scale=None, negative_prompt_ids=None, negative_prompt_attention_mask=None, **kwargs,
    ):  # fmt: skip
        """Write text, or fill the masks inside it.

        Args:
            inputs, input_ids: (B, P) prompts, padded on either side with `attention_mask` 0; masks in them are filled
                too. None: the empty prompt, a BOS.
            generation_config, logits_processor, kwargs: as everywhere in transformers, and the fields of
                `MDLMGenerationConfig`. `max_new_tokens=0` fills only the masks of the prompt. With `max_length`, or
                the default length, each row is filled up to that many tokens of its own, padding not counted.
                The options that work are listed in settings_mdlm.py; any other is refused. Among them: `min_new_tokens` and
                `min_length` (no EOS or pad before that many tokens), `max_time` (seconds, after which everything open is
                filled with the most probable tokens of one forward), `stop_strings` with `tokenizer` (the text ends with the
                token in which the first of them ends), `temperature=0` (as `do_sample=False`).
            stopping_criteria: one or a list (`Stopping`), called with the canvases (B, L) after each step in which anything
                can have changed; a row that stops is left as it is.
            streamer: `TextStreamer` (finished text, left to right), `TextDiffusionStreamer` (the whole canvas of one
                row), or anything with `put_canvas(tokens (B, L))` and `end()`, which gets all rows after each step.
            generator: None, a `torch.Generator`, or a list of one a row, `num_return_sequences` counted. A row's text
                depends on its own seed only. With `do_sample=False` and no generator the result is deterministic.
            guidance_scale: above 1 pushes away from the text without the prompt, or with `negative_prompt_ids` (B, Pn);
                twice the forwards.

        Returns:
            (B * num_return_sequences, L) token ids, or `MDLMGenerationOutput`. ValueError for a length that does not fit
            the context, an unknown sampler, a setting outside its range or one that the sampler does not have, and
            options that have no meaning for a diffusion model.

        Source: Sahoo et al. 2024, arXiv 2406.07524; the samplers name theirs.
        """
        config = copy.deepcopy(generation_config) if generation_config is not None else self.generation_config_class()
        explicit = generation_config is not None
        places = [kwargs, vars(config) if explicit else {}, vars(self.generation_config)]
        stock = {*vars(GenerationConfig()), *inspect.signature(super().generate).parameters}
        refuse_unsupported(kwargs, places[1:], stock | set(inspect.signature(self.forward).parameters))
        get = partial(_setting, places)
        check_settings(get, kwargs)
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
        return super().generate(
            inputs=inputs, generation_config=config if explicit else None, custom_generate=loop, **kwargs
        )

    def generate_batch(self, *args, **kwargs):
        """Not for masked diffusion: transformers' continuous batching is a causal decoder."""
        raise NotImplementedError(_NOT_ON_A_CANVAS.format("generate_batch"))

    def init_continuous_batching(self, *args, **kwargs):
        """Not for masked diffusion."""
        raise NotImplementedError(_NOT_ON_A_CANVAS.format("continuous batching"))

    def continuous_batching_context_manager(self, *args, **kwargs):
        """Not for masked diffusion."""
        raise NotImplementedError(_NOT_ON_A_CANVAS.format("continuous batching"))

    def compute_transition_scores(self, *args, **kwargs):
        """Not for masked diffusion."""
        raise NotImplementedError(
            "compute_transition_scores needs a score a position in the order of writing; see metrics.policy_likelihood"
        )

    # ------------------------------------------------------------------ before the loop

    def _resolve_lengths(self, config, kwargs, input_ids, explicit: bool) -> tuple[str, int, bool]:
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
        if chosen[1] < 0:
            raise ValueError(f"max_new_tokens={chosen[1]} must not be negative")
        kwargs.pop("max_new_tokens", None)
        config.max_new_tokens = None
        if explicit:
            config.max_length = width + 1
            kwargs.pop("max_length", None)
        else:
            kwargs["max_length"] = width + 1
        return (*chosen, is_default)

    def _validate_generated_length(self, generation_config, input_ids_length, has_default_max_length):
        """Lengths were resolved, and are checked a row at a time, in `Canvas.build`."""

    def _get_stopping_criteria(self, *args, **kwargs):
        return StoppingCriteriaList()  # `Stopping` has its own

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids, **kwargs}

    def adjust_generation_fn(self, generation_config, from_auto_class, from_pipeline, pretrained_model_name_or_path,
                             *args, **kwargs):  # fmt: skip
        """Load the checkpoint's generation config as our own class, so that resaving keeps our fields."""
        super().adjust_generation_fn(
            generation_config, from_auto_class, from_pipeline, pretrained_model_name_or_path, *args, **kwargs
        )
        loaded = self.generation_config.to_dict()
        self.generation_config = self.generation_config_class(**loaded)

    # ------------------------------------------------------------------ the loop

    def _denoise(self, input_ids, logits_processor, generation_config, **settings):
        """Run the loop, its layers compiled where that is asked for."""
        compile_config = generation_config.compile_config
        if compile_config is None or generation_config.disable_compile:
            return self._fill(input_ids, logits_processor, generation_config, **settings)
        names = ("backend", "mode", "options", "fullgraph")
        with compiled_layers(self, **{name: getattr(compile_config, name) for name in names}):
            return self._fill(input_ids, logits_processor, generation_config, **settings)

    def _fill(self, input_ids, logits_processor, generation_config, *, new_tokens, least, stopping, stream, generator,
              guidance, stopping_criteria=None, **model_kwargs):  # fmt: skip
        """Fill a canvas over `num_diffusion_steps` steps from t = 1 to t = 0; see `generate`.

        The attention mask stays in `model_kwargs`: transformers would pass a named one twice.
        """
        # 1. settings
        sampler = get_sampler(generation_config.sampler or "ancestral").from_config(generation_config, self.config)
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
        plan = self._timetable(generation_config, sampler, canvas)
        stream = None if stream is None else CanvasStream(stream, canvas, settles=not sampler.remasks)
        history = [] if getattr(generation_config, "output_history", None) else None
        # 3. from noise to text
        for step in range(plan.total) if history is not None else busy_steps(sampler, canvas, plan, seeds):
            if stopping.is_late() or (not sampler.remasks and canvas.is_complete()):
                break
            block, t, s = plan.at(step)
            rows = canvas.open_rows(block, sampler.remasks)
            if len(rows):
                noise = RowNoise(seeds[rows], canvas.position_ids[rows], step)
                predict = predictor.at(rows, block[rows], t[rows])
                draft = canvas.draft(rows, block[rows])
                canvas.write(rows, sampler.step(predict, draft, t[rows], s[rows], noise))
                stopping.after_step(canvas, rows)
            if stream is not None:
                stream(canvas)
            if history is not None:
                history.append(canvas.tokens.masked_fill(~canvas.attended, canvas.pad_token_id))
        # 4. what a sampler left open is filled with the most probable tokens at t = 0
        if stopping.is_late():
            self._fill_at_once(canvas, Predictor(self, canvas, processors, guide))
        self._fill_rest(canvas, predictor)
        # 5. text
        stopping.mark_ends(canvas)
        sequences = canvas.finish()
        if stream is not None:
            stream.end(sequences)
        if not generation_config.return_dict_in_generate:
            return sequences
        if history is not None:
            history = torch.stack(history) if history else sequences.new_zeros(0, *sequences.shape)
        return MDLMGenerationOutput(
            sequences, canvas.num_forwards, canvas.num_filled / canvas.num_forwards.clamp(min=1), history
        )

    def _cache(self, generation_config, canvas: Canvas) -> BlockCache | None:
        """The cache of blocks, where it is asked for."""
        if not getattr(generation_config, "prefix_cache", None):
            return None
        if is_compiled(self):
            raise ValueError("prefix_cache=True cannot be used with compiled layers: leave compile_config out")
        if not BlockCache.is_exact(self.config):
            logger.warning_once(
                "prefix_cache=True is an approximation for this model: what stands outside of a block was read before the "
                "block was written (exact for attention_block_length without time_conditioning)"
            )
        return BlockCache(self, canvas)

    @staticmethod
    def _seeds(generator, sampler, canvas: Canvas) -> torch.Tensor:
        rows = len(canvas.tokens)
        deterministic = generator is None and not sampler.do_sample
        seeds = torch.zeros(rows, dtype=torch.int64) if deterministic else draw_seeds(generator, rows)
        return seeds.to(canvas.tokens.device)

    def _timetable(self, generation_config, sampler, canvas: Canvas) -> Timetable:
        steps = generation_config.num_diffusion_steps
        if steps is None and sampler.sets_own_pace:
            return Timetable(canvas.masked.sum(-1).clamp(min=1), canvas.num_blocks)
        steps = self.config.num_diffusion_steps if steps is None else int(steps)
        return Timetable(torch.full_like(canvas.num_blocks, steps), canvas.num_blocks)

    @staticmethod
    def _fill_at_once(canvas: Canvas, predictor: Predictor) -> None:
        """Fill everything open, whatever its block, from one forward."""
        rows = canvas.masked.any(-1).logical_and(~canvas.stopped).nonzero()[:, 0]
        if len(rows):
            draft = canvas.draft(rows)
            last = canvas.num_blocks[rows] - 1
            predict = predictor.at(rows, last, torch.zeros(len(rows), 1, dtype=torch.float64, device=rows.device))
            canvas.write(rows, draft.fill(draft.masked, propose(predict, draft.masked, None)))

    @staticmethod
    def _fill_rest(canvas: Canvas, predictor: Predictor) -> None:
        for number in range(int(canvas.num_blocks.max())):
            block = torch.full_like(canvas.num_blocks, number)
            rows = canvas.open_rows(block)
            if not len(rows):
                continue
            draft = canvas.draft(rows, block[rows])
            zero = torch.zeros(len(rows), 1, dtype=torch.float64, device=rows.device)
            predict = predictor.at(rows, block[rows], zero)
            canvas.write(rows, draft.fill(draft.masked, propose(predict, draft.masked, None)))


def _setting(places: list[dict], name: str):
    """The value of the first of `places` that has one."""
    return next((place[name] for place in places if place.get(name) is not None), None)


assert "custom_generate" in inspect.signature(GenerationMixin.generate).parameters, "transformers >= 5.20 is needed"
