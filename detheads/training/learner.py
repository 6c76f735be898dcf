"""A head that learns: optimiser, mixed precision and averaged weights, one step at a time; no files."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detheads.headkit.contract import Head
from detheads.training.batches import Batch
from detheads.training.config import TrainConfig
from detheads.training.distributed import Processes
from detheads.training.ema import Average
from detheads.training.only import freeze


@dataclass(frozen=True)
class Divergence:
    """The step (0-based) whose loss or gradient was not finite, and a sentence about it."""

    step: int
    sentence: str


class Learner:
    """One head under AdamW, with all the state that an exact resume needs.

    A step never waits for the device. One whose loss or gradient is not finite changes no weight, and none does after
    it; :meth:`divergence` tells.

    Attributes:
        head: the live weights, on their device.
        step: optimiser steps begun.
        scaler: of the loss, in fp16 only.
    """

    def __init__(
        self,
        head: Head,
        config: TrainConfig,
        stretches: Sequence[int],
        device: torch.device,
        processes: Processes | None = None,
    ) -> None:
        """A learner at its first step.

        Args:
            stretches: steps of the training and of each of its extensions (see :meth:`TrainConfig.rate_at`).
            processes: that take each step together; this one alone when None.
        """
        self.head, self.config, self.stretches = head.to(device), config, tuple(stretches)
        if config.train_only:
            freeze(head, config.train_only)
        if config.channels_last:
            head.to(memory_format=torch.channels_last)
        self._forward = torch.compile(head) if config.compile else head
        self.step = 0
        self._processes = processes or Processes(device)
        self._average = Average(head, config.ema_decay)
        self._optimizer = torch.optim.AdamW(_parameter_groups(head, config.weight_decay), lr=config.lr, fused=True)
        self._autocast, dtype = _autocast(config.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self._stopped = torch.zeros((), device=device)  # 1 since a loss or gradient was not finite
        self._taken = torch.zeros((), device=device)  # steps before that, counted from `_counted_from`
        self._counted_from = 0
        self._evidence: Tensor | None = None  # loss terms, their sum and the gradient's norm, of the step that ended
        self._terms: tuple[str, ...] = ()
        if not self.scaler.is_enabled():
            # What tells the fused optimiser, on the device, to leave the weights alone: as a GradScaler does it.
            vars(self._optimizer).update(found_inf=self._stopped, grad_scale=None)

    @property
    def averaged_head(self) -> Head:
        """The averaged weights, which are evaluated and shipped."""
        return self._average.head

    @property
    def rate(self) -> float:
        """Learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def optimise(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step on a batch that lies on the head's device; returns the loss terms, scalars there.

        Of several processes each brings its part of the batch, and all get the terms of the whole.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.rate_at(self.step, self.stretches)
        self.head.train(not self.config.train_only)  # what does not learn computes as in use
        # Dropout of a resumed run repeats exactly; each process draws for images of its own.
        torch.manual_seed(self.config.seed * 1_000_003 + self.step + self._processes.launch.rank * 2**53)
        features = batch.features
        if self.config.channels_last:
            features = {name: values.to(memory_format=torch.channels_last) for name, values in features.items()}
        with self._autocast():
            output = self._forward(features)
        losses = self.head.loss(output, batch.targets)
        terms = torch.stack(list(losses.values()))
        total = terms.sum()
        self._optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(self._guarded(total)).backward()
        terms = self._processes.average(self._learned(), terms.detach())
        total = terms.sum()
        self.scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.config.clip_norm)
        self._judge(losses, torch.cat((terms, torch.stack((total, norm)))))
        self.scaler.step(self._optimizer)
        self.scaler.update()
        self._average.update(self.head, self._stopped)
        self.step += 1
        return dict(zip(losses, terms.unbind(), strict=True))

    def _guarded(self, total: Tensor) -> Tensor:
        """The loss, in fp16 with gradients of which none is finite once it was not: the scaler skips such steps."""
        if not self.scaler.is_enabled():
            return total
        return total * torch.where(total.detach().isfinite(), 1.0, torch.nan).where(self._stopped == 0, torch.nan)

    def _judge(self, losses: Mapping[str, Tensor], evidence: Tensor) -> None:
        """Note on the device whether this step may change weights, and keep the numbers of the first one that may not.

        In fp16 the scaler skips a step whose gradient overflowed and lowers its scale: that is no divergence.
        """
        if self._evidence is None:
            self._terms, self._evidence = tuple(losses), evidence
        self._evidence = torch.where(self._stopped > 0, self._evidence, evidence)
        judged = evidence[-2] if self.scaler.is_enabled() else evidence[-2:].sum()
        self._stopped.copy_(torch.maximum(self._stopped, (~judged.isfinite()).float()))
        self._taken += 1 - self._stopped

    def divergence(self) -> Divergence | None:
        """The step after which no weight changed any more, if there was one; waits for the device.

        The weights, live and averaged, are those of the step before.
        """
        if self._evidence is None or not float(self._stopped):
            return None
        *terms, total, norm = self._evidence.tolist()
        step = self._counted_from + int(self._taken)
        what, values = "gradient", f"norm {norm:g}"
        if not math.isfinite(total):
            what = "loss"
            values = ", ".join(f"{name} {value:g}" for name, value in zip(self._terms, terms, strict=True))
        return Divergence(
            step,
            f"the {what} is not finite at step {step} ({values}); training stopped; checkpoints saved before are kept; "
            f"{self._likely_cause(step)}.",
        )

    def _likely_cause(self, step: int) -> str:
        for name, weight in self.head.state_dict().items():
            if not torch.isfinite(weight).all():
                return f"the weights are not finite ({name}): try a lower --lr"
        if step == 0:
            return "at the first step that is the head's own doing: 'detheads heads check' tries its losses"
        if self.scaler.is_enabled():
            return "try a lower --lr, or --precision bf16 or fp32, whose range is wider"
        return "try a lower --lr"

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and JSON values, from which :meth:`restore` goes on exactly."""
        tensors = {f"live.{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.averaged_head.state_dict().items()}
        tensors["ema_count"] = torch.tensor(self._average.count)
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        return tensors, {"step": self.step, "scaler": self.scaler.state_dict()}

    def align(self) -> None:
        """Take on the state of the first process, in the others."""
        if self._processes.count > 1:
            tensors, values = self._processes.from_first(self._portable)
            if not self._processes.first:
                self.restore(tensors, values)

    def _portable(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = self.state()
        return {name: value.cpu() for name, value in tensors.items()}, values  # another process has another device

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take on a :meth:`state`.

        Raises:
            ValueError: saying what is not a state of this head at a possible step.
        """
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            kind, _, key = name.partition(".")
            groups[kind][key] = value
        step, count = values.get("step"), groups["ema_count"].get("")
        if type(step) is not int or not 0 <= step <= sum(self.stretches):
            raise ValueError(f"step {step} of {sum(self.stretches)}")
        if count is None or count.numel() != 1 or int(count) != step:
            raise ValueError(f"another number of averages than its {step} steps")
        moments = self._moments(groups["optimizer"])
        for kind, module in (("live", self.head), ("ema", self.averaged_head)):
            known = module.state_dict()
            for name in sorted(known.keys() | groups[kind].keys()):
                if name not in known or name not in groups[kind] or known[name].shape != groups[kind][name].shape:
                    raise ValueError(f"weights that do not fit the head: {name}")
            module.load_state_dict(groups[kind])
        self._average.count = step
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})
        try:
            self.scaler.load_state_dict(values["scaler"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"no state of the gradient scaler ({error})") from None
        self.step = self._counted_from = step

    def _learned(self) -> list[Tensor]:
        """The head's parameters in the optimiser's order."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _moments(self, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """The optimiser's state by the number of its parameter."""
        parameters = self._learned()
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            if not index.isdecimal() or len(index) > 9 or int(index) >= len(parameters):
                raise ValueError(f"moments of no parameter: {name}")
            if key not in ("step", "exp_avg", "exp_avg_sq") or (
                key != "step" and value.shape != parameters[int(index)].shape
            ):
                raise ValueError(f"moments that do not fit the head: {name}")
            # In the memory format of the weights, which the fused optimiser takes for granted.
            moments[int(index)][key] = value if key == "step" else torch.empty_like(parameters[int(index)]).copy_(value)
        if any(len(found) != 3 for found in moments.values()):
            raise ValueError("moments that are not whole")
        return dict(moments)


def _parameter_groups(head: Head, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, normalisation and scalars do not."""
    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _autocast(
    precision: str, device: torch.device
) -> tuple[Callable[[], AbstractContextManager[Any]], torch.dtype | None]:
    """A context factory for the forward pass and the type it computes in (None: float32)."""
    if precision == "auto":
        if device.type != "cuda":
            return nullcontext, None
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    elif precision == "fp32":
        return nullcontext, None
    else:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return lambda: torch.autocast(device.type, dtype), dtype
