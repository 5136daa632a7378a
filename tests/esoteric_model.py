"""A tiny Eso-LM with random weights, and one whose predictions are a table: a wrong denoiser each."""

import torch
from exact_model import ExactTrunk
from oracles.tables import TableLanguage
from torch.nn import functional as F

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.sight_mdlm import Sight

BOS, PAD, MASK, LENGTH = 3, 4, 5, 3  # tokens 0 to 2; rows of a BOS and three tokens


def build(alpha_0: float, **changes) -> MDLMForMaskedDiffusion:
    """The same weights for every share."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MDLMConfig(
        vocab_size=6, mask_token_id=MASK, bos_token_id=BOS, pad_token_id=PAD, max_position_embeddings=16,
        initializer_range=0.6, **sizes, **{"diffusion": "eso", "alpha_0": alpha_0} | changes,
    )  # fmt: skip
    return MDLMForMaskedDiffusion(config).eval()


def in_order(model, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (B, N, V) at N places (B, N) that are read one after another, each seeing those before it."""
    index = torch.arange(places.shape[1]).expand_as(places)
    causal = Sight(*(torch.zeros_like(index), *(index.clone() for _ in range(3))))
    return model(input_ids=tokens, position_ids=places, sight=causal).logits.log_softmax(-1)


class WrongTrunk(ExactTrunk):
    """Depends on the known tokens only, and is the posterior of another language."""

    def forward(self, input_ids, **kwargs):
        canvas = input_ids[:, : self.language.length + 1]
        output = super().forward(canvas)
        states = F.pad(output.last_hidden_state, (0, 0, 0, input_ids.shape[1] - canvas.shape[1]))
        positions = kwargs.get("positions")
        output.last_hidden_state = states if positions is None else states[positions]
        return output


def table_model(alpha_0: float = 1.0, **changes) -> MDLMForMaskedDiffusion:
    model = build(alpha_0, **changes)
    model.model, model.lm_head = WrongTrunk(TableLanguage.random(3, LENGTH, seed=5), model.config), torch.nn.Identity()
    model.subs_logits = lambda states: states
    return model
