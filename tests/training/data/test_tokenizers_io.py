"""The tokenizers: exact round trips, BOS and no EOS, and a reload by stock transformers."""

import json

import pytest
import transformers
from transformers import AutoTokenizer

from arche_mdlm.training.data.tokenizers_io import check_tokenizer, gpt2_tokenizer, train_bpe

CORPUS = [
    f"Once upon a time, {name} had {n} red balls. \u201cHi!\u201d said {name}."
    for n in range(9)
    for name in ("Tim", "Lily")
]
HARD = [
    "",
    " ",
    "  two  spaces , and don 't clean up .\n\n\ttabs\r\n",
    "caf\u00e9 \u6f22\u5b57 \U0001f600\u200d\U0001f469 e\u0301 \ufeff",
    "\x00\x01\x7f\x9f",
    "".join(chr(code) for code in range(0x20, 0x250)),
]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(CORPUS, vocab_size=300, model_max_length=64)


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    """GPT-2's files in small: the byte alphabet in its order, one merge, `<|endoftext|>` last."""
    from tokenizers.pre_tokenizers import ByteLevel

    folder = tmp_path_factory.mktemp("gpt2")
    alphabet = sorted(ByteLevel.alphabet())
    entries = [*alphabet, "\u0120a", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(entries)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n\u0120 a\n", encoding="utf-8")
    return folder


@pytest.fixture(params=["bpe", "gpt2"])
def tokenizer(request, bpe, gpt2_folder):
    return bpe if request.param == "bpe" else gpt2_tokenizer(gpt2_folder, model_max_length=64)


def test_ids_of_the_trained_bpe(bpe):
    assert len(bpe) == bpe.vocab_size == 300
    assert [bpe.bos_token_id, bpe.eos_token_id, bpe.pad_token_id, bpe.mask_token_id] == [0, 1, 2, 3]
    assert bpe.convert_ids_to_tokens([0, 1, 2, 3]) == ["<|bos|>", "<|eos|>", "<|pad|>", "[MASK]"]
    assert len(bpe("Once upon a time")["input_ids"]) < 8  # it did learn merges


def test_ids_of_gpt2(gpt2_folder):
    tokenizer = gpt2_tokenizer(gpt2_folder)
    end = 257
    assert len(tokenizer) == end + 2
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [end] * 3
    assert tokenizer.mask_token_id == end + 1
    padded = gpt2_tokenizer(gpt2_folder, pad="<|pad|>")
    assert (padded.mask_token_id, padded.pad_token_id, len(padded)) == (end + 1, end + 2, end + 3)
    assert padded.eos_token_id == end
    assert tokenizer(" a")["input_ids"] == [end, 256]  # the merge is in use


@pytest.mark.parametrize("text", HARD + CORPUS[:2])
def test_any_text_survives(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids[1:]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_bos_but_no_eos_and_left_padding(tokenizer):
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id]
    assert tokenizer("ab", add_special_tokens=False)["input_ids"] == tokenizer("ab")["input_ids"][1:]
    batch = tokenizer(["", "Once"], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["attention_mask"][0].tolist() == [0] * (batch["input_ids"].shape[1] - 1) + [1]
    assert batch["input_ids"][0, -1] == tokenizer.bos_token_id
    assert (batch["input_ids"][0, :-1] == tokenizer.pad_token_id).all()


def test_the_mask_takes_the_space_before_it(tokenizer):
    with_space, without = tokenizer("Tim [MASK] ran")["input_ids"], tokenizer("Tim[MASK] ran")["input_ids"]
    assert with_space == without
    assert with_space.count(tokenizer.mask_token_id) == 1


def test_training_is_deterministic_and_takes_an_iterator(bpe):
    again = train_bpe(iter(CORPUS), vocab_size=300, model_max_length=64)
    assert again.backend_tokenizer.to_str() == bpe.backend_tokenizer.to_str()


def test_a_small_corpus_gives_fewer_entries():
    assert len(train_bpe(["ab ab"], vocab_size=4096)) == 4 + 256 + 1  # "ab" is there twice, " ab" once


def test_reload_keeps_everything(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*HARD, "Tim [MASK] ran <|bos|>"]:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])
    for name in ("special_tokens_map", "padding_side", "model_max_length", "model_input_names", "vocab_size"):
        assert getattr(again, name) == getattr(tokenizer, name), name
    assert again.added_tokens_decoder == tokenizer.added_tokens_decoder
    assert len(again) == len(tokenizer)


def test_saved_files_need_stock_transformers_only(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert hasattr(transformers, config["tokenizer_class"])
    assert "auto_map" not in config
    assert not list(tmp_path.glob("*.py"))


def test_check_tokenizer_names_what_is_missing(tokenizer, bpe, tmp_path):
    check_tokenizer(tokenizer)
    bpe.save_pretrained(tmp_path)
    bare = AutoTokenizer.from_pretrained(tmp_path)
    bare.mask_token = bare.pad_token = None
    with pytest.raises(ValueError, match="pad_token, mask_token") as error:
        check_tokenizer(bare)
    assert "bos_token" not in str(error.value)


def test_errors(tmp_path, gpt2_folder):
    with pytest.raises(ValueError, match="vocab_size=259"):
        train_bpe(CORPUS, vocab_size=259)
    with pytest.raises(ValueError, match="min_frequency=0"):
        train_bpe(CORPUS, min_frequency=0)
    with pytest.raises(ValueError, match="texts is empty"):
        train_bpe([])
    with pytest.raises(FileNotFoundError, match=r"vocab\.json"):
        gpt2_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("b c\n")
    with pytest.raises(ValueError, match="does not contain a readable GPT-2 vocabulary"):
        gpt2_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match="endoftext"):
        gpt2_tokenizer(tmp_path)
