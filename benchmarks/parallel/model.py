"""Memory, communication and time of a training step on several GPUs, predicted: which strategy to use, and what MFU to
expect.

Nothing here was fitted to a GPU. Bytes of parameters, gradients and states, bytes sent, and operations are counts of
what this trainer does; the fractions of the data sheets' figures that a run attains are assumptions, all of them in
`Assumptions`.

Sources: states a parameter and the traffic of sharding, ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, sections 3.1
and 7.2); activations counted tensor by tensor and recomputation as Korthikanti et al. 2022 (arXiv 2205.05198, section
4) do, for our layer; a ring's (n - 1) / n and 2 (n - 1) / n, Thakur et al. 2005 (doi 10.1177/1094342005051521).
"""

from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from arche_mdlm.head_loss_mdlm import _CHUNK_LOGITS
from arche_mdlm.training.models.flops import StepFlops

STRATEGIES = ("ddp", "fsdp2")


@dataclass(frozen=True)
class Machine:
    """GPUs and their links, from the makers' data sheets; operations and bytes a second, links in one direction."""

    name: str
    peak_flops: float  # dense bf16
    memory: float  # bytes
    memory_bandwidth: float
    node_link: float  # of one GPU to the others of its node
    network: float  # of a node to the others, all its adapters together
    gpus_a_node: int = 8


# NVIDIA H100 SXM5 data sheet (NVLink: 900 GB/s in both directions); DGX H100 data sheet (8 adapters of 400 Gbit/s).
H100 = Machine("H100 SXM 80 GB", 989.4e12, 80e9, 3.35e12, 450e9, 400e9)


@dataclass(frozen=True)
class Assumptions:
    """Values that data sheets do not give; they are not measured."""

    attainable: float = 0.7  # of the peak, by the matrix products
    memory: float = 0.8  # of the memory's bandwidth, by all else
    passes: float = (
        5.0  # of a kept activation through memory: written and read, read again, its gradient written and read
    )
    links: float = 0.8  # of the links' bandwidth, by large collectives
    hop: float = 2e-6  # seconds that a collective waits at each step round its ring
    overlap: float = 0.8  # share of the computing during which the links can work as well
    reserve: float = 6e9  # bytes for CUDA, NCCL and fragmentation


@dataclass(frozen=True)
class ModelSize:
    """The properties of a model that the predictions need: parameters by the unit that FSDP2 gathers, and shapes."""

    layer_parameters: int  # of one layer
    root_parameters: int  # of all else
    flops: StepFlops

    @classmethod
    def of(cls, model: PreTrainedModel) -> "ModelSize":
        """Of a model, which may be on the meta device."""
        layers = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or [])]
        size = sum(p.numel() for p in layers[0].parameters())
        total = sum(p.numel() for p in model.parameters())
        return cls(size, total - size * len(layers), StepFlops.of(model.config))

    @property
    def parameters(self) -> int:
        return self.layer_parameters * self.flops.layers + self.root_parameters


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one GPU; `accumulation` of them make a step."""

    rows: int
    length: int
    supervised: float = 1.0  # share of the positions: 1 for AR, 0.5 on average for MDLM with times uniform in (0, 1)
    accumulation: int = 1
    checkpointing: bool = False  # layers computed again in the backward pass

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at the end of the forward pass, where they are at their highest."""

    parameters: float
    gradients: float
    optimizer: float
    copies: float  # bf16 weights, gathered layers, communication buffers
    activations: float
    head: float  # the chunk of logits, and the head's gradient, which is made in the forward pass
    reserve: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Prediction:
    strategy: str
    memory: Memory
    fits: bool
    traffic: float  # bytes that a GPU sends in a step
    seconds: float  # of a step
    exposed: float  # of these, waiting for the links
    mfu: float


def _check(gpus: int, strategy: str) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r} is not one of {', '.join(STRATEGIES)}")
    if gpus < 1:
        raise ValueError(f"gpus={gpus} must be at least 1")


def activation_bytes(size: ModelSize, batch: Batch) -> float:
    """Bytes that autograd keeps of the layers of a micro-batch, with bf16 products and float32 between layers.

    A token and layer: of two norms the float32 input, the normed value and its scale (16 h + 8); their outputs in bf16,
    once for each of q, k, v, gate and up (10 h); bf16 queries, keys, values and output of attention (4 q + 4 k for q
    query and k key channels), and its float32 normaliser (4 a head); four bf16 values of the gated MLP (8 f). With
    checkpointing a layer keeps its float32 input alone, but for the one that is being computed again.
    """
    flops = size.flops
    queries, keys = flops.heads * flops.head_dim, flops.kv_heads * flops.head_dim
    layer = batch.tokens * (26 * flops.hidden + 4 * queries + 4 * keys + 8 * flops.inner + 8 + 4 * flops.heads)
    if batch.checkpointing:
        return batch.tokens * 4 * flops.hidden * flops.layers + layer
    return layer * flops.layers


def memory(size: ModelSize, batch: Batch, gpus: int, strategy: str, assumptions: Assumptions | None = None) -> Memory:
    """Bytes of one of so many GPUs. Weights, gradients and both moments of Adam are float32: 16 bytes a parameter.

    ValueError for an unknown strategy or no GPU.
    """
    _check(gpus, strategy)
    assumptions = assumptions or Assumptions()
    flops, share = size.flops, gpus if strategy == "fsdp2" else 1
    parameters, in_layers = size.parameters, size.parameters - size.root_parameters
    if gpus == 1:
        copies = 2.0 * in_layers  # autocast's bf16 weights
    elif strategy == "ddp":
        copies = 2.0 * in_layers + 4.0 * parameters  # and the buckets that gradients are sent from
    else:
        # Root: gathered for the whole forward pass, and its gradient before it is cut. Layers: one in use and one on
        # its way, in bf16, and of the one behind them the bf16 gradient and its float32 copy that is sent.
        copies = 8.0 * size.root_parameters + (2 * 2 + 2 + 4) * size.layer_parameters
    head_size = flops.head_rows * flops.hidden
    chunk = min(_CHUNK_LOGITS["cuda"], batch.tokens * batch.supervised * flops.head_rows)
    states = batch.tokens * batch.supervised * flops.hidden
    return Memory(
        parameters=4.0 * parameters / share,
        gradients=4.0 * parameters / share,
        optimizer=8.0 * parameters / share,
        copies=copies,
        activations=activation_bytes(size, batch),
        # Logits in bf16 and in float32, their gradient in bf16; of the head a bf16 copy and the gradient; its inputs
        # and theirs.
        head=8.0 * chunk + (2 + 4) * head_size + 10.0 * states,
        reserve=assumptions.reserve,
    )


def ring_traffic(num_bytes: float, gpus: int, kind: str) -> float:
    """Bytes that each GPU of a ring sends to `gather` or `reduce_scatter` `num_bytes` (all parts together), or to
    `all_reduce` them.

    ValueError for another kind.
    """
    rounds = {"gather": 1, "reduce_scatter": 1, "all_reduce": 2}
    if kind not in rounds:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(rounds)}")
    return rounds[kind] * (gpus - 1) / gpus * num_bytes


@dataclass(frozen=True)
class Traffic:
    """Bytes that a GPU sends in a step, and in how many collectives."""

    forward: float
    backward: float
    collectives: int

    @property
    def total(self) -> float:
        return self.forward + self.backward


def traffic(size: ModelSize, batch: Batch, gpus: int, strategy: str, weight_bytes: int = 2) -> Traffic:
    """DDP all-reduces float32 gradients once a step. FSDP2 gathers each layer twice in `weight_bytes` a parameter and
    the root once in float32, and reduce-scatters float32 gradients, in every micro-batch."""
    _check(gpus, strategy)
    if gpus == 1:
        return Traffic(0.0, 0.0, 0)
    layers = size.flops.layers
    if strategy == "ddp":
        gradients = 4.0 * size.parameters
        buckets = max(1, round(gradients / 2**20 / 25))  # of 25 MiB, DDP's default
        return Traffic(0.0, ring_traffic(gradients, gpus, "all_reduce"), 2 * buckets)
    weights = ring_traffic(weight_bytes * size.layer_parameters * layers, gpus, "gather")
    root = ring_traffic(4.0 * size.root_parameters, gpus, "gather")
    gradients = ring_traffic(4.0 * size.parameters, gpus, "reduce_scatter")
    times = batch.accumulation
    return Traffic(times * (weights + root), times * (weights + gradients), times * (3 * layers + 2))


def _computing(
    size: ModelSize, batch: Batch, operations: float, machine: Machine, assumptions: Assumptions
) -> tuple[float, float]:
    """Seconds of a step's forward and backward passes: the products one after another, and between them what memory has
    to carry.

    The head is done with in the forward pass, its gradient too: three products, and 50 bytes a logit (`head_loss`, line
    by line: written in bf16, made float32, peak, difference, exponential, sum, gradient, back to bf16, read by two
    products).
    """
    supervised = batch.accumulation * round(batch.tokens * batch.supervised)
    head = 6.0 * supervised * size.flops.hidden * size.flops.head_rows
    products, carried = machine.peak_flops * assumptions.attainable, machine.memory_bandwidth * assumptions.memory
    whole = activation_bytes(size, replace(batch, checkpointing=False)) * batch.accumulation
    layers, between = (operations - head) / products, assumptions.passes * whole / carried
    forward = layers / 3 + 0.4 * between  # two passes of five
    backward = layers * 2 / 3 + 0.6 * between + (forward if batch.checkpointing else 0.0)
    return forward + head / products + 50.0 * supervised * size.flops.head_rows / carried, backward


def predict(
    size: ModelSize,
    batch: Batch,
    gpus: int,
    strategy: str,
    machine: Machine = H100,
    assumptions: Assumptions | None = None,
    selects: bool = False,
) -> Prediction:
    """Memory, time and MFU of a step.

    Overlap: DDP sends while the last micro-batch goes backward, FSDP2 gathers in both passes and sends gradients while
    it goes backward; what does not fit beside `overlap` of the computing is waited for. The root's gathering comes
    before the first layer and is waited for, the optimiser comes last and is bound by memory. `selects`: MDLM's last
    MLP runs at supervised positions only, which under FSDP2 it never does. ValueError for an unknown strategy or no
    GPU.
    """
    assumptions = assumptions or Assumptions()
    flops = StepFlops(**{**vars(size.flops), "at_labels": "mlp" if selects and strategy == "ddp" else "nothing"})
    supervised = round(batch.tokens * batch.supervised)
    operations = batch.accumulation * flops.count(batch.rows, batch.length, supervised)
    forward, backward = _computing(size, batch, operations, machine, assumptions)
    sent = traffic(size, batch, gpus, strategy)
    link = (
        machine.node_link if gpus <= machine.gpus_a_node else min(machine.node_link, machine.network)
    ) * assumptions.links
    waits = sent.collectives * (gpus - 1) * assumptions.hop
    shadow = assumptions.overlap
    if strategy == "ddp":
        hidden_by = shadow * backward / batch.accumulation
        exposed = max(0.0, sent.backward / link + waits - hidden_by)
    else:
        root = batch.accumulation * ring_traffic(4.0 * size.root_parameters, gpus, "gather") / link if gpus > 1 else 0.0
        exposed = root + max(0.0, sent.forward / link - root + waits / 3 - shadow * forward)
        exposed += max(0.0, sent.backward / link + waits * 2 / 3 - shadow * backward)
    share = gpus if strategy == "fsdp2" else 1
    # AdamW reads weights, gradients and both moments, and writes all but the gradients: seven float32 a parameter.
    update = 28.0 * size.parameters / share / (machine.memory_bandwidth * assumptions.memory)
    seconds = forward + backward + exposed + update
    held = memory(size, batch, gpus, strategy, assumptions)
    mfu = operations / seconds / machine.peak_flops
    return Prediction(strategy, held, held.total <= machine.memory, sent.total, seconds, exposed, mfu)


def recommend(predictions: list[Prediction], margin: float = 0.05) -> Prediction | None:
    """The first that fits, unless another one's step is shorter by more than `margin` of it; None where nothing fits.

    So DDP, the simpler one, has the benefit of the doubt: what FSDP2 costs the host is not in the model.
    """
    fitting = [prediction for prediction in predictions if prediction.fits]
    if not fitting:
        return None
    fastest = min(fitting, key=lambda prediction: prediction.seconds)
    return fastest if fastest.seconds < (1 - margin) * fitting[0].seconds else fitting[0]
