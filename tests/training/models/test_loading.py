"""A checkpoint that is damaged in any way is refused in one line with its name."""

import json
import shutil

import pytest

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.training.models.loading import load_arm, load_config, save_arm


@pytest.fixture(scope="module")
def checkpoint(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    config = MDLMConfig(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id, hidden_size=8, intermediate_size=8,
                        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=16)  # fmt: skip
    save_arm(MDLMForMaskedDiffusion(config), tokenizer, folder)
    return folder


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE = {
    "cut weights": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:200]),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "empty weights": lambda f: (f / "model.safetensors").write_bytes(b""),
    "weights that are text": lambda f: (f / "model.safetensors").write_text("<html>404</html>" * 100),
    "another size": lambda f: change_config(f, hidden_size=16, head_dim=8),
    "more layers": lambda f: change_config(f, num_hidden_layers=2),
    "a config that is not JSON": lambda f: (f / "config.json").write_text("{"),
    "a config of another family": lambda f: change_config(f, diffusion="uniform"),
    "a config of an unknown type": lambda f: change_config(f, model_type="nothing-known"),
    "a tokenizer that is not JSON": lambda f: (f / "tokenizer.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_in_one_line(checkpoint, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    load_arm(folder)
    DAMAGE[damage](folder)
    with pytest.raises(ValueError, match="damaged") as error:
        load_arm(folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize("diffusion", ["score", "", None, 3])
def test_a_family_of_a_later_version_is_refused_in_its_own_words(checkpoint, tmp_path, diffusion):
    folder = tmp_path / "later"
    shutil.copytree(checkpoint, folder)
    change_config(folder, diffusion=diffusion)
    with pytest.raises(ValueError, match=r"diffusion=.* is not one of masked"):
        load_config(folder)
