"""The input is chosen by measured times, and the features are cached."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from detheads.backbones.backbone import Backbone, load_backbone
from detheads.cache.builder import build_cache, settings_for
from detheads.cache.reader import FeatureCache
from detheads.data import Dataset
from detheads.foundation.progress import Progress, under
from detheads.foundation.text import file_name
from detheads.make.divide import Division, subset
from detheads.make.ledger import Ledger
from detheads.make.rates import caching_seconds
from detheads.make.request import Request
from detheads.make.sizes import Costs, InputChoice, choose_input

TRIAL_NAME = "trial"
"""Where backbones are compared: a folder among what is made of a backbone's features."""


class Encoders:
    """The backbone at the sizes that are asked for, each loaded once."""

    def __init__(self, request: Request, device: torch.device) -> None:
        self._request, self._device = request, device
        self._known: dict[tuple[int, int] | None, Backbone] = {}

    def at(self, size: tuple[int, int] | None) -> Backbone:
        """The backbone for inputs of ``size`` (height, width); at its own size when None.

        Raises:
            UserError: unknown backbone, missing weights or an impossible size.
        """
        if size not in self._known:
            loaded = load_backbone(self._request.backbone, size, weights=self._request.weights)
            self._known[size] = loaded.to(self._device)
        return self._known[size]


@dataclass(frozen=True)
class Caches:
    """Finished caches.

    Attributes:
        train, val: to learn from and to judge by; the same one where there are folds.
        learned, judges: the pictures of ``train`` and ``val``, with their files.
        folds: (training, validation) of each fold.
    """

    train: FeatureCache
    val: FeatureCache
    learned: Dataset
    judges: Dataset
    folds: Sequence[tuple[FeatureCache, FeatureCache]]


def decide_input(
    request: Request, division: Division, ledger: Ledger, encoders: Encoders, on_progress: Progress
) -> InputChoice:
    """Measure what pictures cost and choose; decided once.

    Raises:
        UserError: when time or disk is too little for anything.
    """
    measured: dict[tuple[int, int], Costs] = {}

    def costs(size: tuple[int, int]) -> Costs:
        if size not in measured:
            on_progress("measuring", 0, 0)
            encoder = encoders.at(size)
            stored = settings_for(encoder).bytes_per_image
            measured[size] = Costs(caching_seconds(encoder, division.train), stored)
        return measured[size]

    def choose() -> dict[str, object]:
        judges = 0 if division.folds else len(division.val.images)
        left = request.budget.seconds - ledger.elapsed
        free = shutil.disk_usage(_existing(request.work)).free
        spec = encoders.at(request.size).spec
        return asdict(choose_input(spec, division.train, judges, left, free, costs, request.size))

    decision = ledger.decided(f"input of {request.backbone}", choose)
    return InputChoice(**{**decision, "size": tuple(decision["size"]), "why": tuple(decision["why"])})


def build_caches(
    request: Request, division: Division, choice: InputChoice, encoders: Encoders, on_progress: Progress
) -> Caches:
    """Cache what was chosen; what is there already is not extracted again.

    Raises:
        UserError: as :func:`build_cache`.
    """
    encoder, place = encoders.at(choice.size), place_of(request, choice)

    def build(dataset: Dataset, name: str, flips: bool, reuse: Sequence[Path] = ()) -> FeatureCache:
        build_cache(
            dataset,
            encoder,
            place / name,
            flips=flips,
            reuse=reuse,
            skip_bad=request.skip_bad,
            on_progress=under(f"caching {name}", on_progress),
        )
        return FeatureCache(place / name)

    learned = subset(division.train, choice.train, request.seed)
    compared = place / TRIAL_NAME / "train"
    train = build(learned, "train", choice.flips, [compared] if compared.exists() else ())
    if division.folds:
        folds = [
            (
                build(part, f"fold-{number}-train", choice.flips, [train.folder]),
                build(held, f"fold-{number}-val", choice.flips, [train.folder]),
            )
            for number, (part, held) in enumerate(division.folds, start=1)
        ]
        return Caches(train, train, learned, learned, folds)
    judges = subset(division.val, choice.val, request.seed)
    return Caches(train, build(judges, "val", False), learned, judges, ())


def place_of(request: Request, choice: InputChoice) -> Path:
    """The folder of all that is made of a backbone's features at an input."""
    return request.work / f"{file_name(request.backbone)}-{choice.name}"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
