"""Pushing to and pulling from the Hub with the real client, over HTTP, against `hub_server` on loopback.

The client reads HF_ENDPOINT when it is imported, so each step is a function whose source is run in a process of its own:
it imports what it needs and returns something that JSON can hold.
"""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import hub_environment, hub_server

REPOSITORY = Path(__file__).parents[1]


def attempt(function: Callable, *args: object, environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess:
    """Run `function(*args)` in a fresh interpreter, `digest` at hand; its result is printed as the last line."""
    sources = inspect.getsource(digest) + inspect.getsource(function)
    script = f"import json\n{sources}\nprint(json.dumps({function.__name__}(*json.loads({json.dumps(args)!r}))))"
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


def digest(tensor):
    import hashlib

    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


class Client:
    """Somebody's computer: its own cache, talking to one Hub."""

    def __init__(self, url: str, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True)
        self.environment = hub_environment(url, home=folder / "home")

    def run(self, function: Callable, *args: object):
        process = attempt(function, *args, environment=self.environment, cwd=self.folder)
        assert process.returncode == 0, f"{function.__name__} failed:\n{process.stdout}\n{process.stderr}"
        return json.loads(process.stdout.splitlines()[-1])

    def fail(self, function: Callable, *args: object) -> str:
        process = attempt(function, *args, environment=self.environment, cwd=self.folder)
        assert process.returncode != 0, f"{function.__name__} should have failed:\n{process.stdout}"
        return process.stderr


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory):
    with hub_server(tmp_path_factory.mktemp("hub")) as address:
        yield address


@pytest.fixture
def client(url: str, tmp_path: Path) -> Callable[[str], Client]:
    return lambda name: Client(url, tmp_path / name)


# --- A stock model: what works here is the stand-in's and the libraries', not ours -----------------------------------


def push_stock(repo_id):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = ["<s>", "</s>", "<pad>", "once", "upon", "a", "time"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **specials)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **shape)).eval()

    pushed = []
    tokenizer.push_to_hub(repo_id)
    for _ in range(2):
        logits = model(torch.arange(len(words))[None]).logits
        pushed.append({"commit": model.push_to_hub(repo_id).oid, "logits": digest(logits)})
        with torch.no_grad():
            model.lm_head.weight.mul_(-1)
    return pushed


def pull_stock(repo_id, revisions):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pulled = []
    for revision in revisions:
        tokenizer = AutoTokenizer.from_pretrained(repo_id, revision=revision)
        assert tokenizer("once upon a time")["input_ids"] == [3, 4, 5, 6]
        model = AutoModelForCausalLM.from_pretrained(repo_id, revision=revision).eval()
        pulled.append(digest(model(torch.arange(7)[None]).logits))
    return pulled


def test_a_pushed_model_comes_back_bit_equal_at_each_revision(client):
    first, second = client("author").run(push_stock, "arche/tiny-llama")
    assert first["commit"] != second["commit"]
    assert first["logits"] != second["logits"]

    pulled = client("reader").run(pull_stock, "arche/tiny-llama", [first["commit"], second["commit"], "main"])

    assert pulled == [first["logits"], second["logits"], second["logits"]]


# --- A masked diffusion model, read where the package is not installed ------------------------------------------------


def push_mdlm(repo_id):
    import torch
    from huggingface_hub import HfApi

    from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "mask_token_id": 31}
    config = MDLMConfig(vocab_size=32, max_position_embeddings=32, initializer_range=0.5, **shape, **ids)
    model = MDLMForMaskedDiffusion(config).eval()
    model.push_to_hub(repo_id)
    canvas = torch.tensor([[0, 7, 31, 9, 31, 31, 12, 1]])
    options = {"max_new_tokens": 8, "num_diffusion_steps": 4, "do_sample": True}
    text = model.generate(canvas[:, :2], generator=torch.Generator().manual_seed(0), **options)
    return {
        "logits": digest(model(canvas).logits),
        "states": digest(model.model(canvas).last_hidden_state),
        "text": text.tolist(),
        "code": sorted(name for name in HfApi().list_repo_files(repo_id) if name.endswith(".py")),
    }


def pull_mdlm(repo_id):
    import importlib
    import sys

    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

    class Uninstalled:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "arche_mdlm":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Uninstalled())
    try:
        importlib.import_module("arche_mdlm")
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError("arche_mdlm can be imported here")

    config = AutoConfig.from_pretrained(repo_id, trust_remote_code=True)
    loaded = {
        auto.__name__: auto.from_pretrained(repo_id, trust_remote_code=True).eval()
        for auto in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM)
    }
    assert type(config).__module__.startswith("transformers_modules."), type(config)
    canvas = torch.tensor([[0, 7, 31, 9, 31, 31, 12, 1]])
    options = {"max_new_tokens": 8, "num_diffusion_steps": 4, "do_sample": True}
    model = loaded["AutoModelForCausalLM"]
    return {
        "config": [type(config).__name__, config.model_type, config.mask_token_id],
        "classes": {name: type(model).__name__ for name, model in loaded.items()},
        "states": digest(loaded["AutoModel"](canvas).last_hidden_state),
        "logits": [digest(loaded[name](canvas).logits) for name in ("AutoModelForMaskedLM", "AutoModelForCausalLM")],
        "text": model.generate(canvas[:, :2], generator=torch.Generator().manual_seed(0), **options).tolist(),
    }


def test_a_pushed_mdlm_loads_and_writes_where_the_package_is_not_installed(client):
    pushed = client("author").run(push_mdlm, "arche/mdlm-tinystories")
    pulled = client("reader").run(pull_mdlm, "arche/mdlm-tinystories")

    modules = {path.name for path in (REPOSITORY / "modeling_mdlm").glob("*_mdlm.py")}
    assert {"configuration_mdlm.py", "modeling_mdlm.py"} <= set(pushed["code"]) <= modules
    assert pulled["config"] == ["MDLMConfig", "mdlm", 31]
    assert pulled["classes"] == {
        "AutoModel": "MDLMModel",
        "AutoModelForMaskedLM": "MDLMForMaskedDiffusion",
        "AutoModelForCausalLM": "MDLMForMaskedDiffusion",
    }
    assert pulled["states"] == pushed["states"]
    assert pulled["logits"] == [pushed["logits"]] * 2
    assert pulled["text"] == pushed["text"]
    assert len(pulled["text"][0]) == 10
    assert 31 not in pulled["text"][0], "a mask was left in the text"


# --- Data, Spaces, mistakes ------------------------------------------------------------------------------------------


def push_dataset(repo_id):
    from datasets import Dataset

    texts = [f"Once upon a time there was story {i}. It said “hello”." for i in range(10)]
    return Dataset.from_dict({"text": texts}).push_to_hub(repo_id).oid


def pull_dataset(repo_id):
    from datasets import load_dataset

    whole = load_dataset(repo_id, split="train")["text"]
    streamed = [row["text"] for row in load_dataset(repo_id, split="train", streaming=True)]
    return [list(whole), streamed]


def test_a_data_set_comes_back_whole_and_streamed(client):
    client("author").run(push_dataset, "arche/tiny-stories")

    whole, streamed = client("reader").run(pull_dataset, "arche/tiny-stories")

    assert whole == streamed == [f"Once upon a time there was story {i}. It said “hello”." for i in range(10)]


def push_space(repo_id, folder):
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, repo_type="space", space_sdk="gradio")
    first = api.upload_folder(repo_id=repo_id, repo_type="space", folder_path=folder, ignore_patterns="__pycache__/*")
    again = api.upload_folder(repo_id=repo_id, repo_type="space", folder_path=folder, ignore_patterns="__pycache__/*")
    return [first.oid, again.oid, api.space_info(repo_id).sdk]


def pull_space(repo_id):
    from huggingface_hub import HfApi, snapshot_download

    listed = [entry.path for entry in HfApi().list_repo_tree(repo_id, repo_type="space", recursive=True)]
    return [listed, snapshot_download(repo_id, repo_type="space")]


def test_the_diversity_folder_can_be_uploaded_as_a_space(client):
    folder = REPOSITORY / "metrics" / "diversity"
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]

    first, again, sdk = client("author").run(push_space, "arche/diversity", str(folder))
    listed, snapshot = client("reader").run(pull_space, "arche/diversity")

    assert first == again, "uploading the same files twice must not make a commit"
    assert sdk == "gradio"
    names = {path.relative_to(folder).as_posix() for path in files}
    assert names <= set(listed)
    for name in names:
        assert (Path(snapshot) / name).read_bytes() == (folder / name).read_bytes()


def load_missing(repo_id, revision):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(repo_id, revision=revision)


def test_a_missing_repository_is_a_clear_error(client):
    error = client("reader").fail(load_missing, "arche/no-such-model", "main")

    assert "arche/no-such-model" in error
    assert "is not a local folder and is not a valid model identifier" in error


def test_writing_needs_a_token(url, tmp_path):
    stranger = Client(url, tmp_path / "stranger")
    del stranger.environment["HF_TOKEN"]

    assert "401" in stranger.fail(create_model, "arche/not-mine")


def create_model(repo_id):
    from huggingface_hub import HfApi

    return HfApi().create_repo(repo_id)


def use_files(repo_id):
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    api = HfApi()
    assert api.whoami()["name"] == "arche"
    api.create_repo(repo_id)
    assert api.create_repo(repo_id, exist_ok=True).repo_id == repo_id
    content = bytes(range(256)) * 64
    api.upload_file(path_or_fileobj=content, path_in_repo="data/x.bin", repo_id=repo_id)  # by LFS
    api.upload_file(path_or_fileobj=b"", path_in_repo="data/empty.txt", repo_id=repo_id)
    api.create_tag(repo_id, tag="v1")
    api.create_branch(repo_id, branch="dev", revision="v1")
    api.delete_file("data/empty.txt", repo_id=repo_id)

    refs = api.list_repo_refs(repo_id)
    assert {ref.name for ref in refs.branches} == {"main", "dev"}
    assert [ref.name for ref in refs.tags] == ["v1"]
    assert len(api.list_repo_commits(repo_id)) == 4
    assert api.file_exists(repo_id, "data/empty.txt", revision="v1")
    assert not api.file_exists(repo_id, "data/empty.txt")
    for error, path, revision in ((EntryNotFoundError, "no", "main"), (RevisionNotFoundError, "data/x.bin", "no")):
        try:
            api.hf_hub_download(repo_id, path, revision=revision)
        except error:
            continue
        raise AssertionError(f"{path} at {revision} was found")
    with HfFileSystem().open(f"{repo_id}/data/x.bin", "rb") as file:
        file.seek(300)
        assert file.read(10) == content[300:310]
    return True


def test_the_stand_in_keeps_the_rules_of_the_client(client):
    assert client("author").run(use_files, "arche/files")
