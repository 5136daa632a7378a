"""The two splits a run needs, and its tokenizer, from the preset's data settings."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from arche_mdlm.checkpoints import resolve
from arche_mdlm.configuration.settings import DataSettings
from arche_mdlm.training.data.formats import Format
from arche_mdlm.training.data.mixing import names_of, open_mixture
from arche_mdlm.training.data.preparing import PreparedData, prepare_data, split_windows
from arche_mdlm.training.data.sources import SAVED, content_hash, is_files, open_source
from arche_mdlm.training.data.tokenizers_io import check_tokenizer, gpt2_tokenizer, train_bpe

SAMPLE_CORPUS = Path(__file__).parents[1] / "sample" / "stories.jsonl"
_BPE_STORIES = 50_000  # enough for a vocabulary of thousands; the whole Hub corpus would add minutes, not merges


@dataclass(frozen=True)
class Corpus:
    """Prepared splits and the tokenizer they were made with."""

    tokenizer: PreTrainedTokenizerBase
    train: PreparedData
    validation: PreparedData
    leading_bos: bool

    @property
    def train_lengths(self) -> np.ndarray:
        """Tokens of each training row, (rows,)."""
        return row_lengths(self.train.dataset)

    def describe(self) -> str:
        def line(name: str, part: PreparedData) -> str:
            s = part.summary
            long = f"longer than {s.context_length} tokens"
            remarks = (
                (s.left_out, f"{long} and left out (--layout packed or --long_documents chunk keeps them)"),
                (s.chunked, f"{long} and cut into several rows"),
                (s.null, "without a text (null) left out"),
            )
            said = [f"{count:,} {remark}" for count, remark in remarks if count]
            return (
                f"{name}: {s.stories:,} texts, {s.tokens:,} tokens in {len(part.dataset):,} rows, sha256 {s.sha256[:12]}"
                + "".join(f"; {remark}" for remark in said)
            )

        return "\n".join([line("training data", self.train), line("validation data", self.validation)])


def row_lengths(dataset: datasets.Dataset) -> np.ndarray:
    """Tokens of each row, (rows,) int32, from the offsets alone: the tokens themselves stay on the disk."""
    table = dataset.data.table
    column = table.column("input_ids")
    lengths = pc.list_value_length(column).to_numpy()
    # Windows are a selection of what is stored. `datasets` would make a table of a piece a row, nearly a kilobyte each.
    return lengths if dataset._indices is None else lengths[dataset._indices.column(0).to_numpy()]


def source_hashes(data: DataSettings, validation_source: str | None = None) -> dict[str, str | None]:
    """What each split's data is, before it is read: a hash of its files, or the name of a Hub dataset.

    `validation` is None where the held-out stories are a share of `train`.
    """
    sources = _parts(data)
    hashes: dict[str, str | None] = {"train": _joined(sources, "train"), "validation": None}
    if validation_source is not None:
        hashes["validation"] = content_hash(validation_source, _split_of_held_out(validation_source))
    elif data.validation_fraction is None and data.layout != "windows" and not any(map(is_files, sources)):
        hashes["validation"] = _joined(sources, "validation")
    return hashes


def _joined(sources: list[str], split: str) -> str:
    return ",".join(content_hash(source, split) for source in sources)


def _parts(data: DataSettings) -> list[str]:
    """The sources of a mixture, or the one source."""
    return names_of(_source_of(data)) if data.weights else [_source_of(data)]


def _split_of_held_out(source: str) -> str:
    """The split that is read of a source of held-out text: a single file is one split, regardless of its name."""
    return "validation" if Path(source).is_dir() and not (Path(source) / SAVED).is_file() else "train"


def _source_of(data: DataSettings) -> str:
    return str(SAMPLE_CORPUS) if data.source == "sample" else data.source


def load_corpus(
    data: DataSettings,
    validation_source: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool = False,
) -> Corpus:
    """Prepare both splits.

    Args:
        validation_source: a file with the held-out text; default: `data.source`'s own validation split, or the share
            `data.validation_fraction` of its stories.
        tokenizer: overrides `data.tokenizer` (fine-tuning uses the model's own).

    Raises:
        ValueError, FileNotFoundError: as `prepare_data`; also where the validation text would be training text.
    """
    source = _source_of(data)
    if source == str(SAMPLE_CORPUS) and not SAMPLE_CORPUS.is_file():
        raise FileNotFoundError(f"data.source='sample': the sample corpus {SAMPLE_CORPUS.name} is not installed")
    fraction = data.validation_fraction
    files = [part for part in _parts(data) if is_files(part)]
    if data.layout != "windows" and validation_source is None and fraction is None and files:
        raise ValueError(
            f"data.source={files[0]!r} is one file: give --validation_data FILE, or --validation_fraction (such as 0.05)"
        )
    if tokenizer is None:
        tokenizer = make_tokenizer(data, source, hold_out=validation_source is None)
    check_tokenizer(tokenizer)
    if data.chat_template is not None:
        tokenizer.chat_template = _read_template(data.chat_template)
    common: dict[str, Any] = {
        "layout": data.layout,
        "context_length": data.context_length,
        "form": Format.of(data),
        "min_characters": data.min_characters,
        "long_documents": data.long_documents,
        "long_answers": data.long_answers,
        "streaming": data.streaming,
        "num_workers": data.num_workers,
        "progress": progress,
    }
    mixed: dict[str, Any] = {"weights": data.weights, "stopping": data.stopping, "config": data.config}
    if data.layout == "windows":
        # The paper splits windows, not stories: kept to reproduce it.
        whole = prepare_data(source, tokenizer, split="train", max_tokens=data.max_tokens, **mixed, **common)
        train, validation = split_windows(whole.dataset, data.validation_fraction or 0.05)
        return Corpus(tokenizer, PreparedData(train, whole.summary), PreparedData(validation, whole.summary), False)
    train_fraction = fraction if validation_source is None else None
    train = prepare_data(
        source,
        tokenizer,
        split="train",
        max_tokens=data.max_tokens,
        validation_fraction=train_fraction,
        **mixed,
        **common,
    )
    if validation_source is None:
        validation = prepare_data(
            source, tokenizer, split="validation", validation_fraction=fraction, **mixed, **common
        )
    else:
        validation = prepare_data(validation_source, tokenizer, split=_split_of_held_out(validation_source), **common)
    if ("num_given" in train.dataset.column_names) != ("num_given" in validation.dataset.column_names):
        raise ValueError(
            "the training data and the validation data differ: one has prompts with answers, the other texts"
        )
    if train.summary.sha256 == validation.summary.sha256:
        raise ValueError(f"the validation data is the training data: {validation_source or source!r}")
    return Corpus(tokenizer, train, validation, True)


def make_tokenizer(data: DataSettings, source: str, hold_out: bool = False) -> PreTrainedTokenizerBase:
    """`bpe`: trained on the training split, the same at every call; else loaded from a folder or repository."""
    if data.tokenizer == "bpe":
        fraction = data.validation_fraction if hold_out else None
        options: dict[str, Any] = {"form": Format.of(data), "validation_fraction": fraction, "config": data.config}
        opened = (
            open_mixture(source, data.weights, data.stopping, **options)
            if data.weights
            else open_source(source, **options)
        )
        texts: Iterator[str] = iter(opened)
        first = next(texts, None)
        if first is None:
            raise ValueError(f"source={source!r} is empty: it does not contain a story")
        return train_bpe(islice(chain([first], texts), _BPE_STORIES), vocab_size=data.vocab_size)
    named = resolve(data.tokenizer)  # a shipped one goes by its name from any folder
    folder = Path(named)
    if (folder / "merges.txt").is_file() and not (folder / "tokenizer.json").is_file():
        return gpt2_tokenizer(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(named)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"data.tokenizer={data.tokenizer!r} is neither 'bpe', nor a folder or repository with a tokenizer: "
            + " ".join(str(error).split())
        ) from error
    if tokenizer.mask_token is None and data.tokenizer == "gpt2":
        with tempfile.TemporaryDirectory() as files:
            tokenizer.backend_tokenizer.model.save(files)  # vocab.json and merges.txt
            return gpt2_tokenizer(files)
    return tokenizer


def _read_template(file: str) -> str:
    """A chat template; ValueError if it cannot be parsed."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        template = Path(file).read_text(encoding="utf-8")
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.chat_template={file!r} cannot be read: {error}") from error
    except TemplateSyntaxError as error:
        raise ValueError(f"data.chat_template={file!r} is not a Jinja template: {error}") from error
    return template
