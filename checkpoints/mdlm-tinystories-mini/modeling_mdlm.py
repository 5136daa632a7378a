"""A masked diffusion language model: a bidirectional Llama trunk and a head that never predicts the mask.

Source of the parameterisation: Sahoo et al. 2024, arXiv 2406.07524 (SUBS, NELBO).
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.masking_utils import and_masks, create_bidirectional_mask, packed_sequence_mask_function
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.llama.modeling_llama import LlamaModel, LlamaPreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_mdlm import MDLMConfig
from .generation_mdlm import MDLMGenerationMixin
from .head_loss_mdlm import head_loss
from .last_layer_mdlm import can_select, can_split, last_layer_at, mlp_at
from .schedule_mdlm import get_schedule


@dataclass
class MaskedDiffusionOutput(ModelOutput):
    """What `MDLMForMaskedDiffusion.forward` returns.

    Args:
        loss: scalar, nats a token (see `forward`); with `labels` only.
        logits: (B, L, vocab_size), or (N, vocab_size) at the N asked positions in row-major order; -inf at the mask. None
            where `skip_logits` says so.
        token_nll: (N,) unweighted cross-entropies in nats at the labelled positions; with `labels` only. Without gradient
            where the logits are skipped.
        hidden_states, attentions: as everywhere in transformers.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    token_nll: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class TimeEmbedding(nn.Module):
    """silu(Linear(sinusoid(t))), the arche paper's conditioning (t in [0, 1], unscaled): (B,) -> (B, hidden_size)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size, bias=True)

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        half = self.proj.in_features // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timesteps.device) / half)
        angles = timesteps.float()[:, None] * frequencies[None]
        sinusoid = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return F.silu(self.proj(sinusoid.to(self.proj.weight.dtype)))


class MDLMPreTrainedModel(LlamaPreTrainedModel):
    config_class = MDLMConfig
    config: MDLMConfig


class MDLMModel(MDLMPreTrainedModel, LlamaModel):
    """The trunk: Llama's own layers (attention backends, kernels, checkpointing, weight names) seeing both ways."""

    def __init__(self, config: MDLMConfig):
        super().__init__(config)
        # Llama freezes the pad embedding at zero; here pads fill the tail of the canvas, and are read like any token.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        for layer in self.layers:
            layer.self_attn.is_causal = False
        if config.time_conditioning == "additive":
            self.time_embedding = TimeEmbedding(config.hidden_size)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        timesteps: torch.FloatTensor | None = None,
        positions: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Hidden states (B, L, hidden_size) of the canvas `input_ids` (B, L), or (N, hidden_size) at N `positions` alone, for
        which most of the last layer runs only there: the True ones of (B, L) bool in row-major order, or (N,) indices into
        the B * L, for which a GPU need not be waited for.

        `attention_mask` (B, L) is 0 at padding, on either side; without one, `position_ids` (B, L) that start again say, as
        everywhere in transformers, where another document starts, and nothing is seen across. `timesteps` (B,) in [0, 1] are
        used (and needed) with `time_conditioning="additive"` only. Raises ValueError when they are missing there.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if self.config.time_conditioning == "additive":
            if timesteps is None:
                raise ValueError(
                    "timesteps=None, but this model has time_conditioning='additive': give t of shape (B,)"
                )
            inputs_embeds = inputs_embeds + self.time_embedding(timesteps)[:, None]
        packed = position_ids is not None and attention_mask is None
        if position_ids is None:
            position_ids = positions_from_mask(attention_mask, inputs_embeds)
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            and_mask_function=self._sees(position_ids.expand(len(inputs_embeds), -1), packed),
        )
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids=position_ids)
        layers = self.layers[: self.config.num_hidden_layers]
        indexed = positions is not None and positions.dtype != torch.bool
        selects = positions is not None and (can_split if indexed else can_select)(layers[-1], **kwargs)
        inputs = {"attention_mask": mask, "position_embeddings": position_embeddings, "position_ids": position_ids}
        for layer in layers[:-1] if selects else layers:
            hidden_states = layer(hidden_states, **inputs, **kwargs)
        if selects and indexed:
            hidden_states = mlp_at(layers[-1], hidden_states, positions, **inputs, **kwargs)
        elif selects:
            hidden_states = last_layer_at(layers[-1], hidden_states, positions, mask, position_embeddings)
        elif positions is not None:
            hidden_states = _at(hidden_states, positions)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))

    def _sees(self, position_ids: torch.Tensor, packed: bool):
        """The mask function, for positions (B, L), of packed documents and of blocks; None where everything sees everything."""
        rules = []
        if packed:
            rules.append(packed_sequence_mask_function(documents_of(position_ids)))
        if self.config.attention_block_length is not None:
            block = position_ids // self.config.attention_block_length
            rules.append(lambda row, head, query, key: block[row, key] <= block[row, query])
        return and_masks(*rules) if rules else None


def positions_from_mask(attention_mask: torch.Tensor | None, inputs_embeds: torch.Tensor) -> torch.Tensor:
    """Position ids (B, L) or (1, L) that count real tokens only, so that left padding shifts nothing."""
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def documents_of(position_ids: torch.Tensor) -> torch.Tensor:
    """Which document of its row each position (B, L) belongs to: another one begins where `position_ids` do not go on."""
    return (position_ids.diff(dim=-1, prepend=position_ids[:, :1] - 1) != 1).cumsum(-1)


class MDLMForMaskedDiffusion(MDLMGenerationMixin, MDLMPreTrainedModel):
    """The trunk with a language-modelling head under the SUBS parameterisation."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: MDLMConfig):
        super().__init__(config)
        self.model = MDLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.output_vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        timesteps: torch.FloatTensor | None = None,
        positions: torch.Tensor | None = None,
        label_positions: torch.LongTensor | None = None,
        loss_weights: torch.FloatTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        skip_logits: bool | None = None,
        **kwargs,
    ) -> MaskedDiffusionOutput:
        """Predict the clean tokens of a corrupted canvas; the head runs only where it is asked to.

        Args:
            input_ids: (B, L), the canvas, with `mask_token_id` at corrupted positions.
            attention_mask: (B, L), 0 at padding; either side.
            labels: (B, L), clean tokens where the loss is wanted, -100 elsewhere.
            timesteps: (B,) in (0, 1]; conditions the model where it is conditioned, and weights the default loss.
            positions: where logits are wanted, (B, L) bool or (N,) indices into the B * L; default all, or where `labels` are
                not -100.
            label_positions: (N,) indices into the B * L of each labelled position once and of any number of others, which
                count for nothing. Given by who made the batch, it saves a GPU the wait for their number, and N can be one
                of a few sizes.
            loss_weights: (B,) or (B, L), a factor for each cross-entropy. Default: the NELBO weight w(t) of the
                config's noise schedule where `timesteps` are given, else 1.
            num_items_in_batch: what the loss is divided by. Default: with `timesteps`, all attended tokens (the NELBO
                can then stand beside an AR NLL); without, the labelled ones (a plain masked-LM loss).
            skip_logits: with `labels`, compute the loss in chunks without ever holding all logits, and return none
                (`head_loss`). Default: in training mode.

        Returns:
            MaskedDiffusionOutput. Raises ValueError for both `labels` and `positions`, or shapes that do not fit.
        """
        if labels is not None and positions is not None:
            raise ValueError("give labels or positions, not both: labels say where the head runs")
        if labels is not None:
            positions = labels != -100 if label_positions is None else label_positions
        canvas = input_ids if input_ids is not None else inputs_embeds
        where = labels if labels is not None else positions
        a_row_each = labels is not None or (where is not None and where.dtype == torch.bool)
        if a_row_each and canvas is not None and where.shape != canvas.shape[:2]:
            raise ValueError(f"positions or labels of shape {tuple(where.shape)} do not fit {tuple(canvas.shape[:2])}")
        hidden = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            timesteps=timesteps,
            positions=positions,
            **kwargs,
        )
        states, loss, logits, token_nll = hidden.last_hidden_state, None, None, None
        if labels is not None:
            weights = self._weights(labels != -100, timesteps, attention_mask, loss_weights, num_items_in_batch)
            factors, targets = _at(weights, positions), _at(labels, positions).clamp(min=0)
            if self.training if skip_logits is None else skip_logits:
                mask_id = self.config.mask_token_id
                loss, token_nll = head_loss(states, self.lm_head.weight, targets, factors, mask_id)
            else:
                logits = self.subs_logits(states)
                token_nll = F.cross_entropy(logits.float(), targets, reduction="none")
                loss = (token_nll * factors).sum()
        else:
            logits = self.subs_logits(states)
        return MaskedDiffusionOutput(loss, logits, token_nll, hidden.hidden_states, hidden.attentions)

    def subs_logits(self, states: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Head over (..., hidden_size) states: (..., vocab_size) logits, -inf at the mask and past a narrow head.

        `out` (n, output_vocab_size) takes the product of (n, hidden_size) states, without gradients and with the plain head.
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

    def _weights(self, labelled, timesteps, attention_mask, loss_weights, num_items_in_batch) -> torch.Tensor:
        """(B, L) float32, the factor of the loss for each position's cross-entropy; 0 where `labelled` (B, L) is False."""
        if num_items_in_batch is None:
            if timesteps is None:
                num_items_in_batch = labelled.sum().clamp(min=1)
            else:
                num_items_in_batch = labelled.numel() if attention_mask is None else attention_mask.sum()
        if loss_weights is None and timesteps is not None:
            loss_weights = get_schedule(self.config.noise_schedule).weight(timesteps)
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
