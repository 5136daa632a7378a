"""`generate` for masked diffusion: transformers' own front door, and a denoising loop behind it."""

import copy
import inspect
from dataclasses import dataclass
from functools import partial

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.generation import TemperatureLogitsWarper
from transformers.utils import ModelOutput

from .canvas_mdlm import Canvas
from .noise_mdlm import RowNoise, draw_seeds
from .samplers_mdlm import get_sampler
from .streaming_mdlm import CanvasStream

# What stock `generate` would take and then ignore, or do wrongly on a canvas: option, its neutral values.
_UNSUPPORTED = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None,),
    "guidance_scale": (None, 1, 1.0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "prompt_lookup_num_tokens": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "begin_suppress_tokens": (None,),
    "exponential_decay_length_penalty": (None,),
    "sequence_bias": (None,),
    "watermarking_config": (None,),
    "stop_strings": (None,),
    "token_healing": (None, False),
    "output_scores": (None, False),
    "output_logits": (None, False),
}
_UNSUPPORTED_ARGUMENTS = (
    "assistant_model", "prefix_allowed_tokens_fn", "negative_prompt_ids", "negative_prompt_attention_mask",
    "inputs_embeds", "past_key_values",
)  # fmt: skip


class MDLMGenerationConfig(GenerationConfig):
    """A `GenerationConfig` with `num_diffusion_steps` (default: the model config's) and `sampler` (`"ancestral"`)."""

    def __init__(self, **kwargs):
        self.num_diffusion_steps = kwargs.pop("num_diffusion_steps", None)
        self.sampler = kwargs.pop("sampler", "ancestral")
        super().__init__(**kwargs)

    @classmethod
    def from_model_config(cls, model_config):
        # transformers catches this and takes the class's defaults: a model config holds no generation settings.
        raise NotImplementedError("a masked diffusion model's config holds no generation settings")


@dataclass
class MDLMGenerationOutput(ModelOutput):
    """What `generate(return_dict_in_generate=True)` returns.

    Args:
        sequences: (B, L) prompts and what was written, pads after the first EOS.
        num_forward_passes: (B,) forwards of the model that each row was part of.
        tokens_per_forward: (B,) positions filled over forwards, float; 0 for a row that needed none.
    """

    sequences: torch.LongTensor | None = None
    num_forward_passes: torch.LongTensor | None = None
    tokens_per_forward: torch.FloatTensor | None = None


class MDLMGenerationMixin(GenerationMixin):
    """`GenerationMixin` whose decoding is the denoising of a canvas."""

    generation_config_class = MDLMGenerationConfig

    @torch.no_grad()
    def generate(
        self, inputs=None, generation_config=None, stopping_criteria=None, streamer=None, generator=None, **kwargs
    ):
        """Write text, or fill the masks inside it.

        Args:
            inputs, input_ids: (B, P) prompts, padded on either side with `attention_mask` 0; masks in them are filled
                too. None: the empty prompt, a BOS.
            generation_config, logits_processor, kwargs: as everywhere in transformers; `num_diffusion_steps` and
                `sampler` beside. `max_new_tokens=0` fills only the masks of the prompt. With `max_length`, or the
                default length, each row is filled up to that many tokens of its own, padding not counted.
            stopping_criteria: called with the canvases (B, L) after each step; a row that stops is left as it is.
            streamer: `TextStreamer` (finished text, left to right) or `TextDiffusionStreamer` (the whole canvas).
            generator: None, a `torch.Generator`, or a list of one a row, `num_return_sequences` counted. A row's text
                depends on its own seed only. With `do_sample=False` and no generator the result is deterministic.

        Returns:
            (B * num_return_sequences, L) token ids, or `MDLMGenerationOutput`. ValueError for a length that does not fit
            the context, an unknown sampler, and options that have no meaning for a diffusion model.

        Source: Sahoo et al. 2024, arXiv 2406.07524; the samplers name theirs.
        """
        config = copy.deepcopy(generation_config) if generation_config is not None else self.generation_config_class()
        input_ids = inputs if inputs is not None else kwargs.get("input_ids")
        new_tokens = self._resolve_lengths(config, kwargs, input_ids, explicit=generation_config is not None)
        self._refuse_unsupported(config, kwargs)
        self._check_sampling(config if generation_config is not None else self.generation_config, kwargs)
        # Bound here: generate drops a streamer for custom loops, and its own stopping criteria count positions.
        loop = partial(
            type(self)._denoise, new_tokens=new_tokens, criteria=stopping_criteria, stream=streamer, generator=generator
        )
        if generation_config is None:
            config = None
        return super().generate(inputs=inputs, generation_config=config, custom_generate=loop, **kwargs)

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

    def _refuse_unsupported(self, config, kwargs) -> None:
        for name in _UNSUPPORTED_ARGUMENTS:
            if kwargs.get(name) is not None:
                raise ValueError(f"{name} is not supported by masked diffusion generation")
        for name, neutral in _UNSUPPORTED.items():
            value = kwargs.get(name, getattr(config, name, None))
            if value not in neutral:
                raise ValueError(f"{name}={value!r} is not supported by masked diffusion generation; leave it out")
        bad_words = kwargs.get("bad_words_ids", config.bad_words_ids) or []
        if any(len(words) > 1 for words in bad_words):
            raise ValueError("bad_words_ids of several tokens are not supported: a canvas is not filled left to right")

    @staticmethod
    def _check_sampling(config, kwargs) -> None:
        """What transformers would ignore: top_p outside (0, 1], and a temperature where nothing is drawn."""
        top_p = kwargs.get("top_p", config.top_p)
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p={top_p!r} must be above 0 and at most 1")
        temperature = kwargs.get("temperature", config.temperature)
        if temperature is not None and temperature <= 0:
            raise ValueError(
                f"temperature={temperature!r} must be above 0; for the most probable tokens give do_sample=False instead"
            )

    def _validate_generated_length(self, generation_config, input_ids_length, has_default_max_length):
        """Lengths were resolved, and are checked a row at a time, in `Canvas.build`."""

    def _prepare_cache_for_generation(self, *args, **kwargs):
        """No cache: every forward sees a changed canvas."""

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        return None  # the canvas counts its own

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

    def _denoise(self, input_ids, logits_processor, generation_config, *, new_tokens, criteria, stream, generator,
                 stopping_criteria=None, **model_kwargs):  # fmt: skip
        """Fill a canvas over `num_diffusion_steps` steps from t = 1 to t = 0; see `generate`.

        The attention mask stays in `model_kwargs`: transformers would pass a named one twice.
        """
        # 1. settings
        steps = generation_config.num_diffusion_steps
        steps = self.config.num_diffusion_steps if steps is None else steps
        if int(steps) != steps or steps < 1:
            raise ValueError(
                f"num_diffusion_steps={generation_config.num_diffusion_steps} must be an integer of at least 1"
            )
        sampler = get_sampler(generation_config.sampler or "ancestral").from_config(generation_config, self.config)
        if sampler.anneals_temperature:
            logits_processor = type(logits_processor)(
                p for p in logits_processor if not isinstance(p, TemperatureLogitsWarper)
            )
        # 2. canvas and streams
        canvas = Canvas.build(self.config, generation_config, input_ids, model_kwargs.get("attention_mask"), new_tokens)
        if generator is None and not sampler.do_sample:
            seeds = torch.zeros(len(input_ids), dtype=torch.int64)
        else:
            seeds = draw_seeds(generator, len(input_ids))
        seeds = seeds.to(canvas.tokens.device)
        if stream is not None:
            if len(canvas.tokens) > 1:
                raise ValueError(f"a streamer shows one row, but there are {len(canvas.tokens)}")
            stream = CanvasStream(stream, canvas)
        # 3. from noise to text
        for step in range(int(steps)):
            rows = canvas.open_rows()
            if not len(rows):
                break
            t, s = 1 - step / steps, 1 - (step + 1) / steps
            noise = RowNoise(seeds[rows], canvas.position_ids[rows], step)
            predict = partial(self._predict, canvas, rows, logits_processor, t)
            canvas.write(rows, sampler.step(predict, canvas.tokens[rows], canvas.masked[rows], t, s, noise))
            if criteria is not None:
                canvas.stop(rows[criteria(canvas.tokens[rows], None).to(rows.device)])
            if stream is not None:
                stream(canvas)
        # 4. what a sampler left open is filled with the most probable tokens at t = 0
        rows = canvas.open_rows()
        if len(rows):
            masked = canvas.masked[rows]
            best = self._predict(canvas, rows, logits_processor, 0.0, masked).argmax(-1)
            canvas.write(rows, canvas.tokens[rows].masked_scatter(masked, best))
        # 5. text
        sequences = canvas.finish()
        if stream is not None:
            stream.end(sequences)
        if not generation_config.return_dict_in_generate:
            return sequences
        return MDLMGenerationOutput(
            sequences, canvas.num_forwards, canvas.num_filled / canvas.num_forwards.clamp(min=1)
        )

    def _predict(self, canvas: Canvas, rows, logits_processor, t: float, where: torch.Tensor) -> torch.Tensor:
        """Processed logits (N, V), float64, at the True positions of `where` (len(rows), L); other rows are not run."""
        needed = where.any(-1)
        run, where = rows[needed], where[needed]
        tokens = canvas.tokens[run]
        extra = {}
        if self.config.time_conditioning != "none":
            extra["timesteps"] = torch.full((len(run),), t, device=tokens.device)
        logits = self(
            input_ids=tokens,
            attention_mask=canvas.model_mask(run),
            position_ids=canvas.position_ids[run],
            positions=where,
            **extra,
        ).logits
        canvas.num_forwards[run] += 1
        # Processors expect one sequence a row of logits: each position comes with its row's canvas.
        logits = logits.to(torch.float64)
        return logits_processor(tokens[where.nonzero()[:, 0]], logits) if logits_processor else logits


assert "custom_generate" in inspect.signature(GenerationMixin.generate).parameters, "transformers >= 5.17 is needed"
