"""The number of rows in a batch: estimated from the free memory, and halved whenever memory runs out.

The estimate, without gradients, of a row of L positions (H: width, I: inner width, each in bytes of the weights' type):

    trunk    L * (8 H + 3 I)       a layer at its widest: the residual, its norm, queries, keys and values before and after the
                                   rotation, what attention gives; or the residual, its norm, gate, up and their product
    scores   2 * heads * L * L     with eager attention only: before and after the softmax
    state    L * 256 bytes         tokens, masks, noise

Beside the rows there are `LOGIT_COPIES` of a chunk of logits in float32, or, where a model returns only all of them, that many
copies of L * V a row. A part of the free memory is left to the rest; where the estimate is still wrong, it costs an attempt.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from arche_mdlm.configuration.extras import install_command

AUTO = "auto"
# Bytes of float32 logits that exist at once: on a CPU few enough to stay near its caches.
_CHUNK_BYTES = {"cpu": 2**27}
_LARGE_CHUNK_BYTES = 2**29
LOGIT_COPIES = 6  # of a chunk: logits, processed ones, noise, their sum, and what sorting needs
_SHARE = {"cpu": 0.5}  # of the free memory; other programs use the machine's memory, too, but rarely a GPU's
_LARGE_SHARE = 0.8
_MOST = {"cpu": 32}  # more rows no longer make it faster, and are lost together when a run is stopped
_MOST_ELSEWHERE = 1024

T = TypeVar("T")
Items = TypeVar("Items", bound=Sequence[Any])


def logit_positions(device: torch.device, vocab_size: int) -> int:
    """Positions whose float32 logits may exist at once."""
    return max(1, _CHUNK_BYTES.get(device.type, _LARGE_CHUNK_BYTES) // (4 * vocab_size))


def free_bytes(device: torch.device) -> int:
    """Free memory of the device in bytes. For a CPU: that of the machine, ignoring limits of a container."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    import psutil

    return psutil.virtual_memory().available


def row_bytes(config: PreTrainedConfig, length: int, item_size: int, all_logits: bool = False) -> int:
    """Bytes that a row of `length` positions takes, by the formula above, of numbers of `item_size` bytes.

    Args:
        config: of any family of transformers.
        all_logits: whether the model gives the logits of all positions.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    width, heads = config.hidden_size, config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or 4 * width
    total = length * (8 * width + 3 * inner) * item_size + length * 256
    if getattr(config, "_attn_implementation", None) == "eager":
        total += 2 * heads * length**2 * item_size
    if all_logits:
        total += LOGIT_COPIES * length * config.vocab_size * 4
    return total


def estimate(model: PreTrainedModel, length: int, all_logits: bool = False) -> int:
    """Rows of `length` positions that fit into free memory, from 1 to the size beyond which speed no longer grows."""
    device = model.device
    most = _MOST.get(device.type, _MOST_ELSEWHERE)
    if not hasattr(model.config, "hidden_size"):  # not a transformer: unknown sizes
        return _MOST["cpu"]
    chunk = 0 if all_logits else LOGIT_COPIES * _CHUNK_BYTES.get(device.type, _LARGE_CHUNK_BYTES)
    free = free_bytes(device) * _SHARE.get(device.type, _LARGE_SHARE) - chunk
    size = row_bytes(model.config, length, model.dtype.itemsize, all_logits)
    return int(max(1, min(most, free // size)))


class BatchSize:
    """Rows at once, `size`: as many as one says, or found out.

    Args:
        size: rows to begin with.
        halves: whether a batch that is too large for the memory is halved, and the next ones too.
    """

    def __init__(self, size: int, halves: bool) -> None:
        self.size, self.halves = size, halves

    @classmethod
    def of(
        cls, batch_size: "int | str | BatchSize", model: PreTrainedModel, length: int, all_logits: bool = False
    ) -> "BatchSize":
        """From an argument `batch_size`: a number, "auto", or a BatchSize (returned unchanged).

        ValueError for a number below 1, or anything else.
        """
        if isinstance(batch_size, cls):
            return batch_size
        if batch_size == AUTO:
            return cls(estimate(model, length, all_logits), halves=True)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r} must be at least 1, or {AUTO!r}")
        return cls(batch_size, halves=False)

    def run(self, items: Items, work: Callable[[Items], T]) -> Iterator[tuple[Items, T]]:
        """(part, work(part)) of one part of the items after another.

        Raises what `work` does; out of memory only if the size is fixed, or for a single item.
        """
        done = 0
        while done < len(items):
            part = cast(Items, items[done : done + self.size])
            results: list[T] = []  # none where memory ran out
            try:
                results.append(work(part))
            except RuntimeError as error:
                if not self.halves or len(part) == 1 or not _is_out_of_memory(error):
                    raise
            if not results:  # not in the handler: there the traceback still holds the tensors
                _free_cache()
                self.size = len(part) // 2
                continue
            yield part, results[0]
            done += len(part)


def _is_out_of_memory(error: RuntimeError) -> bool:
    try:
        from accelerate.utils.memory import should_reduce_batch_size
    except ModuleNotFoundError:
        if isinstance(error, torch.OutOfMemoryError):
            why = f"memory ran out, and halving the batch needs accelerate: {install_command('train')}"
            raise ImportError(why) from error
        return False
    return should_reduce_batch_size(error)


def _free_cache() -> None:
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
