"""A training run: epochs, evaluations, checkpoints and log of a head that learns from a cache, in one folder."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from detheads import __version__
from detheads.cache.reader import FeatureCache
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation import claims
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.headkit.cost import parameters_of
from detheads.training.batches import Batch, epoch_order, read_batches
from detheads.training.checkpoint import checkpoint_path, load_tensors, save_checkpoint, untrained
from detheads.training.config import TrainConfig
from detheads.training.learner import Learner
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
        train.require_objects("train on")
        val.require_objects("evaluate on")
        self.train_cache, self.val_cache, self.run, self.config = train, val, run, config
        self.device = device or torch.device("cpu")
        torch.manual_seed(config.seed)
        entry = registry.entry(head_name)
        if not entry.head.trainable:
            raise UserError(f"{head_name} is solved, not trained; fit it with 'detheads analytical fit'.")
        options = registry.config_dict(entry, _with_prototypes(entry, head_config, class_embeddings))
        head = registry.build(head_name, train.feature_spec, len(train.dataset.categories), options)
        self.embeddings_sha256: str | None = None
        if class_embeddings is not None:
            head.set_class_embeddings(class_embeddings)
            self.embeddings_sha256 = hashlib.sha256(class_embeddings.numpy().tobytes()).hexdigest()
        self.steps_per_epoch = math.ceil(len(train) / config.batch)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.learner = Learner(head, config, self.total_steps, self.device)
        self.identity = untrained(head_name, options, train)
        self.seconds = self._began = self._saved = 0.0
        self._window: list[dict[str, float]] = []  # loss terms of the steps since the last line of the log
        self.best: dict[str, Any] = {}

    @property
    def head(self) -> Head:
        """The head with its live weights."""
        return self.learner.head

    @property
    def averaged_head(self) -> Head:
        """The head with the averaged weights, which are evaluated and shipped."""
        return self.learner.averaged_head

    @property
    def parameters(self) -> int:
        """Learnable parameters of the head."""
        return parameters_of(self.head)

    def optimise(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the loss terms (see :meth:`Learner.optimise`)."""
        return self.learner.optimise(batch)

    def fit(self, on_step: Callable[[Status], None] = lambda status: None) -> TrainResult:
        """Train to the end, from the last checkpoint of an interrupted run where there is one.

        Raises:
            UserError: when the folder is another run's or another process works in it, or the loss is no longer finite
                (the last good checkpoints stay).
        """
        versions = {"detheads_version": __version__, "torch_version": torch.__version__}
        with claims.claimed(self.run, RUN, self._described(), versions):
            if checkpoint_path(self.run, "last").is_file():
                self._resume()
            log = RunLog(self.run, self.learner.step)
            self._saved = time.monotonic()
            self._began = self._saved - self.seconds
            for epoch in range(self.learner.step // self.steps_per_epoch, self.config.epochs):
                self._train_epoch(epoch, log, on_step)
                evaluated = (epoch + 1) % self.config.eval_every == 0 or epoch + 1 == self.config.epochs
                if evaluated:
                    self._evaluate(epoch, log)
                self._save_last()
                if evaluated:
                    plot_log(self.run)
        return TrainResult(self.run, self.parameters, self.best, int(self.best["epoch"]), self.seconds)

    def _train_epoch(self, epoch: int, log: RunLog, on_step: Callable[[Status], None]) -> None:
        """The steps of one epoch that are still to do."""
        order = epoch_order(self.config, len(self.train_cache), epoch, self.train_cache.has_flips)
        for batch in read_batches(self.train_cache, order[self.learner.step % self.steps_per_epoch :]):
            batch = batch.to(self.device)
            if self.learner.step == 0:
                self.head.start_from(batch.features)
            parts = self.optimise(batch)
            loss, step = sum(parts.values()), self.learner.step
            self.seconds = time.monotonic() - self._began
            self._window.append({"loss": loss} | {f"loss_{name}": value for name, value in parts.items()})
            if step % LOG_EVERY == 0:
                means = {name: fmean(entry[name] for entry in self._window) for name in self._window[0]}
                log.write(self._position(epoch) | means)
                self._window.clear()
            on_step(Status(step, self.total_steps, epoch + 1, loss, self.best.get("AP")))
            if time.monotonic() - self._saved > SAVE_SECONDS and step % self.steps_per_epoch:
                self._save_last()

    def _evaluate(self, epoch: int, log: RunLog) -> None:
        evaluated = evaluate_cache(self.averaged_head, self.val_cache, batch_size=self.config.batch)
        statistics = evaluated.to_dict()
        position = self._position(epoch)
        log.write(position | {name: value for name, value in statistics.items() if name != "per_class"})
        if not self.best or evaluated.require_ap() > self.best["AP"]:
            self.best = statistics | {"epoch": epoch + 1}
            checkpoint = replace(
                self.identity, metrics=self.best, progress=position, tensors=self.averaged_head.state_dict()
            )
            save_checkpoint(checkpoint_path(self.run, "best"), checkpoint)

    def _position(self, epoch: int) -> dict[str, Any]:
        return {
            "step": self.learner.step,
            "epoch": epoch + 1,
            "lr": self.learner.rate,
            "seconds": round(self.seconds, 2),
        }

    def _described(self) -> dict[str, Any]:
        """The resolved configuration: what makes it another run."""
        identity = self.identity
        return {
            "head": {"name": identity.head_name, "config": identity.head_config, "parameters": self.parameters},
            "training": asdict(self.config),
            "cache_sha256": identity.cache_sha256,
            "val_cache_sha256": self.val_cache.sha256,
            "classes": [category.name for category in identity.categories],
            "class_embeddings_sha256": self.embeddings_sha256,
            "backbone": identity.backbone_name,
        }

    def _save_last(self) -> None:
        """Write all that an exact resume needs."""
        self.seconds = time.monotonic() - self._began
        tensors, values = self.learner.state()
        progress = values | {"seconds": self.seconds}
        checkpoint = replace(self.identity, metrics=self.best, progress=progress)
        save_checkpoint(checkpoint_path(self.run, "last"), checkpoint, tensors)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        description, tensors = load_tensors(checkpoint_path(self.run, "last"))
        self.learner.restore(tensors, description["progress"])
        self.seconds, self.best = description["progress"]["seconds"], description["metrics"]


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
