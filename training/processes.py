"""The processes of `accelerate launch`: one that works alone, or one of several."""

import gc
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from arche_mdlm.configuration.devices import default_device


class Processes:
    """This process and its peers. Without a launcher there is one, and nothing is set up.

    Args:
        cpu: stay off the GPUs.
    """

    def __init__(self, cpu: bool = False):
        self.state: Any = None
        asked = int(os.environ.get("WORLD_SIZE", "1"))
        if asked > 1:
            from accelerate import PartialState

            # The first one done waits for the last: not for ever, but for longer than the half hour that is the default.
            self.state = PartialState(cpu=cpu or not torch.cuda.is_available(), timeout=timedelta(days=1))
            if self.state.num_processes != asked:
                raise RuntimeError(
                    f"WORLD_SIZE is {asked}, but accelerate started {self.state.num_processes} processes"
                )

    @property
    def index(self) -> int:
        return self.state.process_index if self.state else 0

    @property
    def count(self) -> int:
        return self.state.num_processes if self.state else 1

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def default_device(self) -> str:
        if self.state:
            return str(self.state.device)
        return default_device()

    def from_main(self, make: Callable[[], Any]) -> Any:
        """The result of `make()` in the main process, sent to all; an error there is a ValueError in all."""
        if not self.state:
            return make()
        from accelerate.utils import broadcast_object_list

        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer = [make(), None]
            except (ValueError, OSError, RuntimeError) as error:
                answer = [None, str(error)]
        value, problem = broadcast_object_list(answer)
        if problem is not None:
            raise ValueError(problem)
        return value

    def wait(self) -> None:
        if self.state:
            self.state.wait_for_everyone()

    def close(self) -> None:
        """Leave the group: gloo can hang at exit otherwise."""
        if self.state and torch.distributed.is_initialized():
            gc.collect()
            self.state.destroy_process_group()
