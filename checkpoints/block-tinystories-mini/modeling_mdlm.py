"""A masked diffusion language model: a bidirectional Llama trunk and a head that never predicts the mask.

Source of the parameterisation: Sahoo et al. 2024, arXiv 2406.07524 (SUBS, NELBO).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.llama.modeling_llama import LlamaModel, LlamaPreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention_mdlm import fit_attention, flex_stance
from .checks_mdlm import check_attention, check_inputs
from .configuration_mdlm import MDLMConfig
from .family_mdlm import family_of
from .gaussian_mdlm import embed
from .generation_mdlm import MDLMGenerationMixin
from .head_loss_mdlm import module_loss
from .last_layer_mdlm import CACHE_ARGUMENT, last_layer
from .offset_mdlm import check_predictable, predicting_states
from .sight_mdlm import Pairs, Sight, positions_from_mask, sight_from, sight_of
from .time_embedding_mdlm import TimeEmbedding, check_embedding, embed_times, make_embedding
from .token_loss_mdlm import TokenLoss


@dataclass
class MaskedDiffusionOutput(ModelOutput):
    """What `MDLMForMaskedDiffusion.forward` returns.

    Args:
        loss (`torch.Tensor`, scalar): nats a token (see `forward`); with `labels` only.
        logits (`torch.Tensor`, (B, L, vocab_size) or (N, vocab_size) at N `positions`): -inf at the mask. None with
            `skip_logits`.
        token_nll (`torch.Tensor`, (N,)): unweighted cross-entropies in nats at the labelled positions, or at the `positions`
            given with `labels`; with `labels` only. Without gradient where the logits are skipped.
        hidden_states, attentions: as everywhere in transformers.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    token_nll: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class MDLMPreTrainedModel(LlamaPreTrainedModel):
    config_class = MDLMConfig
    config: MDLMConfig

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As everywhere in transformers; ValueError for a checkpoint without the embedding of times that its config names."""
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        check_embedding(model.config, info["missing_keys"])
        return (model, info) if output_loading_info else model

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As everywhere in transformers; the head keeps up. ValueError where the mask token would be cut off."""
        mask_id = self.config.mask_token_id
        if new_num_tokens is not None and new_num_tokens <= mask_id:
            raise ValueError(f"new_num_tokens={new_num_tokens} cuts off the mask token, id {mask_id}")
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        head = self.get_output_embeddings()
        self.config.output_vocab_size = self.config.vocab_size if head is None else head.out_features
        return embeddings


class MDLMModel(MDLMPreTrainedModel, LlamaModel):
    """The trunk: Llama's layers (attention backends, kernels, checkpointing, weight names) with bidirectional attention."""

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__(config)
        # Llama freezes the pad embedding at zero; here pads fill the tail of the canvas, and are read like any token.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        for number, layer in enumerate(self.layers):
            fit_attention(layer, number, config)
            layer.self_attn.is_causal = False  # type: ignore[union-attr]  # mypy sees only a ModuleList
        if config.time_conditioning != "none":
            self.time_embedding = make_embedding(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        timesteps: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        sight: Sight | Pairs | torch.Tensor | None = None,
        block_cache: Any = None,
        mixture_ids: torch.Tensor | None = None,
        mixture_weights: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Hidden states of a canvas, or of some of its positions.

        Args:
            input_ids (`torch.LongTensor`, (B, L)): the canvas, with `mask_token_id` at unfilled positions.
            attention_mask (`torch.Tensor`, (B, L), *optional*): 0 at padding, on either side.
            position_ids (`torch.LongTensor`, (B, L), *optional*): without `attention_mask`, a new document begins where
                they restart, and attention stays inside a document. Default: real tokens are counted from 0.
            inputs_embeds (`torch.Tensor`, (B, L, hidden_size)): used instead of `input_ids`.
            timesteps (`torch.Tensor`, (B,) or (B, L)): t in [0, 1], per row or per position; needed and used only by a model with
                `time_conditioning`.
            positions (`torch.Tensor`, *optional*): (B, L) bool, or (N,) flat indices into the B * L: most of the last layer
                runs only there. Indices may have any order; with them a GPU does not have to be synchronised.
            sight (`Sight`, or its numbers as (B, 4, L), or all pairs as (B or 1, L, L) bool, *optional*): the attention mask. Default: the
                documents given by `position_ids`, and the blocks of `attention_block_length`; with `diffusion="eso"`, given tokens from
                left to right, then masked ones. If it is set, `position_ids` and blocks have no effect on attention.
            block_cache (*optional*): the cache that `BlockCache` passes to the layers.
            mixture_ids (`torch.LongTensor`, (B, L, K), *optional*): with `mixture_weights`: use weighted means of the embeddings of K
                tokens instead of the embeddings of `input_ids`.
            mixture_weights (`torch.Tensor`, (B, L, K), *optional*): the weights of the tokens in the means.

        Returns:
            `BaseModelOutput` with `last_hidden_state` of shape (B, L, hidden_size), or (N, hidden_size) at N `positions`:
            in row-major order for bool, in the given order for indices. With `prediction_offset` 1 these are the states that predict
            the positions, from one position before (`predicting_states`).

        Raises:
            ValueError: if both or none of `input_ids` and `inputs_embeds` are given, if `timesteps` are missing, and with
                `prediction_offset` 1 if one of the bool `positions` has no position before it.

        Example:

        ```python
        >>> import torch
        >>> from arche_mdlm import MDLMConfig, MDLMModel
        >>> sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        >>> trunk = MDLMModel(MDLMConfig(vocab_size=32, mask_token_id=31, **sizes)).eval()
        >>> canvas = torch.tensor([[5, 31, 31, 7]])
        >>> trunk(canvas).last_hidden_state.shape
        torch.Size([1, 4, 16])
        >>> trunk(canvas, positions=canvas == 31).last_hidden_state.shape
        torch.Size([2, 16])

        ```
        """
        check_predictable(self.config, positions, attention_mask, position_ids if sight is None else None)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = embed(self.embed_tokens, input_ids, mixture_ids, mixture_weights)
        if self.config.time_conditioning != "none":
            inputs_embeds = inputs_embeds + embed_times(
                self.time_embedding, self.config, timesteps, inputs_embeds.dtype
            )
        packed = position_ids is not None and attention_mask is None
        if position_ids is None:
            position_ids = positions_from_mask(attention_mask, inputs_embeds)
        if isinstance(sight, torch.Tensor):
            sight = sight_from(sight)
        if sight is None:
            sight = self._own_sight(input_ids, attention_mask)
        by_documents = sight is None and packed and self.config.attention_block_length is None
        if sight is None:
            rows = position_ids.expand(inputs_embeds.shape[0], -1)
            context = self.config.max_position_embeddings
            sight = sight_of(rows, packed, self.config.attention_block_length, context)
        check_attention(self.config, sight, inputs_embeds.shape[0], by_documents)
        with flex_stance(self.config, inputs_embeds.device):
            mask: Any = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                and_mask_function=None if sight is None else sight.mask_function(),
            )
            hidden_states = inputs_embeds
            inputs: dict[str, Any] = kwargs | {
                "attention_mask": mask,
                "position_embeddings": self.rotary_emb(hidden_states, position_ids=position_ids),
                "position_ids": position_ids,
            }
            if block_cache is not None:  # wants the keys and values of all layers
                inputs[CACHE_ARGUMENT] = block_cache
            *layers, last = self.layers[: self.config.num_hidden_layers]
            for layer in layers:
                hidden_states = layer(hidden_states, **inputs)
            at = partial(last_layer, last, hidden_states, **inputs)
            hidden_states = predicting_states(at, positions, attention_mask, self.config.prediction_offset)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))

    def _own_sight(self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None) -> Sight | None:
        """That of the model's order, where it has one of its own."""
        order = family_of(self.config).order
        if not order.has_ranks or (attention_mask is not None and attention_mask.dim() == 4):  # says all of it
            return None
        if input_ids is None:
            raise ValueError("inputs_embeds without sight: what a position sees depends on what is masked; give sight")
        attended = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return order.sight(input_ids == self.config.mask_token_id, attended.bool())


class MDLMForMaskedDiffusion(MDLMGenerationMixin, MDLMPreTrainedModel):  # type: ignore[misc]  # the mixin's classes are narrower
    """The trunk with a language-modelling head under the SUBS parameterisation."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}
    # The stock Trainer would count labelled tokens for `num_items_in_batch`; the NELBO is divided by all tokens.
    accepts_loss_kwargs = False

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__(config)
        self.model = MDLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.output_vocab_size or config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        timesteps: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        objective: str | TokenLoss = "nelbo",
        skip_logits: bool | None = None,
        **kwargs: Any,
    ) -> MaskedDiffusionOutput:
        """Predict the clean tokens of a corrupted canvas.

        Args:
            input_ids (`torch.LongTensor`, (B, L)): the canvas, with `mask_token_id` at corrupted positions.
            attention_mask (`torch.Tensor`, (B, L), *optional*): 0 at padding, on either side.
            position_ids (`torch.LongTensor`, (B, L), *optional*): as in `MDLMModel.forward`.
            inputs_embeds (`torch.Tensor`, (B, L, hidden_size)): used instead of `input_ids`.
            labels (`torch.LongTensor`, (B, L), *optional*): clean tokens at positions with a loss, -100 elsewhere. With masked
                noise at least one labelled position must be masked in `input_ids`.
            timesteps (`torch.Tensor`, (B,) or (B, L), *optional*): t in (0, 1], 0 at given positions; used by a
                time-conditioned model, by the loss of uniform noise, and to weight the default loss.
            positions (`torch.Tensor`, *optional*): positions to compute logits at, (B, L) bool or (N,) indices into the B * L.
                Default: all. With `labels` they must include the labelled positions; others do not affect the loss.
                With indices a GPU does not have to be synchronised.
            loss_weights (`torch.Tensor`, (B,) or (B, L), *optional*): a factor for each position's loss. Default: the weight of
                the NELBO if `timesteps` are given (masked noise: w(t) of the noise schedule), else 1.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*): number of tokens to divide the loss by. Default: with
                `timesteps` all attended ones (the NELBO, comparable with an AR NLL), else the labelled ones.
            objective (`str` or `TokenLoss`, defaults to `"nelbo"`): the loss at a labelled position (`Corruption.objectives`), or
                the losses of the N scored positions, in their order.
            skip_logits (`bool`, *optional*): with `labels`, compute the loss in chunks and return no logits
                (`module_loss`). Default: in training mode.

        Returns:
            `MaskedDiffusionOutput`: `loss` in nats a token, `logits`, `token_nll`.

        Raises:
            ValueError: if shapes do not fit, no labelled position is masked, or weights have no labels, and in the cases of
                `MDLMModel.forward`.

        Source: Sahoo et al. 2024, arXiv 2406.07524, eq. 10 (NELBO).

        Example:

        ```python
        >>> import torch
        >>> from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
        >>> sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        >>> model = MDLMForMaskedDiffusion(MDLMConfig(vocab_size=32, mask_token_id=31, **sizes))
        >>> clean, canvas = torch.tensor([[5, 6, 8, 7]]), torch.tensor([[5, 31, 31, 7]])
        >>> labels = clean.masked_fill(canvas != 31, -100)
        >>> output = model(canvas, labels=labels, timesteps=torch.tensor([0.5]))
        >>> output.loss.backward()
        >>> output.token_nll.shape
        torch.Size([2])
        >>> model.eval()(canvas).logits.shape
        torch.Size([1, 4, 32])

        ```
        """
        check_inputs(self, input_ids, inputs_embeds, labels, positions, timesteps, loss_weights)
        skips = labels is not None and (self.training if skip_logits is None else skip_logits)
        labelled = None if labels is None else labels.ne(-100)
        if positions is None:
            check_predictable(self.config, labelled, attention_mask, position_ids)
            positions = labelled if skips else None
        hidden = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            timesteps=timesteps,
            positions=positions,
            **kwargs,
        )
        states, loss, token_nll = hidden.last_hidden_state, None, None
        logits = None if skips else self.subs_logits(states)
        if labels is not None and labelled is not None:
            scored = labelled if positions is None else positions
            token_loss = self._token_loss(scored, labels, input_ids, timesteps, objective).to(states.device)
            weights = self._weights(labelled, timesteps, attention_mask, loss_weights, num_items_in_batch)
            factors = _at(weights, scored).to(states.device)
            if logits is None:
                loss, token_nll = module_loss(self.lm_head, states, token_loss, factors)
            else:
                chosen = _at(logits, scored) if positions is None else logits
                token_nll = token_loss.plain(chosen.float())
                loss = (token_nll * factors).sum()
        return MaskedDiffusionOutput(loss, logits, token_nll, hidden.hidden_states, hidden.attentions)

    def subs_logits(self, states: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Head over (..., hidden_size) states: (..., vocab_size) logits, -inf at the mask and past a narrow head.

        The logits of (n, hidden_size) states are written to `out` (n, output_vocab_size), if given; this needs a plain head
        (`is_plain`) and no gradients.
        """
        logits = self.lm_head(states) if out is None else torch.mm(states, self.lm_head.weight.T, out=out)
        missing = self.config.vocab_size - logits.shape[-1]
        if missing:
            logits = F.pad(logits, (0, missing), value=-torch.inf)
        if not torch.is_grad_enabled():  # in place: a second copy of all logits is the most expensive thing here
            logits[..., self.config.mask_token_id] = -torch.inf
            return logits
        forbidden = torch.arange(logits.shape[-1], device=logits.device) == self.config.mask_token_id
        return logits.masked_fill(forbidden, -torch.inf)

    def _token_loss(
        self,
        scored: torch.Tensor,
        labels: torch.Tensor,
        input_ids: torch.Tensor | None,
        timesteps: torch.Tensor | None,
        objective: str | TokenLoss,
    ) -> TokenLoss:
        """The losses at N `scored` positions."""
        if isinstance(objective, TokenLoss):
            return objective
        family, rates = family_of(self.config), None
        if input_ids is None and family.corruption.tells_noise:
            raise ValueError(
                "inputs_embeds with labels: the loss of uniform noise needs the noisy tokens; give input_ids"
            )
        noisy = labels if input_ids is None else input_ids
        if timesteps is not None and family.corruption.tells_noise:
            times = timesteps if timesteps.dim() == 2 else timesteps[:, None]
            rates = _at(family.schedule.mask_rate(times).expand(labels.shape), scored)
        return family.corruption.token_loss(_at(labels, scored).clamp(min=0), _at(noisy, scored), rates, objective)

    def _weights(
        self,
        labelled: torch.Tensor,
        timesteps: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        loss_weights: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """(B, L) float32, the factor of the loss for each position's cross-entropy; 0 where `labelled` (B, L) is False."""
        if num_items_in_batch is None:
            if timesteps is None:
                num_items_in_batch = labelled.sum().clamp(min=1)
            else:
                num_items_in_batch = labelled.numel() if attention_mask is None else attention_mask.sum()
        if loss_weights is None and timesteps is not None:
            family = family_of(self.config)
            loss_weights = family.corruption.bound_weights(family.schedule, timesteps)
        if loss_weights is None:
            loss_weights = torch.ones((), device=labelled.device)
        elif loss_weights.dim() == 1:
            loss_weights = loss_weights[:, None]
        return torch.where(labelled, loss_weights.float() / num_items_in_batch, 0.0)


def _at(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """`values` (B, L, ...) at `positions`, (B, L) bool or (N,) flat indices: (N, ...)."""
    return values[positions] if positions.dtype == torch.bool else values.flatten(0, 1)[positions]


# Makes save_pretrained copy the code beside the weights; the config's own auto_map names the rest of the classes.
MDLMModel.register_for_auto_class("AutoModel")
MDLMForMaskedDiffusion.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["MDLMForMaskedDiffusion", "MDLMModel", "MDLMPreTrainedModel", "MaskedDiffusionOutput", "TimeEmbedding"]
