"""Prompts with answers, and messages: what the rows are, what is given, and every mistake with its place."""

import csv
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from arche_mdlm.configuration.settings import DataSettings
from arche_mdlm.training.data.corpus import load_corpus, make_tokenizer
from arche_mdlm.training.data.formats import Format
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.data.tokenizers_io import train_bpe

BOS, EOS = 0, 1
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "So long"},
]
AUTO = Format("auto")


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes and no merges: tokens can be counted by hand."""
    tokenizer = train_bpe(["x"], vocab_size=260)
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture
def prepare(tokenizer, tmp_path):
    def call(rows, form=AUTO, own=None, name="a.jsonl", **settings):
        path = tmp_path / name
        if isinstance(rows, list):
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return prepare_data(
            path, own or tokenizer, form=form, cache_dir=tmp_path / "cache", **{"context_length": 64, **settings}
        )

    return call


def parts_of(prepared, tokenizer) -> list[tuple[str, str]]:
    """(given, learnt) of each row as text, with its special tokens."""
    rows = prepared.dataset.to_list()
    cut = [(row["input_ids"][: row["num_given"]], row["input_ids"][row["num_given"] :]) for row in rows]
    return [tuple(tokenizer.decode(part) for part in parts) for parts in cut]


def test_a_prompt_is_given_and_its_answer_ends_with_eos(prepare, tokenizer):
    rows = [{"prompt": " Two and two?", "completion": " Four. "}, {"prompt": "", "completion": "alone"}]
    prepared = prepare(rows)
    assert parts_of(prepared, tokenizer) == [("<|bos|>Two and two?", " Four.<|eos|>"), ("<|bos|>", "alone<|eos|>")]
    assert prepared.dataset["num_bytes"][:] == [6, 5]
    assert (prepared.summary.stories, prepared.summary.tokens, prepared.summary.bytes) == (2, 1 + 12 + 6 + 1 + 7, 11)


def test_special_tokens_spelt_out_are_plain_text(prepare, tokenizer):
    ids = prepare([{"prompt": "a [MASK]", "completion": "<|eos|> b"}]).dataset["input_ids"][0]
    assert ids.count(EOS) == ids.count(BOS) == 1
    assert tokenizer.mask_token_id not in ids


def test_columns_have_other_names_and_templates(prepare, tokenizer):
    rows = [{"instruction": "Add", "input": [1, 2], "n": 3, "output": {"text": "3"}}]
    form = Format("prompt", prompt="{instruction}\\n{n}: ", completion="output.text")
    assert parts_of(prepare(rows, form), tokenizer) == [("<|bos|>Add\n3: ", "3<|eos|>")]
    text = prepare([{"title": "A", "text": "b {c}"}], Format(text="{{{title}}}\\n{text}"))
    assert tokenizer.decode(text.dataset["input_ids"][0]) == "<|bos|>{A}\nb {c}<|eos|>"
    assert "num_given" not in text.dataset.column_names


def test_every_turn_of_the_assistant_is_learnt_once_given_what_came_before_it(prepare, tokenizer):
    """A row a turn: in one row for all, a diffusion model would see the second question when it learns the first answer."""
    first = "<|bos|>s:Be kind.\nu:Hi\na:"
    prepared = prepare([{"messages": TALK}], context_length=80)
    assert parts_of(prepared, tokenizer) == [
        (first, "Hello<|eos|>"),
        (first + "Hello<|eos|>\nu:Bye\na:", "So long<|eos|>"),
    ]
    assert (prepared.summary.stories, prepared.summary.bytes) == (2, len("HelloSo long"))


def test_prompt_and_completion_may_be_messages_of_which_the_completion_is_learnt(prepare, tokenizer):
    prepared = prepare([{"prompt": TALK[:4], "completion": TALK[4:]}, {"prompt": TALK[:2], "completion": TALK[2:]}])
    start = "<|bos|>s:Be kind.\nu:Hi\na:"
    whole = start + "Hello<|eos|>\nu:Bye\na:"
    assert parts_of(prepared, tokenizer) == [
        (whole, "So long<|eos|>"),
        (start, "Hello<|eos|>"),
        (whole, "So long<|eos|>"),
    ]


def test_a_row_is_what_the_model_is_asked_at_inference(prepare, tokenizer):
    row = prepare([{"messages": TALK[:3]}]).dataset[0]
    asked = tokenizer.apply_chat_template(TALK[:2], add_generation_prompt=True, tokenize=True, return_dict=False)
    assert row["input_ids"][: row["num_given"]] == asked


def test_a_template_without_bos_and_eos_gets_them(prepare, tokenizer):
    own = train_bpe(["x"], vocab_size=260)
    own.chat_template = (
        "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}[{% endif %}"
    )
    prepared = prepare([{"messages": [TALK[1], TALK[2]]}], own=own)
    assert parts_of(prepared, tokenizer) == [("<|bos|>[Hi][", "Hello]<|eos|>")]


def test_every_file_format_gives_the_same_rows(prepare, tokenizer, tmp_path):
    prompts = [{"prompt": "a, b?", "completion": "c"}, {"prompt": "d", "completion": "e\nf"}]
    talks = [{"messages": TALK}, {"messages": TALK[1:3]}]
    for number, rows in enumerate((prompts, talks)):
        found = [prepare(rows, name=f"{number}.jsonl", context_length=80)]
        (tmp_path / f"{number}.json").write_text(json.dumps(rows))
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{number}.parquet")
        cells = [[value if isinstance(value, str) else json.dumps(value) for value in row.values()] for row in rows]
        with (tmp_path / f"{number}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([list(rows[0]), *cells])
        found += [prepare(None, name=f"{number}.{suffix}", context_length=80) for suffix in ("json", "parquet", "csv")]
        assert len({prepared.summary.sha256 for prepared in found}) == 1
        assert len({json.dumps(prepared.dataset.to_list()) for prepared in found}) == 1


def test_nulls_are_left_out_and_counted(prepare):
    rows = [
        {"prompt": "a", "completion": None},
        {"prompt": "b", "completion": "c"},
        {"prompt": None, "completion": "d"},
    ]
    summary = prepare(rows).summary
    assert (summary.rows, summary.null) == (1, 2)


def test_long_rows_are_left_out_where_that_is_asked_for(prepare):
    rows = [{"prompt": "x" * 70, "completion": "a"}, {"prompt": "b", "completion": "c"}]
    summary = prepare(rows, long_answers="drop").summary
    assert (summary.rows, summary.left_out) == (1, 1)
    with pytest.raises(
        ValueError, match="no row left; of its prompts with answers 1 are longer than context_length=64"
    ):
        prepare(rows[:1], long_answers="drop")


def test_a_budget_of_tokens(prepare):
    assert prepare([{"prompt": "abc", "completion": "de"}] * 5, max_tokens=15).summary.tokens == 14


def prompt(prompt="Why?", completion="So."):
    return {"prompt": prompt, "completion": completion}


WRONG = {
    "an answer longer than the context": ([prompt(), prompt("a", "b" * 64)], AUTO, {}, "line 2: the answer has 65 tokens, and the context 64"),
    "a prompt that fills the context": ([prompt("a" * 63)], AUTO, {}, "line 1: the prompt has 64 tokens, which fill the context of 64"),
    "both together": ([prompt("a" * 40, "b" * 40)], AUTO, {}, "prompt and answer have 41 and 41 tokens, and the context 64"),
    "an empty answer": ([prompt(), prompt(completion=" \n")], AUTO, {}, "line 2: the answer is empty"),
    "ambiguous columns": ([{"text": "a"} | prompt()], AUTO, {},
                          "the columns text, prompt, completion are all there: set data.format to text or prompt"),
    "no answers": ([{"prompt": "a"}], AUTO, {}, "no column data.completion_column='completion'; the columns there are: prompt"),
    "no column at all": ([{"story": "a"}], AUTO, {}, "no column text_column='text'; the columns there are: story"),
    "a column of a template": ([{"text": "a"}], Format(text="{title}: {text}"), {}, "no column text_column='title'"),
    "answers that are asked for": ([{"text": "a"}], Format("prompt"), {}, "no column data.prompt_column='prompt'"),
    "an answer of another type": ([prompt(completion=["a"])], AUTO, {}, "line 1: 'prompt' is a str and 'completion' a list: both must be texts"),
    "packed": ([prompt()], AUTO, {"layout": "packed"}, "layout='packed' does not support prompts"),
    "chunks": ([prompt()], AUTO, {"long_documents": "chunk"}, "a prompt and its answer cannot be split"),
    "no assistant": ([{"messages": TALK[:2]}], AUTO, {}, "line 1: no assistant message"),
    "no prompt": ([{"messages": TALK[2:]}], AUTO, {}, "the messages begin with the assistant"),
    "an empty turn": ([{"messages": [*TALK[:2], {"role": "assistant", "content": ""}]}], AUTO, {}, "message 3: the answer is empty"),
    "a special token": ([{"messages": [{"role": "user", "content": "a [MASK]"}, TALK[2]]}], AUTO, {},
                        r"message 1: the content holds '\[MASK\]'"),
    "messages that are a text": ([{"messages": "Hi"}], AUTO, {}, "messages must be a list of objects"),
    "a prompt of messages and a text": (
        [{"prompt": TALK[:2], "completion": "Hi"}],
        AUTO,
        {},
        "'prompt' is a list and 'completion' a str: both must be texts, or both lists of messages",
    ),
    "a completion without an answer": (
        [{"prompt": TALK[:3], "completion": TALK[3:4]}],
        AUTO,
        {},
        "the completion has no assistant message",
    ),
    "an empty completion of messages": ([{"prompt": TALK[:2], "completion": []}], AUTO, {}, "completion must be a list"),
    "no messages": ([{"messages": []}], AUTO, {}, "messages must be a list of objects"),
    "no role": ([{"messages": [{"content": "Hi"}]}], AUTO, {}, "message 1 must be an object with a role"),
    "no content": ([{"messages": [{"role": "user", "content": [{"type": "text"}]}]}], AUTO, {}, "content of message 1 must be a text"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_right_is_refused_with_its_place(prepare, tmp_path, case):
    rows, form, settings, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        prepare(rows, form, **settings)
    assert not list((tmp_path / "cache" / "data").iterdir()) if (tmp_path / "cache").exists() else True


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "messages need a chat template, and the tokenizer .* has none"),
        ("{{ raise_exception('roles!') }}", "message 3: the chat template fails: roles!"),
        ("{{ messages[-1]['content'] }}", "the chat template formats the prompt of an answer differently"),
    ],
)
def test_templates_that_do_not_fit(prepare, template, message):
    own = train_bpe(["x"], vocab_size=260)
    own.chat_template = template
    with pytest.raises(ValueError, match=message):
        prepare([{"messages": TALK}], own=own)


def test_a_text_file_has_no_prompts(prepare, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"a\.txt is a text file, which has no columns, but data.format='prompt'"):
        prepare(None, Format("prompt"), name="a.txt")


def test_the_format_follows_the_columns_that_are_set():
    assert Format.of(DataSettings()).kind == "auto"
    assert Format.of(DataSettings(template="{a}{b}")).kind == "text"
    assert Format.of(DataSettings(completion_column="output")).kind == "prompt"
    assert Format.of(DataSettings(messages_column="talk")).kind == "messages"
    with pytest.raises(ValueError, match="ambiguous: columns are set for text and prompt"):
        Format.of(DataSettings(text_column="story", prompt_column="question"))


# --- both splits, tokenizer and template ------------------------------------------------------------------------------


@pytest.fixture
def talks(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))
    rows = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"it is {n}"}]}
        for n in range(40)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chat.jinja").write_text(CHAT)
    return DataSettings(str(tmp_path / "a.jsonl"), chat_template=str(tmp_path / "chat.jinja"), vocab_size=270,
                        context_length=64, validation_fraction=0.3)  # fmt: skip


def test_the_template_goes_with_the_tokenizer(talks, tmp_path):
    corpus = load_corpus(talks)
    assert len(corpus.train.dataset) + len(corpus.validation.dataset) == 40
    assert not {str(ids) for ids in corpus.train.dataset["input_ids"]} & {
        str(ids) for ids in corpus.validation.dataset["input_ids"]
    }
    corpus.tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == CHAT
    assert len(make_tokenizer(talks, talks.source)) == 270, "trained on what the messages say"


def test_template_files_that_cannot_be_read(talks, tmp_path):
    from dataclasses import replace

    with pytest.raises(ValueError, match="data.chat_template='nowhere' cannot be read"):
        load_corpus(replace(talks, chat_template="nowhere"))
    (tmp_path / "wrong.jinja").write_text("{% for %}")
    with pytest.raises(ValueError, match="is not a Jinja template"):
        load_corpus(replace(talks, chat_template=str(tmp_path / "wrong.jinja")))


def test_splits_of_different_kinds_are_refused(talks, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "a text"}\n')
    with pytest.raises(ValueError, match="one has prompts with answers, the other texts"):
        load_corpus(talks, str(tmp_path / "texts.jsonl"))


def test_the_examples_of_the_page_are_read(prepare, tokenizer):
    """docs/data.md has one of each format, and a chat template."""
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    text, prompt, talk, turns = (json.loads(block) for block in re.findall(r"```jsonl\n(.*?)```", page, re.DOTALL))
    form = Format.of(DataSettings(template=re.findall(r'data.template="(.*?)"', page)[0]))
    assert (
        tokenizer.decode(prepare([text], form).dataset["input_ids"][0][1:-1])
        == "The fox\nA fox saw some grapes. They hung too high."
    )
    assert parts_of(prepare([prompt], context_length=99), tokenizer)[0][1] == " Mice, berries and eggs.<|eos|>"
    own = train_bpe(["x"], vocab_size=260)
    own.chat_template = re.search(r"```\n(\{\{ bos_token.*?)\n```", page, re.DOTALL)[1]
    first, second = parts_of(prepare([talk], own=own, context_length=128), tokenizer)
    assert first == ("<|bos|>user: Hello\nassistant:", " Hello! What is it?<|eos|>")
    assert second[0].endswith("What is it?<|eos|>\nuser: Bye\nassistant:")
