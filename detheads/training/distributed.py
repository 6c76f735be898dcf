"""Several processes that train one head together, each on its share of every batch.

``torchrun`` or ``accelerate launch`` starts them; Accelerate gives each its device and connects them. A batch is that
of the whole training: with the same ``batch`` any number of processes takes the same steps, up to the order of sums.
What heads count for their losses is shared while they compute (:mod:`detheads.ops.across`), gradients after that.

Gradients are averaged here, not by DistributedDataParallel: that ends at a parameter without a gradient, or, told to
look for those, at one that a loss uses and the forward pass does not. Heads have both.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from detheads.foundation.errors import UserError
from detheads.ops.devices import pick_device
from detheads.training.batches import Chosen
from detheads.training.launch import Launch, launched, one_voice

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long processes wait for the first one, which may evaluate for hours; one that died is noticed at once."""
GO_ON = "the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Processes:
    """The processes of a training, seen from one of them; a single one unless :func:`together` connected several.

    Attributes:
        launch: which one this is.
        device: the one that it trains on.
    """

    device: torch.device
    launch: Launch = field(default_factory=Launch)
    _control: Any = None  # a group of its own on the CPU, whatever the device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, says and judges."""
        return self.launch.rank == 0

    @property
    def count(self) -> int:
        return self.launch.count

    def require_shares(self, batch: int) -> None:
        """Refuse a batch that is too small for so many processes.

        Raises:
            UserError: saying what to give instead.
        """
        if batch < self.count:
            raise UserError(
                f"a batch of {batch} images cannot be shared by {self.count} processes; --batch counts the images of "
                f"all of them: give {self.count} or more."
            )

    def fair(self, threads: int) -> int:
        """This process's share of threads that fit its machine, at least one."""
        return max(1, threads // self.launch.local_count)

    def share(self, order: Sequence[Chosen]) -> list[Chosen]:
        """This process's part of each batch.

        A batch of fewer images than there are processes, such as the last of an epoch, is taken whole by all of them:
        the mean of equal gradients is the gradient.
        """
        rank, count = self.launch.rank, self.count
        return [
            chosen if len(chosen[0]) < count else (chosen[0][rank::count], chosen[1][rank::count]) for chosen in order
        ]

    def average(self, parameters: Sequence[Tensor], terms: Tensor) -> Tensor:
        """Replace the gradients by their means over the processes.

        A parameter without a gradient in every process stays without one, as it would in a single process; one without
        it in some counts as zero there.

        Args:
            parameters: the same, in the same order, in every process.
            terms: numbers ``[N]`` on the parameters' device.

        Returns:
            The means of ``terms``.
        """
        if self.count == 1:
            return terms
        used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
        distributed.all_reduce(used, distributed.ReduceOp.MAX, self._control)  # between CPUs: no device waits
        gradients = []
        for parameter, anywhere in zip(parameters, used.tolist(), strict=True):
            if anywhere and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        together = torch.cat([values.detach().flatten().float() for values in (*gradients, terms)])
        distributed.all_reduce(together)
        *means, terms = (together / self.count).split([values.numel() for values in (*gradients, terms)])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))  # in its own memory format
        return terms

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` gives in the first process, in all of them; the others wait for it."""
        if self.count == 1:
            return make()
        made = [make() if self.first else None]
        distributed.broadcast_object_list(made, src=0, group=self._control)
        return made[0]  # type: ignore[return-value]


@contextmanager
def together(device: str = "") -> Iterator[Processes]:
    """Connect with the processes that were started with this one, if any.

    When one of them fails, all end, and one of them says why: a process that raises, or the first one that notices a
    silent end.

    Example::

        with together() as processes:
            Trainer("fcos", {}, train, val, "run", TrainConfig(batch=64), processes=processes).fit()

    Args:
        device: as :func:`pick_device` takes it; without a number where there are several processes.

    Raises:
        UserError: when the device is not there for each process, or a process was lost.
    """
    launch = launched()
    if launch.count == 1:
        yield Processes(pick_device(device))
        return
    with one_voice():
        processes = _connect(device, launch)
    try:
        yield processes
    except BaseException as error:
        raise _spoken(error, launch) from None
    finally:
        _part()


def _connect(device: str, launch: Launch) -> Processes:
    from accelerate import PartialState

    picked = pick_device(device)
    if picked.index is not None:
        raise UserError(
            f"--device {device} names one device for {launch.count} processes; give {picked.type}, and each takes one."
        )
    if picked.type == "cuda" and torch.cuda.device_count() < launch.local_count:
        raise UserError(
            f"{launch.local_count} processes were started on a machine with {torch.cuda.device_count()} GPUs; start "
            "one for each GPU, or give --device cpu."
        )
    state = PartialState(cpu=picked.type == "cpu")
    own = picked if picked.type == "cpu" else state.device
    return Processes(own, launch, distributed.new_group(backend="gloo", timeout=PATIENCE))


def _part() -> None:
    from accelerate import PartialState

    distributed.destroy_process_group()
    PartialState._reset_state()


def _spoken(error: BaseException, launch: Launch) -> BaseException:
    """The error where this process is the one to tell of it, else a silent end."""
    if isinstance(error, KeyboardInterrupt):
        return error if launch.rank == 0 else SystemExit(130)
    if not _speaks():
        return SystemExit(1)
    if isinstance(error, SystemExit):  # the launcher ends the others when one has died
        return UserError(f"the training was ended, or one of its {launch.count} processes died; {GO_ON}.")
    if _is_lost(error):
        return UserError(
            f"one of the {launch.count} processes of the training ended without a word (killed, out of memory, or its "
            f"machine is gone); {GO_ON}."
        )
    return error


def _speaks() -> bool:
    """Whether no other process has told of the end yet; a launcher that starts all anew keeps its store."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        return distributed.distributed_c10d._get_default_store().add(f"detheads/ended/{attempt}", 1) == 1
    except RuntimeError:  # who kept the store is gone
        return True


def _is_lost(error: BaseException) -> bool:
    """Whether the connection to another process broke: gloo's errors have no type of their own."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
