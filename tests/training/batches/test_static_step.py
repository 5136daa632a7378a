"""A training step runs without waiting for the GPU and gives the compiler few shapes."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion, last_layer_mdlm
from arche_mdlm.compiling_mdlm import compile_layers, repeated_layers
from arche_mdlm.training.batches.batching import label_positions
from arche_mdlm.training.models.fused_head import fuse_head, next_tokens

SHAPE = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
ARMS = ["mdlm", "llama", "gpt2"]


def make(arm, **changes):
    torch.manual_seed(0)
    if arm == "mdlm":
        return MDLMForMaskedDiffusion(MDLMConfig(mask_token_id=59, **SHAPE, **changes)).train()
    if arm == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, **changes))
    else:
        no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=1,
                                           **no_dropout, **changes))  # fmt: skip
    fuse_head(model)
    return model.train()


def batch(arm, rows=4, length=24, seed=0, indexed=True) -> dict:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 58, (rows, length), generator=generator)
    if arm == "mdlm":
        masked = torch.rand(rows, length, generator=generator) < 0.5
        inputs = {"input_ids": ids.masked_fill(masked, 59), "labels": ids.masked_fill(~masked, -100)}
        inputs["loss_weights"] = torch.rand(rows, generator=generator)
        scored = masked
    else:
        labels = ids.clone()
        labels[0, length // 2 :] = -100
        inputs = {"input_ids": ids, "labels": labels, "use_cache": False}
        scored = next_tokens(labels) != -100
    if indexed:
        inputs["positions"] = label_positions(scored)
    return inputs | {"num_items_in_batch": torch.ones(())}


def loss_and_gradients(model, inputs) -> tuple:
    loss = model(**inputs).loss
    return loss.detach(), torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("arm", ARMS)
def test_indices_of_the_labels_give_the_same_loss(arm, attention):
    model = make(arm, attn_implementation=attention)
    plain = loss_and_gradients(model, batch(arm, indexed=False))
    inputs = batch(arm)
    assert len(inputs["positions"]) > int((inputs["labels"] != -100).sum()) - 5, "filled up with others"
    torch.testing.assert_close(loss_and_gradients(model, inputs), plain, rtol=1e-5, atol=1e-5)


def test_of_the_last_layer_the_mlp_runs_at_the_indices():
    model, inputs = make("mdlm"), batch("mdlm")
    seen = []
    model.model.layers[-1].mlp.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    model(**inputs)
    assert seen == [len(inputs["positions"])]
    model.model.layers[-1].register_forward_hook(lambda *_: None)  # something looks at the layer: it runs whole
    model(**inputs)
    assert seen[1:] == [4]


def test_a_shape_of_labels_that_does_not_fit_is_an_error():
    inputs = batch("mdlm") | {"labels": torch.full((4, 9), -100)}
    with pytest.raises(ValueError, match=r"labels of shape \(4, 9\) do not fit \(4, 24\)"):
        make("mdlm")(**inputs)


# Fake tensors lack values: code that waits for the device to read a value fails.
NO_VALUE = (DataDependentOutputException, DynamicOutputShapeException)


def fake_step(arm, indexed):
    real = batch(arm, indexed=indexed)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = make(arm)
        inputs = {
            name: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value for name, value in real.items()
        }
        if arm != "mdlm":  # stock models look, in their first line, whether positions start again
            inputs["attention_mask"] = torch.ones(4, 1, 24, 24).tril()
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


@pytest.mark.parametrize("arm", ARMS)
def test_the_step_reads_nothing_from_the_device(arm):
    fake_step(arm, indexed=True)
    with pytest.raises(NO_VALUE):
        fake_step(arm, indexed=False)


@pytest.mark.parametrize("arm", ARMS)
def test_compiled_layers_meet_few_shapes(arm, monkeypatch):
    monkeypatch.setattr(last_layer_mdlm, "_compiled_mlp_at", lambda: last_layer_mdlm._eager_mlp_at)
    torch._dynamo.reset()
    counter = CompileCounter()
    model, plain = make(arm), make(arm)
    compile_layers(model, backend=counter)
    with torch._dynamo.config.patch(error_on_recompile=False):
        for seed in range(12):
            inputs = batch(arm, length=(24, 32)[seed % 2], seed=seed)
            torch.testing.assert_close(loss_and_gradients(model, inputs), loss_and_gradients(plain, inputs))
    # Shared by the layers: one a length of MDLM's canvases, one for all of AR's.
    assert counter.frame_count == (2 if arm == "mdlm" else 1)


def test_the_compiled_step_is_the_plain_one(compiler):
    """With the real compiler."""
    torch._dynamo.reset()
    model, plain, inputs = make("mdlm"), make("mdlm"), batch("mdlm")
    compile_layers(model)
    torch.testing.assert_close(
        loss_and_gradients(model, inputs), loss_and_gradients(plain, inputs), rtol=1e-4, atol=1e-5
    )


def test_no_compiler_is_an_error_before_any_work(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match="torch.compile on a CPU needs a C\\+\\+ compiler: install g"):
        compile_layers(make("llama"))
    compile_layers(make("llama"), backend="eager")


def test_a_trunk_without_layers_is_an_error():
    model = make("llama")
    model.model.layers = torch.nn.Sequential(*model.model.layers)
    with pytest.raises(ValueError, match="LlamaForCausalLM has no list of layers"):
        repeated_layers(model)
