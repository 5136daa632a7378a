"""A cache of a canvas's keys and values during a block: a step then runs only the block's positions."""

from dataclasses import dataclass, field
from typing import Any

import torch

from .canvas_mdlm import Canvas
from .configuration_mdlm import MDLMConfig
from .family_mdlm import family_of
from .offset_mdlm import outputs_for
from .sight_mdlm import Sight, sight_of


@dataclass
class BlockCache:
    """Keys and values of B canvases of L positions.

    The first forward of a block runs the whole canvas and fills the cache; the others run the block's positions, whose own keys
    and values they renew. Exact for a block-causal model (`attention_block_length`) without time conditioning, as nothing
    before the block depends on it; for any other an approximation: Wu et al. 2025, arXiv 2505.22618 (Fast-dLLM's cache of
    prefix and suffix).

    Args:
        model: an `MDLMForMaskedDiffusion`. Its attention must be "sdpa" or "eager", else ValueError.
    """

    model: Any  # MDLMForMaskedDiffusion, whose file imports this one
    canvas: Canvas
    held: torch.Tensor = field(init=False)  # (B,) the block whose keys and values are held, -1 for none
    # Of each layer (B, L, key-value heads, head_dim); made by the first forward, then written in place.
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        attention = self.model.config._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise ValueError(f"prefix_cache=True needs attn_implementation 'sdpa' or 'eager', not {attention!r}")
        self.held = torch.full_like(self.canvas.num_blocks, -1)

    @staticmethod
    def is_exact(config: MDLMConfig) -> bool:
        """Whether the cache of blocks changes nothing for a model of this configuration."""
        told_one_time = config.time_conditioning != "none" and not family_of(config).corruption.tells_noise
        return config.attention_block_length is not None and not told_one_time

    def states(
        self, rows: torch.Tensor, block: torch.Tensor, where: torch.Tensor, times: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Hidden states (N, hidden_size) at the N True positions of `where` (R, L), in row-major order, of `rows` (R,) at
        `block` (R,); `times` holds `timesteps`, (R,) or (R, L), for a time-conditioned model."""
        known = self.held[rows] == block
        parts = []
        for run, chosen in ((self._whole, ~known), (self._window, known)):
            if bool(chosen.any()):
                told = {name: value[chosen] for name, value in times.items()}
                parts.append((chosen, run(rows[chosen], block[chosen], where[chosen], told)))
        if len(parts) == 1:
            return parts[0][1]
        owner = where.nonzero()[:, 0]
        states = parts[0][1].new_empty(len(owner), parts[0][1].shape[-1])
        for chosen, part in parts:
            states[chosen[owner]] = part
        return states

    def _whole(
        self, rows: torch.Tensor, block: torch.Tensor, where: torch.Tensor, times: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        columns = torch.arange(where.shape[1], device=where.device).expand_as(where)
        view = _CacheView(self, rows, columns)
        inputs = self.canvas.inputs(rows, where)
        states = self.model.model(**inputs, **times, positions=_flat(where), block_cache=view).last_hidden_state
        self.held[rows] = block
        return states

    def _window(
        self, rows: torch.Tensor, block: torch.Tensor, where: torch.Tensor, times: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        canvas, config = self.canvas, self.model.config
        inside = (canvas.window[rows] == block[:, None]) & canvas.attended[rows]
        if offset := config.prediction_offset:  # the outputs that are read run, too
            inside = inside | outputs_for(inside, canvas.attended[rows], offset)
        sight = sight_of(
            canvas.position_ids[rows], False, config.attention_block_length, config.max_position_embeddings
        )
        return self._inside(rows, inside, where, sight, times)

    def _inside(
        self,
        rows: torch.Tensor,
        inside: torch.Tensor,
        where: torch.Tensor,
        sight: Sight | None,
        times: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """`states`, running the True positions of `inside` (R, L) only, by a sight of all L."""
        canvas = self.canvas
        width = int(inside.sum(-1).max())
        # Each row's positions from left to right; short rows repeat one of their own, which changes nothing.
        order = (~inside).long().argsort(dim=-1, stable=True)[:, :width]
        columns = torch.where(inside.gather(1, order), order, order[:, :1])
        first = inside.gather(1, order) & where.gather(1, order)
        position_ids = canvas.position_ids[rows]
        return self.model.model(
            input_ids=canvas.tokens[rows].gather(1, columns),
            position_ids=position_ids.gather(1, columns),
            attention_mask=self._mask(canvas.attended[rows], sight, columns),
            **{name: value.gather(1, columns) if value.dim() == 2 else value for name, value in times.items()},
            positions=_flat(first),
            block_cache=_CacheView(self, rows, columns),
        ).last_hidden_state

    def _mask(self, attended: torch.Tensor, sight: Sight | None, columns: torch.Tensor) -> torch.Tensor:
        """(R, 1, W, L) as the attention takes it: which positions each of the window's sees."""
        sees = attended[:, None].expand(-1, columns.shape[1], -1)
        if sight is not None:
            sees = sees & sight.window(columns)
        sees = sees[:, None]
        if self.model.config._attn_implementation == "eager":
            return torch.zeros(sees.shape, dtype=self.model.dtype, device=sees.device).masked_fill(
                ~sees, torch.finfo(self.model.dtype).min
            )
        return sees


@dataclass
class RankCache(BlockCache):
    """The same for a model whose positions see each other in their order of writing (Eso-LM), without blocks, and exact.

    A forward runs what was written since the last one, now as clean tokens, and what is written next; keys and values of all
    that was written before are kept. Nothing else is ever run.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.held = torch.zeros_like(self.canvas.masked)  # (B, L) bool

    def states(
        self, rows: torch.Tensor, block: torch.Tensor, where: torch.Tensor, times: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        ranks = self.canvas.ranks[rows]
        inside = ((ranks >= 0) & ~self.held[rows]) | where
        states = self._inside(rows, inside, where, self.canvas.order.sight_of_writing(ranks, where), times)
        self.held[rows] = ranks >= 0
        return states


@dataclass
class _CacheView:
    """The cache interface for a layer's attention: `columns` (R, W) of `rows` (R,) are written, and the whole rows read."""

    cache: BlockCache
    rows: torch.Tensor
    columns: torch.Tensor

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (R, heads, W, head_dim) of the columns in; those (R, heads, L, head_dim) of all positions out."""
        return self._put(self.cache.keys, keys, layer), self._put(self.cache.values, values, layer)

    def _put(self, store: dict[int, torch.Tensor], new: torch.Tensor, layer: int) -> torch.Tensor:
        _, heads, _, size = new.shape
        if layer not in store:
            store[layer] = new.new_zeros(*self.cache.canvas.tokens.shape, heads, size)
        store[layer][self.rows[:, None], self.columns] = new.transpose(1, 2)
        return store[layer][self.rows].transpose(1, 2)


def _flat(where: torch.Tensor) -> torch.Tensor:
    return where.flatten().nonzero()[:, 0]
