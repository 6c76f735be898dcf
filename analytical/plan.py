"""What is fixed before the pass: classes, anchors, the centring of rows and the principal components.

All of it comes from the annotations and a survey of at most ``SURVEY_IMAGES`` images, so that the parts of one cache
that different processes take agree on it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from detheads.analytical.anchors import fit_anchors
from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.config import Config
from detheads.analytical.moments import Moments
from detheads.analytical.passes import BATCH
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.foundation.progress import Progress
from detheads.headkit import registry
from detheads.headkit.blocks import join_main
from detheads.training.checkpoint import Checkpoint, untrained

SURVEY_IMAGES = 128
"""Images that tell the approximate mean and the principal components."""

LEAST_VARIANCE = 1e-6
"""Of a component, in units of a channel's: less is rounding."""


@dataclass(frozen=True)
class Plan:
    """The frame of a fit.

    Attributes:
        identity: what the fit is for, as a checkpoint without weights.
        tensors: ``anchors [A, 2]``, ``center [d]``, ``components [d, p]``, ``pilot [dimensions]``.
    """

    identity: Checkpoint
    tensors: dict[str, Tensor]

    def require_same_rows(self, other: "Plan", what: str) -> None:
        """Refuse another plan under which the sums would mean something else.

        Raises:
            UserError: naming what differs.
        """
        mine, its = self._meaning(), other._meaning()
        for key, value in mine.items():
            if its[key] != value:
                raise UserError(f"{what} was collected with another {key}: {its[key]}, not {value}; collect it again.")
        needed = ("anchors", "components") if self.identity.head_config["view"] == "context" else ("anchors",)
        for key in needed:
            # Processes with other thread counts round otherwise in the last bits.
            if not torch.allclose(self.tensors[key], other.tensors[key], rtol=1e-4, atol=1e-5):
                raise UserError(
                    f"{what} was collected with other {key}, which come from a cache's images and boxes; "
                    "take parts of one cache with --part I/N, or collect other images with --like."
                )

    def _meaning(self) -> dict[str, Any]:
        """What decides the meaning of the sums, besides tensors."""
        identity = self.identity
        shaping = ("levels", "view", "components") if identity.head_config["view"] == "context" else ("levels", "view")
        options = {key: identity.head_config[key] for key in shaping}
        spec = identity.feature_spec
        return {
            "backbone": identity.backbone_name,
            "backbone weights": identity.backbone_weights_sha256,
            "input size": sides(spec.height, spec.width),
            "features": spec,
            "classes": [category.name for category in identity.categories],
            "categories": identity.categories,
            **options,
        }

    def build_head(self) -> ClosedForm:
        """The head with anchors and components, everything else unsolved."""
        identity = self.identity
        head = registry.build(identity.head_name, identity.feature_spec, len(identity.categories), identity.head_config)
        assert isinstance(head, ClosedForm)
        for name in ("anchors", "center", "components"):
            getattr(head, name).copy_(self.tensors[name])
        return head.eval().requires_grad_(False)


def select_classes(cache: FeatureCache, names: Sequence[str]) -> FeatureCache:
    """The cache with the named classes only; all of them when no name is given.

    Raises:
        UserError: when the dataset has no such class.
    """
    known = cache.dataset.class_names
    for name in names:
        if name not in known:
            raise UserError(f"{cache.folder} has no class {name!r}; it has {', '.join(known)}.")
    if not names:
        return cache
    return cache.restricted([category for category in cache.dataset.categories if category.name in names])


@torch.inference_mode()
def make_plan(cache: FeatureCache, config: Config, on_progress: Progress) -> Plan:
    """Anchors from all boxes of ``cache``, mean and components from a survey of its features.

    Raises:
        UserError: when the cache holds no object, or a component count that the features do not have.
    """
    boxes = torch.cat([cache.targets(index).boxes for index in range(len(cache))])
    if not len(boxes):
        names = ", ".join(cache.dataset.class_names)
        raise UserError(f"{cache.folder} holds no object of {names}; there is nothing to fit.")
    identity = untrained("closed_form", asdict(config), cache)
    tensors = {"anchors": fit_anchors(boxes), "center": torch.zeros(0), "components": torch.zeros(0)}
    head = registry.build("closed_form", cache.feature_spec, len(cache.dataset.categories), asdict(config))
    assert isinstance(head, ClosedForm)
    if config.components > len(head.center):
        raise UserError(f"the features have {len(head.center)} channels, too few for {config.components} components.")
    tensors |= {"center": head.center, "components": head.components}
    count = min(SURVEY_IMAGES, len(cache))
    chosen = [index * len(cache) // count for index in range(count)]
    if config.compressed:
        tensors |= _principal_components(cache, chosen, config.components, on_progress)
    plan = Plan(identity, tensors)
    tensors["pilot"] = _mean_row(plan.build_head(), cache, chosen, on_progress)
    return plan


def _principal_components(
    cache: FeatureCache, chosen: Sequence[int], count: int, on_progress: Progress
) -> dict[str, Tensor]:
    """Leading components of the standardised channels, scaled to unit variance."""
    moments: Moments | None = None
    for start in range(0, len(chosen), BATCH):
        joined = join_main(cache.features(chosen[start : start + BATCH]), cache.feature_spec)
        rows = joined.permute(0, 2, 3, 1).flatten(0, 2)
        moments = moments or Moments(rows.mean(dim=0))
        moments.add(rows)
        on_progress("survey", min(start + BATCH, len(chosen)), len(chosen))
    assert moments is not None
    covariance = moments.covariance()[0]
    # Constant channels, and components without any variance, are left out (zeros): division would blow up rounding.
    variance = covariance.diagonal()
    scale = torch.where(variance > 0, variance.rsqrt(), 0)
    values, vectors = torch.linalg.eigh(covariance * scale.outer(scale))  # ascending
    values, vectors = values[-count:].flip(0), vectors[:, -count:].flip(1)
    leading = vectors * torch.where(values > LEAST_VARIANCE, values.rsqrt(), 0)
    leading = leading * leading.gather(0, leading.abs().argmax(dim=0, keepdim=True)).sign()  # a sign of their own
    return {"center": moments.mean()[0].float(), "components": (leading * scale[:, None]).float()}


def _mean_row(head: ClosedForm, cache: FeatureCache, chosen: Sequence[int], on_progress: Progress) -> Tensor:
    """The mean of what the first stage sees, ``[dimensions]``."""
    total, rows = torch.zeros(head.dimensions, dtype=torch.float64), 0
    for start in range(0, len(chosen), BATCH):
        for level in head.level_rows(cache.features(chosen[start : start + BATCH])):
            total += level.sum(dim=(0, 1)).double()
            rows += level.shape[0] * level.shape[1]
        on_progress("survey", min(start + BATCH, len(chosen)), len(chosen))
    return (total / rows).float()
