"""The canvas: prompts and masks of a batch, what has been filled, and which rows are done.

A sampler gets a `Draft` of some rows and fills it with a `Proposal`; a `Timetable` says which block and times a row is at.
"""

from dataclasses import dataclass, replace

import torch
from transformers import GenerationConfig

from .canvas_layout_mdlm import aligned_blocks, even_blocks, least_tokens, new_tokens_per_row
from .configuration_mdlm import MDLMConfig
from .corruption_mdlm import Corruption
from .esoteric_mdlm import next_ranks
from .family_mdlm import family_of
from .noise_mdlm import RowNoise
from .offset_mdlm import check_predictable
from .order_mdlm import Order
from .precision_mdlm import finest, refined
from .schedule_mdlm import NoiseSchedule
from .sight_mdlm import real_positions

_PRIOR = 4  # the purpose of the noise that a canvas starts from


@dataclass(frozen=True)
class Proposal:
    """One token for each of N positions.

    Args:
        tokens: (N,) int64.
        confidence: (N,) float64, the model's probability of the token, before temperature, top-p and other processors.
        margin: (N,) float64, probability of the most probable token less that of the second; where asked for.
        entropy: (N,) float64, nats, of the model's distribution; where asked for.
        standing: (N,) float64, the probability, after processors, of the token that stands there; where asked for.
    """

    tokens: torch.Tensor
    confidence: torch.Tensor
    margin: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    standing: torch.Tensor | None = None

    def select(self, chosen: torch.Tensor) -> "Proposal":
        """The part of it at `chosen` (N,) bool."""
        return Proposal(self.tokens[chosen], self.confidence[chosen])


@dataclass(frozen=True)
class Draft:
    """B canvases of L positions at one moment; its methods give a new one.

    Args:
        tokens: (B, L); with masked noise `mask_token_id` at unfilled positions, including later blocks and padding.
        masked: (B, L) bool, positions of the current block that are not settled: those with a mask, or with uniform noise all that
            are written.
        fillable: (B, L) bool, positions of the current block that were masked at the start, settled by now or not.
        confidence: (B, L) float64, the probability that each token had when it was put there.
    """

    tokens: torch.Tensor
    masked: torch.Tensor
    fillable: torch.Tensor
    confidence: torch.Tensor
    mask_token_id: int

    def fill(self, chosen: torch.Tensor, proposal: Proposal) -> "Draft":
        """Put a proposal's N tokens, in row-major order, on the True positions of `chosen` (B, L), of which there are N."""
        return replace(
            self,
            tokens=self.tokens.masked_scatter(chosen, proposal.tokens),
            confidence=self.confidence.masked_scatter(chosen, proposal.confidence),
            masked=self.masked & ~chosen,
        )

    def remask(self, chosen: torch.Tensor) -> "Draft":
        """Mask the True positions of `chosen` (B, L) again."""
        return replace(
            self,
            tokens=self.tokens.masked_fill(chosen, self.mask_token_id),
            confidence=self.confidence.masked_fill(chosen, 0.0),
            masked=self.masked | chosen,
        )

    def put(self, chosen: torch.Tensor, tokens: torch.Tensor) -> "Draft":
        """Exchange the tokens at the True positions of `chosen` (B, L), of which there are N, for `tokens` (N,), and settle none."""
        return replace(self, tokens=self.tokens.masked_scatter(chosen, tokens))

    def settle(self, rows: torch.Tensor) -> "Draft":
        """Leave the tokens of the True `rows` (B, 1) as they are from here on."""
        return replace(self, masked=self.masked & ~rows)


@dataclass(frozen=True)
class Timetable:
    """Shares each row's steps out over its blocks, left to right; in a block, t falls from 1 to 0 on an even grid.

    A row's times depend on its own numbers only, not on its batch.

    Args:
        steps: (B,) denoising steps, raised to one a block.
        num_blocks: (B,) at least 1.
    """

    steps: torch.Tensor
    num_blocks: torch.Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", self.steps.maximum(self.num_blocks))

    @property
    def total(self) -> int:
        """Steps of the row that has most."""
        return int(self.steps.max())

    def at(self, step: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Block (B,), `num_blocks` for a row that is through, and the times t > s, each (B, 1), float64, of a step; of steps
        (K, 1), all of them with a dimension K in front."""
        block = ((step + 1) * self.num_blocks - 1) // self.steps
        first, behind = self._start(block), self._start(block + 1)
        length = refined(behind - first)
        t = 1 - (step - first) / length
        s = 1 - (step + 1 - first) / length
        return block, t[..., None], s[..., None]

    def _start(self, block: torch.Tensor) -> torch.Tensor:
        """The step (B,) at which a block begins."""
        return block * self.steps // self.num_blocks


@dataclass
class Canvas:
    """State of a denoising loop over B rows of L positions.

    Padding holds the mask token inside (nothing that reads a canvas may see how a row was padded) and the pad outside.
    """

    tokens: torch.Tensor  # (B, L)
    masked: torch.Tensor  # (B, L) bool, still to be filled
    fillable: torch.Tensor  # (B, L) bool, masked at the start
    attended: torch.Tensor  # (B, L) bool, no padding
    position_ids: torch.Tensor  # (B, L), real tokens counted from 0
    generated: torch.Tensor  # (B, L) bool, positions behind the last given token: an EOS there ends the row
    given: torch.Tensor  # (B, P) the prompts as they came
    confidence: torch.Tensor  # (B, L) float64, a sampler's memory
    block: torch.Tensor  # (B, L), the block of each fillable position, -1 elsewhere
    window: torch.Tensor  # (B, L), the block with which each position is read and written; negative: before the first
    num_blocks: torch.Tensor  # (B,) at least 1
    num_forwards: torch.Tensor  # (B,)
    num_filled: torch.Tensor  # (B,)
    stopped: torch.Tensor  # (B,) bool
    text_ends: torch.Tensor  # (B, L) bool, where a stop string ends
    least_tokens: torch.Tensor | None  # (B,) tokens that a row has at least, its prompt's counted
    eos_token_ids: torch.Tensor
    bos_token_id: int | None
    pad_token_id: int
    pads_end: bool  # whether a pad ends a text: it is the tokenizer's own, not a stand-in
    mask_token_id: int
    ranks: torch.Tensor  # (B, L) the order of writing, from 0, what is given first; -1 where nothing is written
    schedule: NoiseSchedule
    corruption: Corruption
    order: Order

    @classmethod
    def build(
        cls,
        config: MDLMConfig,
        generation_config: GenerationConfig,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        new_tokens: tuple[str, int, bool],
        min_new_tokens: int | None = None,
        min_length: int | None = None,
    ) -> "Canvas":
        """Lay prompts (B, P) and masks out; `new_tokens` is (`"new"` or `"total"`, number, whether it is a default).

        Raises ValueError where a row would not fit the context, has nothing to fill, or no room for the least number of tokens,
        for a `block_length` longer than all there is to fill, and where a text begins with a mask and `prediction_offset` is 1.
        """
        device, mask_id, family = input_ids.device, config.mask_token_id, family_of(config)
        attended = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        attended = attended.bool()
        extra = new_tokens_per_row(
            attended,
            new_tokens,
            None if family.order.any_length else config.max_position_embeddings,
            (input_ids == mask_id) & attended,
        )
        count = int(extra.max())
        least = least_tokens(attended.sum(-1), extra, min_new_tokens, min_length)
        tail = torch.arange(count, device=device) < extra[:, None]
        tokens = torch.cat([input_ids, torch.full_like(tail, mask_id, dtype=torch.long)], dim=1)
        attended = torch.cat([attended, tail], dim=1)
        tokens = tokens.masked_fill(~attended, mask_id)
        masked = (tokens == mask_id) & attended
        check_predictable(config, masked, attended)
        known = attended & ~masked
        index = torch.arange(tokens.shape[1], device=device)
        last_known = torch.where(known, index, -1).amax(dim=1, keepdim=True)
        eos = generation_config.eos_token_id
        eos = [] if eos is None else eos if isinstance(eos, (list, tuple)) else [eos]
        pad = generation_config.pad_token_id
        if pad is None:
            pad = eos[0] if eos else 0
        zeros = torch.zeros(len(tokens), dtype=torch.long, device=device)
        position_ids = real_positions(attended)
        block_length = getattr(generation_config, "block_length", None)
        if block_length is None or config.attention_block_length is None:
            block = window = even_blocks(masked, block_length)
        else:
            block, window = aligned_blocks(masked, position_ids, int(block_length), config.attention_block_length)
        return cls(
            tokens=tokens,
            masked=masked,
            fillable=masked.clone(),  # `write` changes `masked` in place
            attended=attended,
            position_ids=position_ids,
            generated=(index > last_known) & attended,
            given=input_ids,
            confidence=torch.zeros(tokens.shape, dtype=finest(device), device=device),
            block=block,
            window=window,
            num_blocks=(block.amax(-1) + 1).clamp(min=1),
            num_forwards=zeros,
            num_filled=zeros.clone(),
            stopped=zeros.bool(),
            text_ends=torch.zeros_like(masked),
            least_tokens=least,
            eos_token_ids=torch.tensor(eos, dtype=torch.long, device=device),
            bos_token_id=config.bos_token_id
            if generation_config.bos_token_id is None
            else generation_config.bos_token_id,
            pad_token_id=int(pad),
            pads_end=generation_config.pad_token_id is not None,
            mask_token_id=mask_id,
            ranks=(known.long().cumsum(-1) - 1).masked_fill(~known, -1),
            schedule=family.schedule,
            corruption=family.corruption,
            order=family.order,
        )

    def start(self, seeds: torch.Tensor) -> None:
        """Put noise on the open positions; `seeds` (B,) are those of the rows' random streams."""
        noise = RowNoise(seeds, self.position_ids).uniform(_PRIOR)
        self.tokens = torch.where(self.masked, self.corruption.tokens_of(noise), self.tokens)

    def levels(self, rows: torch.Tensor, block: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """(R, L) the time of each position: 0 where it is settled, t (R,) where it is being written, 1 behind the `block` (R,)."""
        later = self.block[rows] > block[:, None]
        return torch.where(self.masked[rows], torch.where(later, 1.0, t[:, None]), 0.0)

    def open_rows(self, block: torch.Tensor, remasks: bool = False) -> torch.Tensor:
        """Indices of the rows that still need forwards in their `block` (B,).

        With `remasks`, what a sampler has filled in that block it may mask again, so nothing there is final.
        """
        window = self.fillable & (self.block == block[:, None])
        unsettled = self.masked | window if remasks else self.masked
        return (unsettled & window & ~self._behind_end(unsettled)).any(-1).logical_and(~self.stopped).nonzero()[:, 0]

    def is_complete(self) -> bool:
        """Whether no row has a mask left that still counts."""
        return not bool((self.masked & ~self._behind_end(self.masked)).any(-1).logical_and(~self.stopped).any())

    def draft(self, rows: torch.Tensor, block: torch.Tensor | None = None) -> Draft:
        """A sampler's view of `rows` (R,), each at its `block` (R,), or of all blocks."""
        window = self.attended[rows] if block is None else self.block[rows] == block[:, None]
        return Draft(
            tokens=self.tokens[rows],
            masked=self.masked[rows] & window,
            fillable=self.fillable[rows] & window,
            confidence=self.confidence[rows],
            mask_token_id=self.mask_token_id,
        )

    def write(self, rows: torch.Tensor, draft: Draft) -> None:
        """Put a sampler's draft on the canvas; positions that it has settled count as filled."""
        before = self.masked[rows]
        after = torch.where(draft.fillable, draft.masked, before)
        self.num_filled[rows] += before.sum(-1) - after.sum(-1)
        if self.order.has_ranks:
            new, ranks = before & ~after, self.ranks[rows]
            self.ranks[rows] = torch.where(new, next_ranks(ranks, new), ranks)
        self.tokens[rows] = draft.tokens
        self.confidence[rows] = draft.confidence
        self.masked[rows] = after

    def put_ends(self, rows: torch.Tensor, ends: torch.Tensor, behind: torch.Tensor, least: torch.Tensor) -> None:
        """Settle an end token at the True positions of `ends` (R, L) and pads at those of `behind` (R, L) in `rows` (R,), whose texts
        have at least `least` (R,) tokens."""
        settled, tokens = ends | behind, self.tokens[rows]
        tokens = torch.where(ends, self.eos_token_ids[0], tokens)
        self.tokens[rows] = torch.where(behind, self.pad_token_id, tokens)
        self.masked[rows] &= ~settled
        self.fillable[rows] &= ~settled
        self.block[rows] = self.block[rows].masked_fill(settled, -1)
        self.num_blocks = (self.block.amax(-1) + 1).clamp(min=1)
        if self.least_tokens is None:
            self.least_tokens = torch.zeros_like(self.num_blocks)
        self.least_tokens[rows] = torch.maximum(self.least_tokens[rows], least)

    def stop(self, rows: torch.Tensor) -> None:
        """Leave `rows` (R,) as they are from here on."""
        self.stopped[rows] = True

    def inputs(self, rows: torch.Tensor, where: torch.Tensor) -> dict[str, torch.Tensor]:
        """The model's inputs for `rows` (R,), of which the True positions of `where` (R, L) are asked for; without an attention
        mask if they are unpadded (faster)."""
        inputs = model_inputs(self.tokens[rows], self.attended[rows], self.position_ids[rows])
        sight = self.order.sight_of_writing(self.ranks[rows], where)
        return inputs if sight is None else inputs | {"sight": torch.stack(sight[:4], dim=1)}

    def is_end(self) -> torch.Tensor:
        """(B, L) bool: an EOS, a pad, or the end of a stop string, among the generated tokens."""
        ids = self.ending_ids() if self.pads_end else self.eos_token_ids
        return (torch.isin(self.tokens, ids) | self.text_ends) & self.generated & ~self.masked

    def is_early(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor | None:
        """(N,) bool: whether a text may not end yet at the N positions (rows, columns), each (N,); None if it may anywhere."""
        if self.least_tokens is None:
            return None
        return self.position_ids[rows, columns] < self.least_tokens[rows]

    def ending_ids(self) -> torch.Tensor:
        """(E,) tokens that end a text."""
        return torch.cat([self.eos_token_ids, self.eos_token_ids.new_full((1,), self.pad_token_id)])

    def _behind_end(self, unsettled: torch.Tensor) -> torch.Tensor:
        """(B, L) bool: positions behind an end whose text in front is settled; they become pads."""
        solid = (unsettled.long().cumsum(-1) == 0) & self.is_end()
        ended = solid.long().cumsum(-1)
        return (ended > 0) & ~solid

    def _behind_first_end(self) -> torch.Tensor:
        """(B, L) bool."""
        ends = self.is_end().long()
        return (ends.cumsum(-1) - ends) > 0

    def tokens_behind_end(self) -> torch.Tensor:
        """(B,) tokens behind the first end, which are not part of the text."""
        written = self._behind_first_end() & ~self.masked & self.attended
        return (written & ~torch.isin(self.tokens, self.ending_ids())).sum(-1)

    def finish(self) -> torch.Tensor:
        """(B, L) ids for the user: prompts unchanged, pads behind the first end and at unfilled positions."""
        behind = self._behind_first_end()
        sequences = self.tokens.masked_fill(behind | self.masked | ~self.attended, self.pad_token_id)
        width = self.given.shape[1]
        padding = ~self.attended[:, :width]
        sequences[:, :width] = torch.where(padding, self.given, sequences[:, :width])
        return sequences


def model_inputs(tokens: torch.Tensor, attended: torch.Tensor, position_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Arguments of forward for canvases (B, L): mask and position ids only where something is padded."""
    if bool(attended.all()):
        return {"input_ids": tokens}
    return {"input_ids": tokens, "attention_mask": attended.long(), "position_ids": position_ids}
