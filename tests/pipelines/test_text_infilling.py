"""Gaps are filled, the text around them is kept, and invalid gaps are refused."""

import json
import re
import subprocess
import sys

import pytest
import torch
from seeds import seeded
from transformers import LlamaConfig, LlamaForCausalLM, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from arche_mdlm.pipelines import TextInfillingPipeline
from arche_mdlm.pipelines.text_infilling import GappedText
from arche_mdlm.training.data.tokenizers_io import train_bpe

# Two gaps; one at either end; only gaps; gaps side by side, with a space between them or not; odd white space.
TEXTS = [
    "Once upon a [MASK:3] there was a girl. She was [MASK].",
    "[MASK:2] upon a time",
    "Once upon a time[MASK:5]",
    "[MASK:4]",
    "a [MASK] [MASK:2][MASK] girl",
    "She  was\n\n [MASK:2]  happy,\ttoo — “naïve” ☃.",
]


@pytest.fixture(scope="module")
def pipe(model, tokenizer):
    return pipeline("text-infilling", model=model, tokenizer=tokenizer, device="cpu")


def test_the_task_is_registered_and_loads_a_folder(checkpoint):
    assert PIPELINE_REGISTRY.check_task("text-infilling")[1]["impl"] is TextInfillingPipeline

    pipe = pipeline("text-infilling", model=str(checkpoint), device="cpu")

    assert isinstance(pipe, TextInfillingPipeline)
    assert pipe("Once [MASK:2] time")[0]["generated_text"].startswith("Once ")


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_around_the_gaps_is_returned_unchanged(pipe, text):
    (result,) = pipe(text, generator=seeded())

    pieces = re.split(r"\[MASK[^\]]*\]", text)
    assert len(result["infills"]) == len(pieces) - 1
    for number, infill in enumerate(result["infills"]):
        if infill[:1] in tuple(",.;:!?)]}%…"):
            pieces[number] = pieces[number].removesuffix(" ")
    expected = pieces[0] + "".join(i + p for i, p in zip(result["infills"], pieces[1:], strict=True))
    assert result["generated_text"] == expected
    assert "[MASK" not in result["generated_text"]


def test_infills_are_the_tokens_that_generate_put_there(pipe, model, tokenizer):
    inputs = tokenizer("Once upon a" + "[MASK]" * 4 + " girl." + "[MASK]", return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=0, generator=seeded(3))[0]
    masks = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]

    (result,) = pipe("Once upon a[MASK:4] girl.[MASK]", generator=seeded(3))

    decoded = [tokenizer.decode(ids[run], skip_special_tokens=True) for run in (masks[:4], masks[4:])]
    assert result["infills"] == decoded


def test_a_space_before_the_gap_is_not_doubled(pipe, tokenizer, monkeypatch):
    word = tokenizer(" girl", add_special_tokens=False)["input_ids"]

    def fill(input_ids, **kwargs):
        filled = input_ids.clone()
        filled[input_ids == tokenizer.mask_token_id] = torch.tensor(word)
        return filled

    monkeypatch.setattr(pipe.model, "generate", fill)
    with_space = pipe(f"a [MASK:{len(word)}] was")[0]
    without = pipe(f"a[MASK:{len(word)}] was")[0]

    assert with_space == {"generated_text": "a girl was", "infills": ["girl"]}
    assert without == {"generated_text": "a girl was", "infills": [" girl"]}


@pytest.mark.parametrize(("text", "expected"), [
    ("She was happy [MASK] and the dog was, too.", "She was happy, and the dog was, too."),
    ("She was happy[MASK] and", "She was happy, and"),
    ("She was  [MASK] and", "She was , and"),
])  # fmt: skip
def test_no_space_stands_before_a_comma(pipe, tokenizer, monkeypatch, text, expected):
    (comma,) = tokenizer(",", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(
        pipe.model,
        "generate",
        lambda input_ids, **kwargs: input_ids.masked_fill(input_ids == tokenizer.mask_token_id, comma),
    )
    assert pipe(text)[0] == {"generated_text": expected, "infills": [","]}


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_batches_return_what_single_texts_return(pipe, tokenizer, monkeypatch, padding_side):
    monkeypatch.setattr(tokenizer, "padding_side", padding_side)
    alone = pipe(TEXTS, generator=seeded())
    batched = pipe(TEXTS, generator=seeded(), batch_size=4)

    assert len(alone) == len(TEXTS)
    assert batched == alone


def test_num_return_sequences_gives_so_many_dicts_a_text(pipe):
    single = pipe(TEXTS[0], num_return_sequences=3, generator=seeded())
    batched = pipe(TEXTS, num_return_sequences=3, generator=seeded(), batch_size=2)

    assert len({result["generated_text"] for result in single}) > 1
    assert [len(results) for results in batched] == [3] * len(TEXTS)
    assert batched[0] == single
    assert all(result["generated_text"].startswith("Once upon a ") for result in batched[0])


def test_options_of_generate_pass_through(pipe, model, tokenizer):
    calls = []

    class Spy(TextInfillingPipeline):
        def _forward(self, model_inputs, **kwargs):
            calls.append(kwargs)
            return super()._forward(model_inputs, **kwargs)

    greedy = Spy(model=model, tokenizer=tokenizer, device="cpu", do_sample=False, num_diffusion_steps=2)
    text = "a [MASK:6] girl"
    assert greedy(text, sampler="confidence") == greedy(text, sampler="confidence")
    assert calls[-1] == {"num_diffusion_steps": 2, "sampler": "confidence"}
    assert greedy(text, sampler="confidence") != pipe(text, generator=seeded())
    with pytest.raises(ValueError, match="sampler='ancestrall' is not one of"):
        pipe(text, sampler="ancestrall")
    with pytest.raises(ValueError, match="num_diffusion_steps=0"):
        pipe(text, num_diffusion_steps=0)


def test_more_tokens_continue_the_text_behind_it(pipe, model):
    filled = pipe("a [MASK:2] girl", generator=seeded())[0]["generated_text"]
    longer = pipe(["a [MASK:2] girl", TEXTS[0]], max_new_tokens=8, generator=seeded(), batch_size=2)
    config = model.generation_config_class(max_new_tokens=8, do_sample=True, top_k=0, num_diffusion_steps=4)
    from_config = pipe(["a [MASK:2] girl", TEXTS[0]], generation_config=config, generator=seeded(), batch_size=2)

    assert filled.endswith(" girl")
    text, infills = longer[0][0]["generated_text"], longer[0][0]["infills"]
    assert text.startswith(f"a {infills[0]} girl")
    assert len(text) > len(f"a {infills[0]} girl")
    assert from_config == longer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Once upon a time", r"no gaps to fill: mark gaps with \[MASK\], or \[MASK:20\]"),
        ("", "no gaps to fill"),
        ("a [MASK:0] girl", r"\[MASK:0\] in the text is not a gap: .* at least 1"),
        ("a [MASK:x] girl", r"\[MASK:x\] in the text is not a gap"),
        ("a [MASK:] girl", r"\[MASK:\] in the text is not a gap"),
        ("a [MASK:-2] girl", r"\[MASK:-2\] in the text is not a gap"),
        ("[MASK:2] a [MASK:1.5] girl", r"\[MASK:1.5\] in the text is not a gap"),
        ("a [MASK:48] girl", r"tokens \(48 of them masks\), more than the model's context of 48"),
        (7, "text=7 is a int"),
    ],
)
def test_a_text_that_cannot_be_filled_is_refused(pipe, text, message):
    with pytest.raises(ValueError, match=message):
        pipe(text)


def test_the_longest_text_that_fits_is_filled(pipe):
    (result,) = pipe("[MASK:47]", generator=seeded())
    assert len(result["infills"]) == 1


def test_a_tokenizer_without_a_mask_is_refused(model):
    tokenizer = train_bpe(["a b"] * 4, vocab_size=300)
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"tokenizer=.* has no mask_token"):
        pipeline("text-infilling", model=model, tokenizer=tokenizer, device="cpu")


def test_a_model_that_fills_no_masks_is_refused(tokenizer):
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    ar_model = LlamaForCausalLM(LlamaConfig(vocab_size=300, **shape))
    with pytest.raises(ValueError, match="of type 'llama' cannot fill masks"):
        pipeline("text-infilling", model=ar_model, tokenizer=tokenizer, device="cpu")


def test_a_mask_token_of_another_name_marks_a_gap_too():
    assert GappedText.parse("a <mask> b [MASK:2].", "<mask>") == GappedText(("a ", " b ", "."), (1, 2))


def test_a_saved_pipeline_works_where_the_library_is_not_installed(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    expected = pipe(TEXTS[0], generator=seeded())
    script = f"""
import json, sys, torch
class Uninstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "arche_mdlm":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Uninstalled())
from transformers import pipeline
pipe = pipeline("text-infilling", model={str(tmp_path / "saved")!r}, trust_remote_code=True, device="cpu")
print(json.dumps(pipe({TEXTS[0]!r}, generator=torch.Generator().manual_seed(0))))
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == expected


def test_without_a_model_the_shipped_one_fills_the_gap():
    """`pipeline("text-infilling")(...)`, as it stands in the README."""
    pipe = pipeline("text-infilling", device="cpu")
    (result,) = pipe("Once upon a time [MASK:20] lived happily ever after.", num_diffusion_steps=4, generator=seeded())
    assert result["generated_text"].startswith("Once upon a time")
    assert result["generated_text"].endswith(" lived happily ever after.")
    assert len(result["infills"][0]) > 10


def test_a_saved_pipeline_knows_no_default_model(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["custom_pipelines"]["text-infilling"]
    assert "default" not in written
