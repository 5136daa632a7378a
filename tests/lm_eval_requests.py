"""Requests as lm-evaluation-harness makes them."""

from lm_eval.api.instance import Instance


def requests(kind: str, arguments, task: str = "some_task", alone: bool = False) -> list[Instance]:
    return [
        Instance(kind, {}, each, 0, (task, number if alone else number // 2, 1))
        for number, each in enumerate(arguments)
    ]
