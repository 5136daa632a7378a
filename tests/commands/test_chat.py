"""`arche-mdlm chat`: turns, commands, a pipe as its input, and Ctrl-C."""

import copy
import io
import sys

import pytest
import torch

from arche_mdlm.commands import live_view
from arche_mdlm.commands.conversation import Conversation
from arche_mdlm.commands.main import main
from arche_mdlm.configuration.settings import ModelSettings
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.loading import save_arm, set_generation_defaults

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    """Both arms, without and with a chat template."""
    root = tmp_path_factory.mktemp("chat")
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "tie_word_embeddings": True}  # fmt: skip
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = TEMPLATE
    for name, architecture in (("mdlm", "mdlm"), ("ar", "llama")):
        torch.manual_seed(0)
        model = build_model(ModelSettings(architecture, shape), tokenizer)
        set_generation_defaults(model, tokenizer, 64)
        model.generation_config.suppress_tokens = [1, 2, 3] if name == "ar" else [1, 2]  # a reply has all its tokens
        save_arm(model, tokenizer, root / name)
        save_arm(model, chatty, root / f"{name}-chat")
    return root


@pytest.fixture
def talk(place, monkeypatch, capsys):
    """Say lines to a model through a pipe: (exit status, replies, what the program says)."""

    def say(name: str, lines: list[str], *extra: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        words = ["chat", str(place / name), "--device", "cpu", "--threads", "1", "--max_new_tokens", "6", *extra]
        if name.startswith("mdlm"):
            words += ["--num_diffusion_steps", "3"]
        status = main(words)
        out, err = capsys.readouterr()
        return status, out, err

    return say


@pytest.mark.parametrize("name", ["mdlm", "ar", "mdlm-chat", "ar-chat"])
def test_turns_and_commands(talk, name):
    status, out, err = talk(name, ["Hello", "", "/reset", "/nothing", "Hello", "/exit", "never said"])
    assert status == 0
    assert ("no chat template: it goes on with your text" in err) == ("chat" not in name)
    assert "begun anew" in err
    assert "there is no command '/nothing'" in err
    assert out.strip()
    assert "never said" not in out


@pytest.mark.parametrize("name", ["mdlm", "ar"])
def test_the_seed_and_what_was_said_decide(talk, name):
    first = talk(name, ["Hello", "And then"])[1]
    assert talk(name, ["Hello", "And then"])[1] == first
    assert talk(name, ["Hello", "And then"], "--seed", "1")[1] != first
    # What was said before changes the second reply.
    assert talk(name, ["Hello", "/reset", "And then"])[1] != first


@pytest.mark.parametrize("name", ["mdlm-chat", "ar-chat"])
def test_old_turns_are_left_out_with_a_word(talk, name):
    status, _, err = talk(name, ["The cat sat on the mat and the dog"] * 6)
    assert status == 0
    assert "the oldest turns no longer fit the context of 64 tokens" in err


@pytest.mark.parametrize("name", ["mdlm", "ar"])
def test_a_turn_that_cannot_be_taken_ends_nothing(talk, name):
    status, out, err = talk(name, ["cat " * 90, "Hello"])
    assert status == 0
    assert "does not fit the context of 64" in err
    assert out.strip()


def test_a_mask_is_for_the_other_arm(talk):
    assert "cannot fill masks" in talk("ar", ["a [MASK] b"])[2]


@pytest.mark.parametrize(("at", "told"), [(1, "stopped: this turn is left out"), (2, "stopped")])
@pytest.mark.parametrize("name", ["mdlm-chat", "ar-chat"])
def test_ctrl_c_stops_a_reply_and_the_chat_goes_on(talk, monkeypatch, name, at, told):
    make, calls = live_view.make_streamer, []

    def interrupted(*args, **kwargs):
        streamer = make(*args, **kwargs)
        if not calls:
            put = streamer.put

            def stop(value):
                calls.append(value)
                if len(calls) == at:
                    raise KeyboardInterrupt
                put(value)

            streamer.put = stop
        return streamer

    monkeypatch.setattr(live_view, "make_streamer", interrupted)
    status, out, err = talk(name, ["Hello", "Hello"], "--temperature", "1")
    assert status == 0
    assert len(calls) == at
    assert err.splitlines().count(told) == 1
    assert out.strip(), "the second reply"


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [("ar", ["--sampler", "entropy"], "--sampler is for diffusion models"), ("mdlm", ["--system", "x"], "--system 'x' needs a chat template"),
     ("mdlm", ["--max_new_tokens", "64"], "must be less than the context of 64")],
)  # fmt: skip
def test_wrong_options(talk, name, extra, message):
    status, _, err = talk(name, ["Hello"], *extra)
    assert status == 2
    assert message in err


def test_a_conversation_keeps_whole_turns(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.chat_template = TEMPLATE
    talked = Conversation(own, 60, system="Be short.")
    for number in range(5):
        talked.say(f"The cat {number}")
        ids, left_out = talked.prompt(10)
        talked.answer(f"The dog {number}")
        assert len(ids) + 10 <= 60
        text = own.decode(ids)
        assert "system: Be short." in text
        assert text.rstrip().endswith(f"user: The cat {number}\nassistant:")
        assert not left_out or "The cat 0" not in text
        assert left_out or number < 2
    assert talked.turns[0]["role"] == "user"
    talked.say("gone")
    talked.answer("")
    assert talked.turns[-1]["content"] == "The dog 4"
    talked.reset()
    assert talked.turns == []


def test_without_a_template_the_text_goes_on(tokenizer):
    talked = Conversation(tokenizer, 60)
    talked.say("The cat")
    talked.answer(" sat.")
    talked.say("The dog")
    ids, _ = talked.prompt(5)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "The cat sat.\nThe dog"
