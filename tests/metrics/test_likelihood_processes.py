"""The likelihood of a corpus, split over two processes: bit for bit that of one."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from arche_mdlm.metrics.corpus_likelihood import corpus_nelbo, corpus_nll

SCRIPT = """
import sys, torch
from accelerate import PartialState
from arche_mdlm.metrics import corpus_likelihood as likelihood

calls = {"nelbo": 0, "nll": 0}
for name, real in (("nelbo", likelihood.nelbo_of_seeds), ("nll", likelihood.nll)):
    def counted(*args, name=name, real=real, **kwargs):
        calls[name] += 1
        return real(*args, **kwargs)
    setattr(likelihood, {"nelbo": "nelbo_of_seeds", "nll": "nll"}[name], counted)
processes = PartialState(cpu=True)
given = torch.load(sys.argv[1] + "/given.pt", weights_only=False)
torch.set_num_threads(1)
scores = []
for rows in (given["rows"], given["rows"][:1]):
    scores.append(likelihood.corpus_nelbo(given["mdlm"], rows, canvas_length=16, pad_token_id=2, num_samples=4, batch_size=8,
                                          generator=torch.Generator().manual_seed(7), processes=processes)._asdict())
    scores.append(likelihood.corpus_nll(given["ar"], rows, pad_token_id=2, batch_size=2, processes=processes)._asdict())
torch.save({"scores": scores, "calls": calls, "count": processes.num_processes},
           f"{sys.argv[1]}/{processes.process_index}.pt")
processes.wait_for_everyone()
processes.destroy_process_group()
"""


@pytest.mark.timeout(300)
def test_two_processes_score_as_one(tiny_mdlm, tiny_ar, tmp_path):
    """Nine stories in five batches: three for one process; and one batch for two processes."""
    rows = [[0, *torch.randint(4, 40, (length,)).tolist(), 1] for length in (3, 9, 5, 14, 7, 4, 12, 6, 8)]
    torch.save({"rows": rows, "mdlm": tiny_mdlm, "ar": tiny_ar}, tmp_path / "given.pt")
    (tmp_path / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]

    expected = []
    for given in (rows, rows[:1]):
        common = {"canvas_length": 16, "pad_token_id": 2, "num_samples": 4, "batch_size": 8}
        generator = torch.Generator().manual_seed(7)
        expected.append(corpus_nelbo(tiny_mdlm, given, **common, generator=generator)._asdict())
        expected.append(corpus_nll(tiny_ar, given, pad_token_id=2, batch_size=2)._asdict())
    for rank in range(2):
        part = torch.load(tmp_path / f"{rank}.pt")
        assert part["count"] == 2
        assert part["scores"] == expected
        # Three rounds of five batches and one round of one: a process without a batch keeps step.
        assert part["calls"] == {"nelbo": 4, "nll": 4}
