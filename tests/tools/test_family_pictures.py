"""The pictures of the families show what the library makes, a cell a position."""

import pytest
import torch
from PIL import Image

from arche_mdlm import MDLMConfig
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.family_parts_mdlm import FAMILY_PARTS
from arche_mdlm.training.models.loading import save_arm
from tools import family_pictures as pictures

TEXT = "The cat saw the dog. The dog saw the cat. The end."


@pytest.fixture
def ids(tokenizer):
    return tokenizer(TEXT)["input_ids"]


@pytest.mark.parametrize("family", FAMILY_PARTS)
def test_the_corruption_is_that_of_training(family, tokenizer, ids):
    picture = pictures.corruption(family, tokenizer, ids, seed=1)
    config = MDLMConfig(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id, diffusion=family,
                        **pictures.FAMILIES[family])  # fmt: skip
    clean, generator = torch.tensor([ids] * pictures.EXAMPLES), torch.Generator().manual_seed(1)
    open = torch.ones_like(clean, dtype=torch.bool)
    open[:, 0] = False
    made = family_of(config).corrupt(clean, open, "nelbo", generator).input_ids[:, : len(ids)]
    expected = sorted((made != clean).sum(-1).tolist())
    shown = [sum(kind != "clean" for _, kind in strip.cells) for strip in picture.strips]
    assert shown == [0, *expected]
    assert all(len(strip.cells) == len(ids) for strip in picture.strips)
    noise = {kind for strip in picture.strips for _, kind in strip.cells} - {"clean"}
    assert noise == ({"noise"} if "uniform" in family else {"mask"})
    blocks = "block" in family
    assert picture.starts == (set(range(8, len(ids), 8)) if blocks else set())
    assert picture.strips[1].label.startswith("example" if blocks or family == "eso" else "t = 0.")


def test_the_writing_is_that_of_generate(build_mdlm, tokenizer):
    model = build_mdlm(vocab_size=300, max_position_embeddings=64)
    model.generation_config.pad_token_id = None  # a pad would end the text
    picture = pictures.writing(model, tokenizer, seed=2)
    masks = [sum(kind == "mask" for _, kind in strip.cells) for strip in picture.strips]
    assert masks == sorted(masks, reverse=True)
    assert masks[0] > masks[-1] == 0
    assert {kind for _, kind in picture.strips[-1].cells} <= {"written", "new"}
    fresh = sum(kind == "new" for _, kind in picture.strips[-1].cells)
    assert fresh == masks[-2]


def test_a_token_that_will_change_is_marked(tokenizer, monkeypatch, build_mdlm):
    model, a, b = build_mdlm(vocab_size=300), 20, 21
    bos = tokenizer.bos_token_id

    class Out:
        sequences = torch.tensor([[bos, a, b]])
        history = torch.tensor([[[bos, b, a]], [[bos, b, b]], [[bos, a, b]], [[bos, a, b]]])

    monkeypatch.setattr(model, "generate", lambda **options: Out)
    monkeypatch.setattr(pictures, "STAGES", (1 / 4, 1 / 2, 1))
    kinds = [[kind for _, kind in strip.cells] for strip in pictures.writing(model, tokenizer, seed=0).strips]
    assert kinds == [["written", "changing", "changing"], ["written", "changing", "new"], ["written", "new", "written"]]


def test_positions_stand_under_each_other_and_fit():
    places = pictures._places([100.0] * 40, {8, 16, 24, 32})
    assert places == sorted(places)
    assert max(left for _, left in places) + 100 <= pictures.WIDTH - pictures.MARGIN
    assert len({line for line, _ in places}) > 1


def test_all_families_are_drawn_or_named(tmp_path, capsys, build_mdlm, tokenizer):
    save_arm(build_mdlm(vocab_size=300), tokenizer, tmp_path / "model")
    words = ["--output", str(tmp_path / "out"), "--models", f"block={tmp_path / 'model'}"]
    assert pictures.main(words) == 0
    said = capsys.readouterr().out
    for family in pictures.FAMILIES:
        for what in ("corruption", "writing"):
            name = f"{family}-{what}.png"
            assert name in said
            if "skipped" not in next(line for line in said.splitlines() if name in line):
                assert Image.open(tmp_path / "out" / name).size[0] == pictures.WIDTH
    assert (tmp_path / "out" / "block-writing.png").is_file()
    assert (tmp_path / "out" / "masked-corruption.png").is_file()
