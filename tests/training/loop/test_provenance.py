"""What a run or a report says of where it came from."""

from arche_mdlm.training.loop.provenance import portable


def test_no_path_of_the_machine_is_kept():
    words = [
        "--models",
        "mine=/home/me/runs/a",
        "in blocks=/b/c",
        "--output=/tmp/x",
        "/y/z",
        "runs/z",
        "a=b",
        "1 + 1 = 2",
    ]
    cut = ["--models", "mine=a", "in blocks=c", "--output=x", "z", "runs/z", "a=b", "1 + 1 = 2"]
    assert portable({"command": words, "pair": ("x", "/m/n"), "n": 3}) == {"command": cut, "pair": ["x", "n"], "n": 3}
