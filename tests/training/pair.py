"""Two real processes that train together over gloo: the test's own is the first, this file run as a program the other.

``python -m tests.training.pair JOBS``: trains the jobs of a JSON list one after the other, as the first process does.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detheads.cache.reader import FeatureCache
from detheads.training import trainer as trainer_module
from detheads.training.config import TrainConfig
from detheads.training.distributed import Processes, together
from detheads.training.status import Status
from detheads.training.trainer import Trainer
from tests.training.world import NARROW

Watch = Callable[[Status], None]


@dataclass(frozen=True)
class Job:
    """A small training. ``killed_at``: the step after which the second process kills itself; 0 for never."""

    head: str
    caches: str
    run: str
    config: dict[str, Any]
    killed_at: int = 0

    def trainer(self, processes: Processes | None = None) -> Trainer:
        train, val = (FeatureCache(Path(self.caches) / name) for name in ("train", "val"))
        options = NARROW.get(self.head, {})
        return Trainer(self.head, options, train, val, self.run, TrainConfig(**self.config), processes=processes)


def odd_gradients(processes: Processes) -> tuple[list[Tensor | None], Tensor]:
    """Average gradients of which one is there in both processes, one in the first only, and one nowhere."""
    rank = processes.launch.rank
    both, one, none = (torch.zeros(2, 3).requires_grad_() for _ in range(3))
    both.grad = torch.full((2, 3), 1.0 + rank)
    one.grad = None if rank else torch.full((2, 3), 8.0)
    terms = processes.average([both, one, none], torch.tensor([10.0, 20.0 * rank]))
    return [both.grad, one.grad, none.grad], terms


def environment(rank: int, port: int, count: int = 2) -> dict[str, str]:
    """What a launcher tells a process."""
    values = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {name: str(value) for name, value in values.items()} | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def second_process(jobs: list[Job], patch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[str]"]:
    """Start the second process and make this one the first; ``together`` connects them."""
    port = free_port()
    for name, value in environment(0, port).items():
        patch.setenv(name, value)
    command = [sys.executable, "-m", "tests.training.pair", json.dumps([vars(job) for job in jobs])]
    child = subprocess.Popen(
        command, env=os.environ | environment(1, port), stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        yield child
        child.wait(60)
    finally:
        child.kill()
        child.communicate()


def main() -> None:
    torch.set_num_threads(1)
    trainer_module.LOG_EVERY = 1
    with together("cpu") as processes:
        odd_gradients(processes)
        for values in json.loads(sys.argv[1]):
            job = Job(**values)

            def watch(status: Status, job: Job = job) -> None:
                if status.step == job.killed_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            job.trainer(processes).fit(watch)


if __name__ == "__main__":
    main()
