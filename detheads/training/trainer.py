"""A training run: epochs, evaluations, checkpoints and log of a head that learns from a cache, in one folder."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detheads import __version__
from detheads.backbones.text import Encoder
from detheads.cache.reader import FeatureCache
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation import atomic, claims
from detheads.foundation.errors import UserError
from detheads.headkit.contract import Head
from detheads.headkit.cost import parameters_of
from detheads.training import same_run
from detheads.training.batches import Batch, default_readers, epoch_order, read_batches, shuffle_window
from detheads.training.caches import as_mirrored, require_trainable
from detheads.training.checkpoint import (
    checkpoint_path,
    from_description,
    load_checkpoint,
    load_tensors,
    require_finite,
    save_checkpoint,
)
from detheads.training.config import TrainConfig
from detheads.training.distributed import Processes
from detheads.training.held_out import divided
from detheads.training.learner import Learner
from detheads.training.log import RunLog, plot_log
from detheads.training.only import require_unchanged
from detheads.training.origin import begin
from detheads.training.pictures import among
from detheads.training.progress import read_progress
from detheads.training.record import RECORD_NAME, Record, is_recorded, read_record, require_last, write_record
from detheads.training.status import Status, TrainResult
from detheads.training.sweep import KINDS, Weights, log_entry
from detheads.training.window import LossWindow

RUN = claims.Kind("config.json", "a training run", "training in")
LOG_EVERY = 20
"""Steps between log lines."""
RECIPE_NAME = "recipe.toml"
"""The recipe that a run is a stage of, with the value of every option; ``train --recipe`` follows it again."""
SAVE_SECONDS = 300.0
"""Longest time between two resumable checkpoints."""


class Trainer:
    """Trains one head on one cache into one run folder.

    Attributes:
        parameters, learning: of the head, and how many of them this training changes.
        held_out: training pictures that a sweep is judged by; None without one.
        held_out_known: how many of them the weights that it starts from were trained on.

    Args:
        run: a new folder, or that of the same training, which is then resumed.
        device: the CPU when None.
        processes: that train together, of which ``batch`` images are one step (see
            :func:`~detheads.training.distributed.together`); this one alone, on ``device``, when None.
        encoder: what made the class embeddings, where that is known.
        init: run folder or checkpoint file whose weights the training starts from; head options that are not given
            are its own. The classes may be others (see :mod:`detheads.training.warm_start`).
        extensions: epochs of each extension of the training, behind those of ``config``. Each is a warm restart of
            the learning rate. A finished run that is extended ends as one that was extended from the start.
        readers: threads that read batches (see :func:`read_batches`); they change no number.
        recipe: text of the recipe that this is a stage of, which is kept in the run's folder.

    Raises:
        UserError: when the caches do not belong together, one has nothing to learn or to score, or the folder holds
            another run, or a batch has fewer images than there are processes.
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
        processes: Processes | None = None,
        class_embeddings: Tensor | None = None,
        encoder: Encoder | None = None,
        init: str | Path | None = None,
        extensions: Sequence[int] = (),
        readers: int | None = None,
        recipe: str = "",
    ) -> None:
        require_trainable(train, val)
        self.train_cache, self.held_out = divided(as_mirrored(train, config.mirror), config)
        self.val_cache, self.run, self.config = val, Path(run), config
        self.extensions, self.recipe = tuple(extensions), recipe
        self.processes = processes or Processes(device or torch.device("cpu"))
        self.processes.require_shares(config.batch)
        self.device, self.readers = self.processes.device, readers or self.processes.fair(default_readers())
        torch.manual_seed(config.seed)
        origin = begin(
            head_name,
            head_config,
            self.train_cache,
            val,
            class_embeddings=class_embeddings,
            encoder=encoder,
            init=init,
            exactly=bool(config.train_only),
        )
        self.identity, self.started_from, self._kept = origin.identity, origin.warm, origin.kept
        held = self.held_out.manifest.images if self.held_out is not None else ()
        self.held_out_known = among(origin.pictures, (image.sha256 for image in held))  # to the weights it starts from
        self.parameters = parameters_of(origin.head)
        self.steps_per_epoch = math.ceil(len(self.train_cache) / config.batch)
        if config.steps and self.extensions:
            raise UserError("a training of so many steps ends within an epoch, so it cannot be extended by epochs.")
        epochs = math.ceil(config.steps / self.steps_per_epoch) or config.epochs  # the last one may be cut short
        stretches = [config.steps or self.steps_per_epoch * epochs]
        stretches += [self.steps_per_epoch * more for more in self.extensions]
        self.epochs, self.total_steps = epochs + sum(self.extensions), sum(stretches)
        self._ends = set(accumulate((epochs, *self.extensions)))  # the last epoch of each stretch
        self._sweep = frozenset(config.sweep_steps(stretches))
        self.learner = Learner(origin.head, config, stretches, self.device, self.processes)
        self.learning = parameters_of(self.head)
        self.seconds = self._began = self._saved = 0.0
        self._log: RunLog | None = None
        self._window = LossWindow()  # the steps since the last line of the log
        self.best: dict[str, Any] = {}
        self.remarks: list[str] = []
        same_run.require_same(self.run, RUN.record, self._described(), self._features())

    @property
    def head(self) -> Head:
        """The head with its live weights."""
        return self.learner.head

    @property
    def averaged_head(self) -> Head:
        """The head with the averaged weights, which are evaluated and shipped."""
        return self.learner.averaged_head

    def weights(self, kind: Weights) -> Head:
        """The head with one of the two kinds of weights."""
        return self.averaged_head if kind == "averaged" else self.head

    def optimise(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step; returns the loss terms (see :meth:`Learner.optimise`)."""
        return self.learner.optimise(batch)

    def fit(self, on_step: Callable[[Status], None] = lambda status: None) -> TrainResult:
        """Train to the end, from the last checkpoint of an interrupted run where there is one.

        Raises:
            UserError: when the folder is another run's or another process works in it, or the loss is no longer finite
                (the last good checkpoints stay).
        """
        first = self.processes.first
        with self._claimed() if first else nullcontext({}) as recorded:
            if first:
                if self.recipe:
                    atomic.write_text(self.run / RECIPE_NAME, self.recipe)
                self._take_up(recorded)
            self._start_alike()
            self._log = RunLog(self.run, self.learner.step) if first else None
            self._saved = time.monotonic()
            self._began = self._saved - self.seconds
            done = self.learner.step == self.total_steps
            for epoch in range(self.epochs if done else self.learner.step // self.steps_per_epoch, self.epochs):
                self._train_epoch(epoch, on_step)
                evaluated = (epoch + 1) % self.config.eval_every == 0 or epoch + 1 in self._ends
                if evaluated:
                    self._evaluate(epoch)
                self._save_last()
                if evaluated and first:
                    plot_log(self.run)
            if first:
                self._record()
        if self._kept is not None and self.started_from is not None:
            count = require_unchanged(self.head, self._kept, self.config.train_only)
            self.remarks.append(f"the other {count} tensors are, bit for bit, those of {self.started_from.source}")
        best_epoch, remarked = int(self.best["epoch"]), tuple(self.remarks)
        return TrainResult(self.run, self.parameters, self.best, best_epoch, self.seconds, remarked)

    def _claimed(self) -> AbstractContextManager[dict[str, Any]]:
        """The folder, for this process alone; gives what is recorded in it."""
        remarks: dict[str, Any] = {"detheads_version": __version__, "torch_version": torch.__version__}
        remarks |= {"features": self._features(), "init": self.started_from and self.started_from.source}
        remarks |= {"extensions": [], "processes": self.processes.count}
        return claims.claimed(self.run, RUN, self._described(), remarks)

    def _take_up(self, recorded: dict[str, Any]) -> None:
        """Go on with what the folder holds."""
        same_run.record_extensions(self.run / RUN.record, recorded, self.extensions)
        require_last(checkpoint_path(self.run, "last"))
        if checkpoint_path(self.run, "last").is_file():
            self._resume()
        if self.learner.step < self.total_steps:
            (self.run / RECORD_NAME).unlink(missing_ok=True)  # it is extended: the files are to change
            if (before := recorded.get("processes", 1)) != (now := self.processes.count):
                self.remarks.append(f"begun by {before} processes, gone on by {now}: sums of a batch round otherwise")

    def _start_alike(self) -> None:
        """Show a new head the first batch, and give all processes the state of the first one.

        Raises:
            UserError: when this process was given another training than the first one.
        """
        if self.processes.count > 1 and self.processes.from_first(self._described) != self._described():
            raise UserError(
                f"process {self.processes.launch.rank} of {self.processes.count} was given another training than "
                "process 0: other options, or other caches under the same path; give all of them the same."
            )
        if self.processes.first and self.learner.step == 0 and self.started_from is None:
            features = self.train_cache.features(*epoch_order(self.config, self.train_cache, 0)[0])
            self.head.start_from({name: values.to(self.device) for name, values in features.items()})
        self.learner.align()
        self.best = self.processes.from_first(lambda: self.best)

    def _train_epoch(self, epoch: int, on_step: Callable[[Status], None]) -> None:
        """The steps of one epoch that are still to do."""
        order = epoch_order(self.config, self.train_cache, epoch)
        ends = self.total_steps - epoch * self.steps_per_epoch
        left = self.processes.share(order[self.learner.step % self.steps_per_epoch : ends])
        matcher, device = self.head.matcher(), self.device
        for batch in read_batches(self.train_cache, left, matcher=matcher, device=device, readers=self.readers):
            losses = self.optimise(batch)
            step = self.learner.step
            self.seconds = time.monotonic() - self._began
            self._window.add(losses)
            if step % LOG_EVERY == 0:
                self._require_finite()
                self._note(epoch, self._window.means())
                self._window.fill(())
            on_step(Status(step, self.total_steps, epoch + 1, losses, self.best.get("AP")))
            swept = step in self._sweep
            if swept:
                self._require_finite()
                self._judge(epoch)
            within = step % self.steps_per_epoch and step < self.total_steps
            if within and (swept or time.monotonic() - self._saved > SAVE_SECONDS):
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

    def _evaluate(self, epoch: int) -> None:
        """Judge the averaged weights by the validation cache; without a sweep they are the best, or not."""
        statistics = self.processes.from_first(lambda: self._statistics("averaged", self.val_cache))
        self._note(epoch, {name: value for name, value in statistics.items() if name != "per_class"})
        if self.held_out is None and (not self.best or statistics["AP"] > self.best["AP"]):
            self._take("averaged", epoch, statistics)

    def _judge(self, epoch: int) -> None:
        """Look at both kinds of weights by the held-out pictures, and keep the better one where none was as good yet.

        The validation cache says how good the kept weights are, and has no part in which they are.
        """
        cache = self.held_out
        assert cache is not None
        aps = self.processes.from_first(lambda: {kind: self._statistics(kind, cache)["AP"] for kind in KINDS})
        self._note(epoch, log_entry(aps))
        kind = max(KINDS, key=lambda kind: aps[kind])
        if not self.best or aps[kind] > self.best["held_out_ap"]:
            statistics = self.processes.from_first(lambda: self._statistics(kind, self.val_cache))
            self._take(kind, epoch, statistics | {"step": self.learner.step, "weights": kind, "held_out_ap": aps[kind]})

    def _statistics(self, kind: Weights, cache: FeatureCache) -> dict[str, Any]:
        """COCO statistics of one kind of weights."""
        evaluated = evaluate_cache(self.weights(kind), cache, batch_size=self.config.batch)
        evaluated.require_ap()
        return evaluated.to_dict()

    def _take(self, kind: Weights, epoch: int, statistics: Mapping[str, Any]) -> None:
        """These weights are the best so far."""
        cut_short = {"step": self.learner.step} if self.learner.step % self.steps_per_epoch else {}
        self.best = {**statistics, **cut_short, "epoch": epoch + 1}
        if self.processes.first:
            self._save_best(kind, self._position(epoch))

    def _note(self, epoch: int, values: dict[str, Any]) -> None:
        """Write into the log, which the first process has."""
        if self._log is not None:
            self._log.write(self._position(epoch) | values)

    def _position(self, epoch: int) -> dict[str, Any]:
        return {
            "step": self.learner.step,
            "epoch": epoch + 1,
            "lr": self.learner.rate,
            "seconds": round(self.seconds, 2),
        }

    def _described(self) -> dict[str, Any]:
        """The resolved configuration: what makes it another run."""
        # A window that is no smaller than the cache is none.
        window = {"shuffle_window": 0} if math.isinf(shuffle_window(self.config, self.train_cache)) else {}
        return {
            "head": same_run.recorded_head(self.run / RUN.record, self.identity, self.parameters),
            "training": same_run.recorded_options(asdict(self.config) | window),
            "val_cache_sha256": self.val_cache.sha256,
            "init_sha256": self.started_from and self.started_from.sha256,
            **same_run.recorded_identity(self.identity),
        }

    def _features(self) -> dict[str, str]:
        """Digests of the features, which new annotations leave as they are."""
        return {"train": self.train_cache.features_sha256, "val": self.val_cache.features_sha256}

    def _save_last(self) -> None:
        """Write all that an exact resume needs."""
        self._saved = time.monotonic()
        self.seconds = self._saved - self._began
        if not self.processes.first:
            return
        tensors, values = self.learner.state()
        progress = values | {"seconds": self.seconds, "window": self._window.rows()}
        checkpoint = replace(self.identity, metrics=self.best, progress=progress)
        save_checkpoint(checkpoint_path(self.run, "last"), checkpoint, tensors)

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
            if not same_run.is_of(kept, self.identity):
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
            whole = same_run.is_of(load_checkpoint(self.run, "best"), self.identity)
        except UserError:
            whole = False
        if whole:
            return
        epoch = int(self.best["epoch"])
        if self.learner.step != (self.best.get("step") or epoch * self.steps_per_epoch):
            raise UserError(
                f"{path} is missing or damaged, and the weights of its epoch {epoch} are nowhere else; use the last "
                "ones ('detheads eval --which last'), or train again with another folder (-o)."
            )
        self._save_best(self.best.get("weights", "averaged"), self._position(epoch - 1))
        self.remarks.append(f"{path} was missing or damaged and was made anew: the last weights are the best ones")
        if record is not None:
            self._record()

    def _save_best(self, kind: Weights, position: dict[str, Any]) -> None:
        if self._kept is not None:
            require_unchanged(self.weights(kind), self._kept, self.config.train_only)
        tensors = self.weights(kind).state_dict()
        checkpoint = replace(self.identity, metrics=self.best, progress=position, tensors=tensors)
        save_checkpoint(checkpoint_path(self.run, "best"), checkpoint)

    def _record(self) -> None:
        """Write down what the run finished with."""
        write_record(
            self.run,
            [checkpoint_path(self.run, which) for which in ("best", "last")],
            epochs=self.learner.step // self.steps_per_epoch,
            metrics=self.best,
            seconds=self.seconds,
            validated_on_trained=self.identity.validated_on_trained,
        )
