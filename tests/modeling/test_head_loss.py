"""The chunked head and loss against plain ones: values, gradients, and memory."""

import copy

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from arche_mdlm.head_loss_mdlm import head_loss, module_loss
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.training.models.fused_head import fuse_head


def case(positions=37, hidden=8, vocabulary=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(positions, hidden, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, hidden, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocabulary - 1, (positions,), generator=generator)
    return states, weight, targets, torch.rand(positions, generator=generator)


def plain(states, weight, targets, coefficients, forbidden_id):
    logits = states @ weight.T
    if forbidden_id is not None and forbidden_id < len(weight):
        logits = logits.masked_fill(torch.arange(len(weight)) == forbidden_id, -torch.inf)
    nll = F.cross_entropy(logits, targets, reduction="none")
    return (nll * coefficients).sum(), nll


def gradients(loss, *tensors):
    return torch.autograd.grad(loss * 3, tensors)  # the gradient from above is passed on


@pytest.mark.parametrize("chunk", [1, 5, 37, 1000, None])
@pytest.mark.parametrize("forbidden_id", [None, 49, 50])  # none, the last token, past the head
def test_equal_to_the_plain_way(chunk, forbidden_id):
    states, weight, targets, coefficients = case()
    expected, nll = plain(states.requires_grad_(), weight.requires_grad_(), targets, coefficients, forbidden_id)
    wanted = gradients(expected, states, weight)
    ours = [tensor.detach().float().requires_grad_() for tensor in (states, weight)]
    loss, own_nll = head_loss(*ours, targets, coefficients, forbidden_id, chunk)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(own_nll.double(), nll.detach(), rtol=1e-5, atol=1e-5)
    assert not own_nll.requires_grad
    for own, value in zip(gradients(loss, *ours), wanted, strict=True):
        torch.testing.assert_close(own.double(), value, rtol=1e-5, atol=1e-5)


def test_without_gradients_the_logits_are_all_that_is_computed():
    states, weight, targets, _ = case()
    weight = weight.float().requires_grad_()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss, nll = head_loss(states.float(), weight, targets, chunk=10)
    assert counter.get_total_flops() == 2 * states.numel() * len(weight)
    expected, _ = head_loss(states.float(), weight, targets)
    torch.testing.assert_close(loss, expected.detach())


def test_no_coefficients_is_the_sum_and_nothing_at_all_is_zero():
    states, weight, targets, _ = case()
    loss, nll = head_loss(states.float(), weight.float(), targets)
    assert loss.item() == pytest.approx(nll.sum().item())
    empty = states[:0].float().requires_grad_()
    loss, nll = head_loss(empty, weight.float().requires_grad_(), targets[:0])
    loss.backward()
    assert (loss.item(), nll.shape, empty.grad.shape) == (0.0, (0,), (0, 8))


def test_large_logits_do_not_overflow():
    states, weight, targets, coefficients = case()
    expected, _ = plain(states * 1000, weight, targets, coefficients, 49)
    own = (states * 1000).float().requires_grad_()
    loss, _ = head_loss(own, weight.float(), targets, coefficients, 49)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert gradients(loss, own)[0].isfinite().all()


def test_under_autocast_products_are_bfloat16_and_the_rest_float32():
    states, weight, targets, coefficients = case(positions=200)
    expected, _ = plain(states.requires_grad_(), weight.requires_grad_(), targets, coefficients, 49)
    wanted = gradients(expected, states, weight)
    ours = [tensor.detach().float().requires_grad_() for tensor in (states, weight)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, nll = head_loss(*ours, targets, coefficients, 49, chunk=64)
    assert (loss.dtype, nll.dtype) == (torch.float32, torch.float32)
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    for own, value in zip(gradients(loss, *ours), wanted, strict=True):
        assert own.dtype == torch.float32
        assert (own - value).norm() < 0.02 * value.norm()


def test_never_more_logits_than_a_chunk(monkeypatch):
    """Every tensor as wide as the vocabulary that is made on the way has at most `chunk` rows."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Widest(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] == 50:
                self.rows = max(self.rows, len(out))
            return out

    states, weight, targets, coefficients = case(positions=100)
    own = states.float().requires_grad_()
    head = weight.float().requires_grad_()
    with Widest() as widest:
        head_loss(own, head, targets, coefficients, 49, chunk=10)[0].backward()
    assert widest.rows == 10


def test_bad_input():
    states, weight, targets, coefficients = case()
    with pytest.raises(ValueError, match="37 states, 36 targets and 37 coefficients"):
        head_loss(states, weight, targets[:-1], coefficients)


# --- in the models ----------------------------------------------------------------------------------------------------


def corrupted(model, batch=3, length=12):
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(0, model.config.vocab_size - 1, (batch, length), generator=generator)
    masked = torch.rand(batch, length, generator=generator) < 0.5
    return {
        "input_ids": clean.masked_fill(masked, model.config.mask_token_id),
        "labels": clean.masked_fill(~masked, -100),
        "timesteps": torch.rand(batch, generator=generator) * 0.9 + 0.1,
    }


def loss_and_gradients(model, inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False}, {"attention_bias": True}])
@pytest.mark.parametrize("padding", [False, True])
def test_training_equals_the_plain_forward(build_mdlm, options, padding):
    """Chunked loss and the last layer at the labelled positions alone, against all logits and whole layers."""
    model = build_mdlm(**options)
    inputs = corrupted(model)
    if padding:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["attention_mask"][0, -4:] = 0
        inputs["labels"][0, -4:] = -100
    plain_loss, plain_gradients = loss_and_gradients(model.eval(), inputs)
    assert model(**inputs).logits is not None
    assert model(**inputs, skip_logits=True).logits is None
    loss, own = loss_and_gradients(model.train(), inputs)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert set(own) == set(plain_gradients)
    for name, value in plain_gradients.items():
        torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_whole_layers_where_something_looks_inside(build_mdlm):
    """With a hook on the last layer, or checkpointing, the whole layer runs, with equal results."""
    model = build_mdlm().train()
    inputs = corrupted(model)
    expected = loss_and_gradients(model, inputs)
    seen = []
    handle = model.model.layers[-1].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    assert loss_and_gradients(model, inputs)[0] == pytest.approx(expected[0], rel=1e-5)
    assert seen == [(3, 12, model.config.hidden_size)]
    handle.remove()
    model.gradient_checkpointing_enable()
    loss, own = loss_and_gradients(model, inputs)
    assert loss == pytest.approx(expected[0], rel=1e-5)
    for name, value in expected[1].items():
        torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_no_labels_in_a_batch(build_mdlm):
    model = build_mdlm().train()
    inputs = corrupted(model)
    inputs["labels"][:] = -100
    loss, _ = loss_and_gradients(model, inputs)
    assert loss == 0.0


@pytest.fixture
def tiny_gpt2():
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=48, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("arm", ["tiny_ar", "tiny_gpt2"])
def test_ar_with_a_fused_head(arm, request):
    model = copy.deepcopy(request.getfixturevalue(arm))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (3, 12), generator=generator)
    labels = ids.clone()
    labels[0, 7:] = -100
    inputs = {"input_ids": ids, "labels": labels, "use_cache": False, "num_items_in_batch": torch.tensor(10.0)}
    expected = loss_and_gradients(model.eval(), inputs)
    stock = model.train()(**inputs).loss.item()
    fuse_head(model)
    loss, own = loss_and_gradients(model, inputs)
    assert loss == pytest.approx(stock, rel=1e-5)
    assert model(**inputs).logits is None
    for name, value in expected[1].items():
        torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert model.eval()(**inputs).logits.shape == (3, 12, model.config.vocab_size)
    # Averaged weights are a copy: it must look at its own.
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.equal(other.eval()(**inputs).logits, model(**inputs).logits)
    assert other.train()(**inputs).loss.item() != pytest.approx(loss)


class Doubled(torch.nn.Module):
    """A head that does more than its weight says, as an adapter, or a quantised or sharded one, does."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.scale = linear, torch.nn.Parameter(torch.tensor(2.0))
        self.out_features, self.weight, self.bias = linear.out_features, linear.weight, None

    def forward(self, states):
        return self.scale * self.linear(states)


def hooked(linear):
    linear.register_forward_hook(lambda module, inputs, output: output * 2)
    return linear


def with_bias(linear):
    other = torch.nn.Linear(linear.in_features, linear.out_features, bias=True)
    other.weight = linear.weight
    return other


def exchanged(linear):
    """As accelerate's offloading does it."""
    stock = linear.forward
    linear.forward = lambda states: stock(states) * 2
    return linear


def offloaded(linear):
    """Its weight is loaded only during its call."""
    weight = linear.weight.data.clone()
    linear.weight = torch.nn.Parameter(torch.empty_like(weight, device="meta"))
    linear.forward = lambda states: states @ weight.T
    return linear


HEADS = {"adapter": Doubled, "hook": hooked, "bias": with_bias, "exchanged": exchanged, "offloaded": offloaded}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_called_wherever_its_weight_is_not_all(build_mdlm, kind):
    """Loss, gradients, likelihood and text are those of the called module."""
    model = build_mdlm(tie_word_embeddings=False)
    model.lm_head = HEADS[kind](model.lm_head)
    ids = torch.randint(4, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    where = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    canvas, labels = ids.masked_fill(where, 3), ids.masked_fill(~where, -100)
    trainable = {name: p for name, p in model.named_parameters() if p.device.type != "meta"}

    logits = model(canvas).logits
    expected = F.cross_entropy(logits[where], ids[where])
    wanted = torch.autograd.grad(expected, trainable.values(), allow_unused=True)
    loss = model.train()(canvas, labels=labels).loss
    found = torch.autograd.grad(loss, trainable.values(), allow_unused=True)

    torch.testing.assert_close(loss, expected)
    for name, mine, theirs in zip(trainable, found, wanted, strict=True):
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=name)
    model.eval()
    told = nelbo(model, ids, num_samples=4, generator=torch.Generator().manual_seed(0))
    assert bool(told.nats.isfinite().all())
    model.lm_head, head = torch.nn.Linear(32, 40, bias=False), model.lm_head
    plain_bound = nelbo(model, ids, num_samples=4, generator=torch.Generator().manual_seed(0))
    model.lm_head = head
    assert not torch.allclose(told.nats, plain_bound.nats)
    # At temperature 0 one step takes the most probable token of each position, as forward has it.
    written = model.generate(canvas, max_new_tokens=0, num_diffusion_steps=1, do_sample=False)
    assert torch.equal(written[where], logits.argmax(-1)[where])


def test_the_loss_of_a_called_head_holds_a_chunk_of_logits_at_a_time():
    states, weight, targets, coefficients = (tensor.float() for tensor in case(positions=40))
    linear = torch.nn.Linear(weight.shape[1], len(weight), bias=False)
    linear.weight = torch.nn.Parameter(weight)
    sizes = []
    linear.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    states.requires_grad_()
    loss, nll = module_loss(linear, states, targets.long(), coefficients, 49, chunk=16)
    assert sizes == [16, 16, 8]
    expected, expected_nll = head_loss(states, weight, targets.long(), coefficients, 49)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(nll, expected_nll)
    for mine, theirs in zip(gradients(loss, states), gradients(expected, states), strict=True):
        torch.testing.assert_close(mine, theirs)
    none = module_loss(linear, states[:0], targets[:0].long(), coefficients[:0])
    assert none[0] == 0


def test_a_causal_head_with_a_bias_is_called_too(tiny_ar):
    tiny_ar.lm_head = with_bias(tiny_ar.lm_head)
    inputs = {"input_ids": torch.randint(0, 40, (2, 9)), "num_items_in_batch": torch.tensor(16)}
    inputs["labels"] = inputs["input_ids"]
    stock, _ = loss_and_gradients(tiny_ar.train(), inputs)
    fuse_head(tiny_ar)
    assert loss_and_gradients(tiny_ar, inputs)[0] == pytest.approx(stock, rel=1e-5)
