"""Which backbone: those at hand are compared by a short training on the same part of the pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detheads.backbones.spec import APACHE, SPECS
from detheads.backbones.weights import at_hand
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import Dataset
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.foundation.progress import Progress, under
from detheads.make.budget import span
from detheads.make.caching import TRIAL_NAME, Encoders, decide_input, place_of
from detheads.make.contenders import batch_for, contenders_for, mirror_for, training_config
from detheads.make.contest import EVALUATION_SHARE, STARTING_SECONDS, measure_heads, train_head
from detheads.make.divide import Division, subset
from detheads.make.ledger import Ledger
from detheads.make.request import BACKBONE, Candidate, Request

FREE_LICENCES = (APACHE,)
"""A backbone that nobody named is only taken where its licence allows all use: it travels into the bundle."""
COMPARING_SHARE = 0.25
"""Of the time that is left, which the comparison may take; the best one's features are used again."""
MOST_PICTURES, FEWEST_PICTURES = 300, 60
"""That backbones are compared by. With fewer than the least their difference says nothing."""
JUDGES_SHARE = 0.25
"""Of these pictures, which are not trained on."""
MOST_STEPS, FEWEST_STEPS = 200, 60
"""Of the trainings. Fewer than the least say which one is learned from faster, not which is better."""


@dataclass(frozen=True)
class ChosenBackbone:
    """The request with the backbone that is used, and why it is that one."""

    request: Request
    why: Sequence[str]


def candidates_at_hand() -> list[Candidate]:
    """The backbones that are compared where the user names none, :data:`BACKBONE` first."""
    free = [spec for spec in SPECS.values() if spec.licence in FREE_LICENCES and at_hand(spec)]
    return [Candidate(spec.name) for spec in sorted(free, key=lambda spec: spec.name != BACKBONE)]


def choose_backbone(
    request: Request, division: Division, ledger: Ledger, device: torch.device, on_progress: Progress
) -> ChosenBackbone:
    """Compare the backbones of a request where there is time for it; decided once.

    Backbones that cannot be compared, for time, disk or a fault of their own, are told. Where that leaves no
    comparison, the first that is left is used.
    """
    if not request.rivals:
        return ChosenBackbone(request, ["the only one that was asked for, or whose weights are here for all use"])
    first = Candidate(request.backbone, request.weights)
    asked = [replace(request, backbone=each.name, weights=each.weights, rivals=()) for each in (first, *request.rivals)]

    def compare() -> tuple[int, list[str]]:
        ledger.keep()  # caches and trainings are kept from here on
        share = (request.budget.seconds - ledger.elapsed) * COMPARING_SHARE / len(asked)
        trials, why = [], []
        for each in asked:
            try:
                trials.append(_Trial(each, division, ledger, device, share / 2, on_progress))
            except UserError as error:
                why.append(f"{each.backbone} was not compared: {str(error).rstrip('.')}")
        if len(trials) > 1:
            pictures = min(trial.pictures for trial in trials)
            for trial in trials:
                trial.cache(pictures)
            steps = min(trial.steps(share / 2) for trial in trials)
            if steps >= FEWEST_STEPS:
                for trial in trials:
                    why.append(trial.train(steps))
                best = max(trials, key=lambda trial: trial.ap)
                return asked.index(best.request), why
            why.append(f"there was no time for {FEWEST_STEPS} steps with each, by which they would be compared")
        return (asked.index(trials[0].request) if trials else 0), why

    number, why = ledger.decided("backbone", compare)
    return ChosenBackbone(asked[number], why)


class _Trial:
    """One backbone in the comparison.

    Attributes:
        request: with this backbone alone.
        pictures: that can be cached in its time.
        ap: of its training.
    """

    def __init__(
        self,
        request: Request,
        division: Division,
        ledger: Ledger,
        device: torch.device,
        seconds: float,
        on_progress: Progress,
    ) -> None:
        """Choose its input.

        Args:
            seconds: for caching.

        Raises:
            UserError: when too few pictures can be cached, or the backbone cannot be used.
        """
        self.request, self.ap = request, 0.0
        self._ledger, self._device, self._on_progress = ledger, device, on_progress
        self._encoders = Encoders(request, device)
        self._choice = decide_input(request, division, ledger, self._encoders, on_progress)
        self._train, self._val = division.folds[0] if division.folds else (division.train, division.val)
        each = self._choice.picture_seconds * (2 if self._choice.flips else 1)
        self.pictures = int(min(MOST_PICTURES, seconds / each))
        if self.pictures < FEWEST_PICTURES:
            raise UserError(
                f"caching {FEWEST_PICTURES} pictures at {sides(*self._choice.size)} would take "
                f"{span(FEWEST_PICTURES * each)}, more than the {span(seconds)} that there are for it"
            )

    def cache(self, pictures: int) -> None:
        """Cache so many pictures, some of which judge."""
        judges = max(1, round(pictures * JUDGES_SHARE))
        self._learned = self._cached(subset(self._train, pictures - judges, self.request.seed), "train")
        self._judged = self._cached(subset(self._val, judges, self.request.seed), "val")

    def steps(self, seconds: float) -> int:
        """How many can be trained on them in some seconds."""
        self._head = contenders_for(self.request, self._device)[0]
        self._timing = measure_heads(
            self.request, self._head, self._learned, self._ledger, self._device, self._on_progress
        )
        step = self._timing.step(self._head) * EVALUATION_SHARE
        return int(max(0.0, min(MOST_STEPS, (seconds - STARTING_SECONDS) / step)))

    def train(self, steps: int) -> str:
        """Train so many steps, and say what they reach."""
        per_epoch = -(-len(self._learned) // batch_for(len(self._learned)))
        epochs = max(1, round(steps / per_epoch))
        config = training_config(
            self.request, len(self._learned), epochs, self._timing.precision, mirror_for(self._learned)
        )
        row = train_head(
            self.request,
            self._head,
            self._learned,
            self._judged,
            replace(config, eval_every=epochs),
            self._place / f"arena-{epochs}-epochs",
            self._device,
            self._on_progress,
        )
        if row.status == "failed":
            return f"{self.request.backbone} could not be compared: {row.error}"
        self.ap = row.metrics["AP"] or 0.0
        return (
            f"{self.request.backbone} reaches AP {self.ap:.3f} in {epochs} epochs with {self._head.head} on "
            f"{len(self._learned)} pictures of {sides(*self._choice.size)} pixels"
        )

    @property
    def _place(self) -> Path:
        return place_of(self.request, self._choice) / TRIAL_NAME

    def _cached(self, dataset: Dataset, name: str) -> FeatureCache:
        folder = self._place / name
        build_cache(
            dataset,
            self._encoders.at(self._choice.size),
            folder,
            flips=self._choice.flips and name == "train",
            skip_bad=self.request.skip_bad,
            on_progress=under(f"caching for {self.request.backbone}", self._on_progress),
        )
        return FeatureCache(folder)
