"""The training loop: a head, a cache, AdamW with warm-up and cosine, EMA, exact resume."""

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from detheads import __version__
from detheads.cache.reader import FeatureCache
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation import claims
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.headkit.cost import parameters_of
from detheads.training.batches import epoch_order, read_batches
from detheads.training.checkpoint import checkpoint_path, load_tensors, save_checkpoint, untrained
from detheads.training.config import TrainConfig
from detheads.training.ema import averaged
from detheads.training.log import RunLog, plot_log

RUN = claims.Kind("config.json", "a training run", "training in")
LOG_EVERY = 20
"""Steps between log lines."""
SAVE_SECONDS = 300.0
"""Longest time between two resumable checkpoints."""


@dataclass(frozen=True)
class Status:
    """Where a run stands; handed to the progress callback after every step."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    best_ap: float | None


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        metrics: COCO statistics of the best evaluation.
        best_epoch: 1-based.
        seconds: wall time in the training loop, interruptions left out.
    """

    run: Path
    parameters: int
    metrics: dict[str, Any]
    best_epoch: int
    seconds: float


class Trainer:
    """Trains one head on one cache into one run folder.

    Raises:
        UserError: when the caches do not belong together, or the folder holds another run.
    """

    def __init__(
        self,
        head_name: str,
        head_config: Mapping[str, Any],
        train: FeatureCache,
        val: FeatureCache,
        run: Path,
        config: TrainConfig,
        *,
        device: torch.device | None = None,
        class_embeddings: Tensor | None = None,
    ) -> None:
        require_same_features(train, val)
        self.train_cache, self.val_cache, self.run, self.config = train, val, run, config
        self.device = device or torch.device("cpu")
        torch.manual_seed(config.seed)
        entry = registry.entry(head_name)
        if not entry.head.trainable:
            raise UserError(f"{head_name} is solved, not trained; fit it with 'detheads analytical fit'.")
        options = registry.config_dict(entry, _with_prototypes(entry, head_config, class_embeddings))
        self.head: Head = registry.build(head_name, train.feature_spec, len(train.dataset.categories), options)
        self.embeddings_sha256: str | None = None
        if class_embeddings is not None:
            self.head.set_class_embeddings(class_embeddings)
            self.embeddings_sha256 = hashlib.sha256(class_embeddings.numpy().tobytes()).hexdigest()
        self.head.to(self.device)
        self.ema: AveragedModel = averaged(self.head, config.ema_decay)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.head, config.weight_decay), lr=config.lr)
        self.autocast = _autocast(config.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast[1] == torch.float16)
        self.identity = untrained(head_name, options, train)
        self.steps_per_epoch = math.ceil(len(train) / config.batch)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.step, self.seconds = 0, 0.0
        self.best: dict[str, Any] = {}

    @property
    def parameters(self) -> int:
        """Learnable parameters of the head."""
        return parameters_of(self.head)

    def fit(self, on_step: Callable[[Status], None] = lambda status: None) -> TrainResult:
        """Train to the end, from the last checkpoint of an interrupted run where there is one.

        Raises:
            UserError: when the loss is no longer finite (the last good checkpoints stay).
        """
        with self._claimed():
            return self._fit(on_step)

    def _fit(self, on_step: Callable[[Status], None]) -> TrainResult:
        if checkpoint_path(self.run, "last").is_file():
            self._resume()
        log = RunLog(self.run, self.step)
        started = last_saved = time.monotonic()
        seconds_before = self.seconds
        window: list[dict[str, float]] = []
        loss = math.nan
        for epoch in range(self.step // self.steps_per_epoch, self.config.epochs):
            order = epoch_order(self.config, len(self.train_cache), epoch, self.train_cache.has_flips)
            for batch in read_batches(self.train_cache, order[self.step % self.steps_per_epoch :]):
                batch = batch.to(self.device)
                if self.step == 0:
                    self.head.start_from(batch.features)
                parts = self.optimise(batch)
                loss = sum(parts.values())
                self.seconds = seconds_before + time.monotonic() - started
                window.append({"loss": loss} | {f"loss_{name}": value for name, value in parts.items()})
                if self.step % LOG_EVERY == 0:
                    log.write(
                        self._position(epoch) | {name: fmean(entry[name] for entry in window) for name in window[0]}
                    )
                    window.clear()
                on_step(Status(self.step, self.total_steps, epoch + 1, loss, self.best.get("AP")))
                if time.monotonic() - last_saved > SAVE_SECONDS and self.step % self.steps_per_epoch:
                    self._save_last()
                    last_saved = time.monotonic()
            evaluated = (epoch + 1) % self.config.eval_every == 0 or epoch + 1 == self.config.epochs
            if evaluated:
                self._evaluate(epoch, log)
            self.seconds = seconds_before + time.monotonic() - started
            self._save_last()
            last_saved = time.monotonic()
            if evaluated:
                plot_log(self.run)
        return TrainResult(self.run, self.parameters, self.best, int(self.best["epoch"]), self.seconds)

    def optimise(self, batch: Any) -> dict[str, float]:
        """One optimiser step; returns the loss terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.step, self.total_steps)
        self.head.train()
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)  # dropout of a resumed run repeats exactly
        with self.autocast[0]():
            output = self.head(batch.features)
        losses = self.head.loss(output, batch.targets)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            self._diverged("loss", ", ".join(f"{name} {value.item():g}" for name, value in losses.items()))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.config.clip_norm)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):  # the fp16 scaler skips such steps by itself
            self._diverged("gradient", f"norm {float(norm):g}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update_parameters(self.head)
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _diverged(self, what: str, values: str) -> NoReturn:
        raise UserError(
            f"the {what} is not finite at step {self.step} ({values}); training stopped; checkpoints saved before "
            f"are kept in {self.run}; try a lower --lr."
        )

    def _evaluate(self, epoch: int, log: RunLog) -> None:
        statistics = evaluate_cache(self.averaged_head, self.val_cache, batch_size=self.config.batch).to_dict()
        position = self._position(epoch)
        log.write(position | {name: value for name, value in statistics.items() if name != "per_class"})
        if not self.best or statistics["AP"] > self.best["AP"]:
            self.best = statistics | {"epoch": epoch + 1}
            checkpoint = replace(
                self.identity, metrics=self.best, progress=position, tensors=self.averaged_head.state_dict()
            )
            save_checkpoint(checkpoint_path(self.run, "best"), checkpoint)

    @property
    def averaged_head(self) -> Head:
        return cast(Head, self.ema.module)

    def _position(self, epoch: int) -> dict[str, Any]:
        rate = self.optimizer.param_groups[0]["lr"]
        return {"step": self.step, "epoch": epoch + 1, "lr": rate, "seconds": round(self.seconds, 2)}

    def _claimed(self) -> AbstractContextManager[dict[str, Any]]:
        """The run folder: new, or holding a run of the same resolved configuration."""
        identity = asdict(replace(self.identity, tensors={}))
        resolved = {
            "head": {"name": identity["head_name"], "config": identity["head_config"], "parameters": self.parameters},
            "training": asdict(self.config),
            "cache_sha256": self.identity.cache_sha256,
            "val_cache_sha256": self.val_cache.sha256,
            "classes": [category.name for category in self.identity.categories],
            "class_embeddings_sha256": self.embeddings_sha256,
            "backbone": self.identity.backbone_name,
        }
        versions = {"detheads_version": __version__, "torch_version": torch.__version__}
        return claims.claimed(self.run, RUN, resolved, versions)

    def _save_last(self) -> None:
        extra = {f"live.{name}": value for name, value in self.head.state_dict().items()}
        extra |= {f"ema.{name}": value for name, value in self.averaged_head.state_dict().items()}
        extra["ema_count"] = torch.as_tensor(self.ema.n_averaged)
        for index, state in self.optimizer.state_dict()["state"].items():
            extra |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "scaler": self.scaler.state_dict(),
        }
        save_checkpoint(
            checkpoint_path(self.run, "last"), replace(self.identity, metrics=self.best, progress=progress), extra
        )

    def _resume(self) -> None:
        description, tensors = load_tensors(checkpoint_path(self.run, "last"))
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            kind, _, key = name.partition(".")
            groups[kind][key] = value
        self.head.load_state_dict(groups["live"])
        self.averaged_head.load_state_dict(groups["ema"])
        self.ema.n_averaged.copy_(groups["ema_count"][""])
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, value in groups["optimizer"].items():
            index, _, key = name.partition(".")
            state[int(index)][key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": dict(state)})
        progress = description["progress"]
        self.scaler.load_state_dict(progress["scaler"])
        self.step, self.seconds, self.best = progress["step"], progress["seconds"], description["metrics"]


def _with_prototypes(
    entry: registry.Entry, options: Mapping[str, Any], class_embeddings: Tensor | None
) -> dict[str, Any]:
    """Head options with text prototypes when embeddings are given, the head's other kind otherwise."""
    result = dict(options)
    kinds = registry.choices(entry, "prototypes")
    if "text" not in kinds:
        return result
    if class_embeddings is not None:
        return result | {"prototypes": "text", "text_dim": class_embeddings.shape[1]}
    if result.get("prototypes") == "text":
        raise UserError(f"head {entry.name} with prototypes=text needs class embeddings; give a file with --text.")
    return {"prototypes": next(kind for kind in kinds if kind != "text")} | result


def require_same_features(train: FeatureCache, val: FeatureCache) -> None:
    for key in ("backbone", "weights_sha256", "height", "width", "layers", "main"):
        first, second = getattr(train.manifest.settings, key), getattr(val.manifest.settings, key)
        if first != second:
            raise UserError(
                f"{train.folder} and {val.folder} differ in {key} ({first} and {second}); cache both alike."
            )
    if train.dataset.categories != val.dataset.categories:
        counts = f"{len(train.dataset.categories)} and {len(val.dataset.categories)}"
        raise UserError(f"{train.folder} and {val.folder} have different classes ({counts} of them); cache both alike.")


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
