"""A training run: epochs, evaluations, checkpoints and log of a head that learns from a cache, in one folder."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detheads import __version__
from detheads.cache.reader import FeatureCache
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation import atomic, claims
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.headkit.cost import parameters_of
from detheads.training.batches import Batch, epoch_order, read_batches, shuffle_window
from detheads.training.caches import require_trainable, trained_on_too
from detheads.training.checkpoint import (
    checkpoint_path,
    from_description,
    load_checkpoint,
    load_tensors,
    require_finite,
    save_checkpoint,
    untrained,
)
from detheads.training.config import TrainConfig
from detheads.training.learner import Learner
from detheads.training.log import RunLog, plot_log
from detheads.training.progress import read_progress
from detheads.training.record import RECORD_NAME, Record, is_recorded, read_record, write_record
from detheads.training.same_run import recorded_options, require_same
from detheads.training.warm_start import WarmStart, load_source, take_over
from detheads.training.window import LossWindow

RUN = claims.Kind("config.json", "a training run", "training in")
LOG_EVERY = 20
"""Steps between log lines."""
SAVE_SECONDS = 300.0
"""Longest time between two resumable checkpoints."""


@dataclass(frozen=True)
class Status:
    """Where a run stands; handed to the progress callback after every step.

    Attributes:
        losses: terms of the step, on the training's device.
    """

    step: int
    total_steps: int
    epoch: int
    losses: Mapping[str, Tensor]
    best_ap: float | None

    @property
    def loss(self) -> float:
        """Their sum; asking for it waits until the device has taken the step."""
        return sum(float(value) for value in self.losses.values())


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        metrics: COCO statistics of the best evaluation.
        best_epoch: 1-based.
        seconds: wall time in the training loop, interruptions left out.
        remarks: what was mended, in sentences.
    """

    run: Path
    parameters: int
    metrics: dict[str, Any]
    best_epoch: int
    seconds: float
    remarks: tuple[str, ...] = ()


class Trainer:
    """Trains one head on one cache into one run folder.

    Args:
        run: a new folder, or that of the same training, which is then resumed.
        init: run folder or checkpoint file whose weights the training starts from; head options that are not given
            are its own. The classes may be others (see :mod:`detheads.training.warm_start`).
        extensions: epochs of each extension of the training, behind those of ``config``. Each is a warm restart of
            the learning rate. A finished run that is extended ends as one that was extended from the start.
        readers: threads that read batches (see :func:`read_batches`); they change no number.

    Raises:
        UserError: when the caches do not belong together, one has nothing to learn or to score, or the folder holds
            another run.
    """

    def __init__(
        self,
        head_name: str,
        head_config: Mapping[str, Any],
        train: FeatureCache,
        val: FeatureCache,
        run: str | Path,
        config: TrainConfig,
        *,
        device: torch.device | None = None,
        class_embeddings: Tensor | None = None,
        init: str | Path | None = None,
        extensions: Sequence[int] = (),
        readers: int | None = None,
    ) -> None:
        require_trainable(train, val)
        self.train_cache, self.val_cache, self.run, self.config = train, val, Path(run), config
        self.extensions, self.readers = tuple(extensions), readers
        self.device = device or torch.device("cpu")
        torch.manual_seed(config.seed)
        entry = registry.entry(head_name)
        if not entry.head.trainable:
            raise UserError(f"{head_name} is solved, not trained; fit it with 'detheads analytical fit'.")
        source = load_source(init) if init is not None else None
        if source is not None and source.head_name == head_name:
            head_config = {**source.head_config, **head_config}
        options = registry.config_dict(entry, _with_prototypes(entry, head_config, class_embeddings))
        head = registry.build(head_name, train.feature_spec, len(train.dataset.categories), options)
        self.embeddings_sha256: str | None = None
        if class_embeddings is not None:
            head.set_class_embeddings(class_embeddings)
            self.embeddings_sha256 = hashlib.sha256(class_embeddings.numpy().tobytes()).hexdigest()
        self.identity = replace(untrained(head_name, options, train), validated_on_trained=trained_on_too(train, val))
        self.started_from: WarmStart | None = None
        if source is not None:
            embedded = class_embeddings is not None
            self.started_from = take_over(head, self.identity, source, str(init), own_embeddings=embedded)
        self.steps_per_epoch = math.ceil(len(train) / config.batch)
        stretches = [self.steps_per_epoch * epochs for epochs in (config.epochs, *self.extensions)]
        self.epochs, self.total_steps = config.epochs + sum(self.extensions), sum(stretches)
        self._ends = set(accumulate((config.epochs, *self.extensions)))  # the last epoch of each stretch
        self.learner = Learner(head, config, stretches, self.device)
        self.seconds = self._began = self._saved = 0.0
        self._window = LossWindow()  # the steps since the last line of the log
        self.best: dict[str, Any] = {}
        self.remarks: list[str] = []
        require_same(self.run, RUN.record, self._described(), self._features())

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

    def optimise(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step; returns the loss terms (see :meth:`Learner.optimise`)."""
        return self.learner.optimise(batch)

    def fit(self, on_step: Callable[[Status], None] = lambda status: None) -> TrainResult:
        """Train to the end, from the last checkpoint of an interrupted run where there is one.

        Raises:
            UserError: when the folder is another run's or another process works in it, or the loss is no longer finite
                (the last good checkpoints stay).
        """
        versions = {"detheads_version": __version__, "torch_version": torch.__version__}
        remarks = {"features": self._features(), "init": self.started_from and self.started_from.source, **versions}
        with claims.claimed(self.run, RUN, self._described(), {"extensions": [], **remarks}) as recorded:
            self._extend(recorded)
            self._require_last()
            if checkpoint_path(self.run, "last").is_file():
                self._resume()
            if self.learner.step < self.total_steps:
                (self.run / RECORD_NAME).unlink(missing_ok=True)  # it is extended: the files are to change
            log = RunLog(self.run, self.learner.step)
            self._saved = time.monotonic()
            self._began = self._saved - self.seconds
            for epoch in range(self.learner.step // self.steps_per_epoch, self.epochs):
                self._train_epoch(epoch, log, on_step)
                evaluated = (epoch + 1) % self.config.eval_every == 0 or epoch + 1 in self._ends
                if evaluated:
                    self._evaluate(epoch, log)
                self._save_last()
                if evaluated:
                    plot_log(self.run)
            self._record()
        best_epoch, remarked = int(self.best["epoch"]), tuple(self.remarks)
        return TrainResult(self.run, self.parameters, self.best, best_epoch, self.seconds, remarked)

    def _train_epoch(self, epoch: int, log: RunLog, on_step: Callable[[Status], None]) -> None:
        """The steps of one epoch that are still to do."""
        order = epoch_order(self.config, self.train_cache, epoch)
        left = order[self.learner.step % self.steps_per_epoch :]
        batches = read_batches(
            self.train_cache, left, matcher=self.head.matcher(), device=self.device, readers=self.readers
        )
        for batch in batches:
            if self.learner.step == 0 and self.started_from is None:
                self.head.start_from(batch.features)
            losses = self.optimise(batch)
            step = self.learner.step
            self.seconds = time.monotonic() - self._began
            self._window.add(losses)
            if step % LOG_EVERY == 0:
                self._require_finite()
                log.write(self._position(epoch) | self._window.means())
                self._window.fill(())
            on_step(Status(step, self.total_steps, epoch + 1, losses, self.best.get("AP")))
            if time.monotonic() - self._saved > SAVE_SECONDS and step % self.steps_per_epoch:
                self._require_finite()
                self._save_last()
        self._require_finite()

    def _require_finite(self) -> None:
        """Stop where a loss or gradient was not finite; called before anything of the steps is kept."""
        found = self.learner.divergence()
        if found is None:
            return
        epoch, step = divmod(found.step, self.steps_per_epoch)
        # Asked for once more, features that are not finite are refused with the name of their picture.
        self.train_cache.features(*epoch_order(self.config, self.train_cache, epoch)[step])
        raise UserError(found.sentence)

    def _evaluate(self, epoch: int, log: RunLog) -> None:
        evaluated = evaluate_cache(self.averaged_head, self.val_cache, batch_size=self.config.batch)
        statistics = evaluated.to_dict()
        position = self._position(epoch)
        log.write(position | {name: value for name, value in statistics.items() if name != "per_class"})
        if not self.best or evaluated.require_ap() > self.best["AP"]:
            self.best = statistics | {"epoch": epoch + 1}
            self._save_best(position)

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
            "training": self._options(),
            "cache_sha256": identity.cache_sha256,
            "val_cache_sha256": self.val_cache.sha256,
            "classes": [category.name for category in identity.categories],
            "class_embeddings_sha256": self.embeddings_sha256,
            "backbone": identity.backbone_name,
            "init_sha256": self.started_from and self.started_from.sha256,
        }

    def _options(self) -> dict[str, Any]:
        """The training's options as they are recorded: a window that is no smaller than the cache is none."""
        whole = math.isinf(shuffle_window(self.config, self.train_cache))
        return recorded_options(asdict(self.config) | ({"shuffle_window": 0} if whole else {}))

    def _features(self) -> dict[str, str]:
        """Digests of the features, which new annotations leave as they are."""
        return {"train": self.train_cache.features_sha256, "val": self.val_cache.features_sha256}

    def _save_last(self) -> None:
        """Write all that an exact resume needs."""
        self.seconds = time.monotonic() - self._began
        tensors, values = self.learner.state()
        progress = values | {"seconds": self.seconds, "window": self._window.rows()}
        checkpoint = replace(self.identity, metrics=self.best, progress=progress)
        save_checkpoint(checkpoint_path(self.run, "last"), checkpoint, tensors)
        self._saved = time.monotonic()

    def _extend(self, recorded: dict[str, Any]) -> None:
        """Record the extensions, which a run may get more of and never less."""
        before = tuple(recorded.get("extensions") or ())
        if self.extensions[: len(before)] != before:
            given = " ".join(f"--extend {epochs}" for epochs in before)
            raise UserError(f"{self.run} was extended already; give {given} and then what is to come, or another -o.")
        if self.extensions != before:
            atomic.write_json(self.run / RUN.record, {**recorded, "extensions": list(self.extensions)})

    def _require_last(self) -> None:
        """A finished run without its last checkpoint is not begun again over its best weights."""
        last = checkpoint_path(self.run, "last")
        if not last.is_file() and read_record(self.run) is not None:
            raise UserError(
                f"{self.run} is a finished run whose {last.name} is missing, so it cannot go on; its best weights "
                "serve as they are, and a training from the start needs another folder with -o."
            )

    def _resume(self) -> None:
        last = checkpoint_path(self.run, "last")
        record = read_record(self.run)
        description, tensors = load_tensors(last)
        cure = "train again with another folder (-o)"
        if record is not None and not is_recorded(last, record):
            raise UserError(
                f"{last} is not the file that the run finished with ({RECORD_NAME} has another digest), so the run "
                f"cannot go on; {cure}."
            )
        try:
            kept = from_description(description)
            if replace(kept, metrics={}, progress={}) != self.identity:
                raise ValueError("it is of another training")
            progress = read_progress(kept, self.steps_per_epoch)
            require_finite(tensors, last)
            self.learner.restore(tensors, kept.progress)
        except ValueError as error:
            raise UserError(f"{last} cannot be resumed: {error}; {cure}.") from None
        self.seconds, self.best = progress.seconds, kept.metrics
        self._window.fill(progress.window)
        self._mend_best(record)

    def _mend_best(self, record: Record | None) -> None:
        """Make ``best`` anew from ``last`` where it is missing or damaged, and these are the weights it held."""
        if not self.best:
            return
        path = checkpoint_path(self.run, "best")
        try:
            found = load_checkpoint(self.run, "best")
            whole = replace(found, metrics={}, progress={}, tensors={}, checkpoint_sha256="") == self.identity
        except UserError:
            whole = False
        if whole:
            return
        epoch = int(self.best["epoch"])
        if self.learner.step != epoch * self.steps_per_epoch:
            raise UserError(
                f"{path} is missing or damaged, and the weights of its epoch {epoch} are nowhere else; use the last "
                "ones ('detheads eval --which last'), or train again with another folder (-o)."
            )
        self._save_best(self._position(epoch - 1))
        self.remarks.append(f"{path} was missing or damaged and was made anew: the last weights are the best ones")
        if record is not None:
            self._record()

    def _save_best(self, position: dict[str, Any]) -> None:
        tensors = self.averaged_head.state_dict()
        checkpoint = replace(self.identity, metrics=self.best, progress=position, tensors=tensors)
        save_checkpoint(checkpoint_path(self.run, "best"), checkpoint)

    def _record(self) -> None:
        """Write down what the run finished with."""
        paths = [checkpoint_path(self.run, which) for which in ("best", "last")]
        write_record(
            self.run,
            Record(
                checkpoints={path.name: atomic.sha256_of(path) for path in paths},
                epochs=self.learner.step // self.steps_per_epoch,
                metrics=self.best,
                seconds=self.seconds,
                validated_on_trained=self.identity.validated_on_trained,
            ),
        )


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
