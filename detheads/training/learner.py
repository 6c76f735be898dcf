"""A head that learns: optimiser, mixed precision and averaged weights, one step at a time; no files."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from detheads.foundation.errors import UserError
from detheads.headkit.contract import Head
from detheads.training.batches import Batch
from detheads.training.config import TrainConfig
from detheads.training.ema import averaged


class Learner:
    """One head under AdamW, with all the state that an exact resume needs.

    Attributes:
        head: the live weights, on their device.
        step: optimiser steps taken.
        scaler: of the loss, in fp16 only.
    """

    def __init__(self, head: Head, config: TrainConfig, total_steps: int, device: torch.device) -> None:
        self.head, self.config, self.total_steps = head.to(device), config, total_steps
        self.step = 0
        self._average: AveragedModel = averaged(head, config.ema_decay)
        self._optimizer = torch.optim.AdamW(_parameter_groups(head, config.weight_decay), lr=config.lr)
        self._autocast, dtype = _autocast(config.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    @property
    def averaged_head(self) -> Head:
        """The averaged weights, which are evaluated and shipped."""
        return cast(Head, self._average.module)

    @property
    def rate(self) -> float:
        """Learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def optimise(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on a batch that lies on the head's device; returns the loss terms.

        Raises:
            UserError: when the loss or its gradient is not finite; the weights are those of the step before.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.step, self.total_steps)
        self.head.train()
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)  # dropout of a resumed run repeats exactly
        with self._autocast():
            output = self.head(batch.features)
        losses = self.head.loss(output, batch.targets)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise self._diverged("loss", ", ".join(f"{name} {value.item():g}" for name, value in losses.items()))
        self._optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.config.clip_norm)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):  # the fp16 scaler skips such steps by itself
            raise self._diverged("gradient", f"norm {float(norm):g}")
        self.scaler.step(self._optimizer)
        self.scaler.update()
        self._average.update_parameters(self.head)
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _diverged(self, what: str, values: str) -> UserError:
        return UserError(
            f"the {what} is not finite at step {self.step} ({values}); training stopped; checkpoints saved before "
            "are kept; try a lower --lr."
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and JSON values, from which :meth:`restore` goes on exactly."""
        tensors = {f"live.{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.averaged_head.state_dict().items()}
        tensors["ema_count"] = torch.as_tensor(self._average.n_averaged)
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        return tensors, {"step": self.step, "scaler": self.scaler.state_dict()}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take on a :meth:`state`."""
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            kind, _, key = name.partition(".")
            groups[kind][key] = value
        self.head.load_state_dict(groups["live"])
        self.averaged_head.load_state_dict(groups["ema"])
        self._average.n_averaged.copy_(groups["ema_count"][""])
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, value in groups["optimizer"].items():
            index, _, key = name.partition(".")
            moments[int(index)][key] = value
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": dict(moments)})
        self.scaler.load_state_dict(values["scaler"])
        self.step = values["step"]


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
