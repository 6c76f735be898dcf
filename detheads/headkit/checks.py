"""The contract of heads as checks: what ``detheads heads check`` runs on a head of one's own, and the tests on ours.

Each check takes a :class:`Case`, a head in one small configuration, and raises :class:`CheckError` with a sentence
where the head breaks a promise. Cases are ordered by size, so that the first that fails is the smallest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.headkit import registry
from detheads.headkit.contract import Head, HeadOutput
from detheads.targets.objects import Targets

SPECS = {
    "a transformer, 64x64": FeatureSpec((FeatureLayer("last", 32, 16),), ("last",), 64, 64),
    "a hierarchical network, 128x96": FeatureSpec(
        (FeatureLayer("stride8", 12, 8), FeatureLayer("stride16", 20, 16), FeatureLayer("stride32", 36, 32)),
        ("stride8", "stride16", "stride32"),
        128,
        96,
    ),
    "a transformer, 80x208": FeatureSpec((FeatureLayer("last", 48, 16),), ("last",), 80, 208),
}
"""Features that heads are checked on, the smallest first."""
CLASSES = (1, 3, 80)
STEPS = 6
LOWER_LOSS = 0.99
"""What :data:`STEPS` steps have to leave of the loss at most."""


class CheckError(Exception):
    """A promise that a head breaks, in words."""


@dataclass(frozen=True)
class Case:
    """A head in one configuration.

    Attributes:
        features: what the features are, in words.
        options: of the head; the others have their defaults.
    """

    entry: registry.Entry
    features: str
    spec: FeatureSpec
    classes: int
    options: Mapping[str, Any]

    def head(self, seed: int = 0) -> Head:
        """A new head of seeded weights, in evaluation mode."""
        torch.manual_seed(seed)
        return registry.build(self.entry.name, self.spec, self.classes, self.options).eval()

    @property
    def words(self) -> str:
        classes = "1 class" if self.classes == 1 else f"{self.classes} classes"
        return f"{classes}, features of {self.features}"


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Attributes:
        check: what was checked, as a promise.
        fault: how it is broken, and in which configuration; None when it holds.
    """

    check: str
    fault: str | None


def check_head(
    entry: registry.Entry, options: Mapping[str, Any], on_check: Callable[[Finding], None] = lambda finding: None
) -> list[Finding]:
    """Run every check on every case, until one fails."""
    findings = []
    for promise, check in CHECKS.items():
        faults = ((case, fault_of(check, case)) for case in cases(entry, options))
        first = next((f"{fault} ({case.words})" for case, fault in faults if fault), None)
        findings.append(Finding(promise, first))
        on_check(findings[-1])
    return findings


def cases(entry: registry.Entry, options: Mapping[str, Any]) -> Iterator[Case]:
    """The head in all configurations, the smallest first. Heads that read blocks are given those of a transformer."""
    for features, spec in SPECS.items():
        if not (entry.head.blocks and len(spec.main) > 1):
            for classes in CLASSES:
                yield Case(entry, features, with_blocks(entry, spec), classes, options)


def fault_of(check: Callable[[Case], None], case: Case) -> str | None:
    """What a check finds, in a sentence; None when the promise holds."""
    try:
        check(case)
    except CheckError as error:
        return str(error)
    except Exception as error:
        line = next(iter(str(error).splitlines()), "")
        return f"it fails with {type(error).__name__}: {line}"
    return None


def has_right_shapes(case: Case) -> None:
    """Boxes ``[B, N, 4]``, logits ``[B, N, K]``, quality ``[B, N]`` or None, float32 all."""
    output = case.head()(random_features(case.spec, 3))
    if not isinstance(output, HeadOutput):
        raise CheckError(f"forward returns {type(output).__name__}, not a HeadOutput")
    count = output.boxes.shape[1] if output.boxes.ndim > 1 else 0
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "boxes": (output.boxes, (3, count, 4)),
        "logits": (output.logits, (3, count, case.classes)),
        "quality": (output.quality, (3, count)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and (tuple(tensor.shape) != shape or tensor.dtype != torch.float32 or not count):
            raise CheckError(
                f"{name} of 3 images are {list(tensor.shape)} {tensor.dtype}, not {list(shape)} torch.float32"
            )


def is_finite_whatever_the_features(case: Case) -> None:
    """Finite output and no box inside out, for features of zeros and huge ones, and weights far from their start."""
    for scale in (0.0, 1.0, 1e4):
        head = case.head()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(1 + 9 * (scale > 1))
            output = head(random_features(case.spec, 2, scale=scale))
        for name, tensor in (("boxes", output.boxes), ("logits", output.logits), ("quality", output.quality)):
            if tensor is not None and not torch.isfinite(tensor).all():
                raise CheckError(f"{name} are not finite for features of the size {scale:g}")
        if (output.boxes[..., 2:] < output.boxes[..., :2]).any():
            raise CheckError(f"boxes are inside out (x2 < x1 or y2 < y1) for features of the size {scale:g}")


def treats_images_alone(case: Case) -> None:
    """An image gives the same in a batch as alone."""
    head, features = case.head(), random_features(case.spec, 3)
    with torch.no_grad():
        together = head(features)
        for row in range(3):
            alone = head({name: values[row : row + 1] for name, values in features.items()})
            for name in ("boxes", "logits"):
                one, other = getattr(alone, name)[0], getattr(together, name)[row]
                if not torch.allclose(one, other, atol=1e-4, rtol=1e-4):
                    off = float((one - other).abs().max())
                    raise CheckError(f"{name} of an image differ by {off:g} when it is in a batch with others")


def sees_the_image(case: Case) -> None:
    """Other features give other logits and boxes."""
    head = case.head()
    with torch.no_grad():
        first, second = (head(random_features(case.spec, 1, seed=seed)) for seed in (1, 2))
    for name in ("boxes", "logits"):
        if torch.allclose(getattr(first, name), getattr(second, name)):
            raise CheckError(f"{name} are the same for two images")


def has_finite_losses(case: Case) -> None:
    """Scalars, finite with gradients, for images with no object, with one, and with many."""
    for counts in ((0,), (0, 0), (1, 0), (5, 1)):
        head = case.head().train()
        targets = [objects(case.spec, case.classes, count) for count in counts]
        losses = head.loss(head(random_features(case.spec, len(counts))), targets)
        what = f"for images with {' and '.join(map(str, counts))} objects"
        if not losses:
            raise CheckError(f"loss returns nothing {what}")
        for name, value in losses.items():
            if value.ndim or not torch.isfinite(value):
                raise CheckError(f"the loss {name!r} is {'no scalar' if value.ndim else f'{value.item():g}'} {what}")
        total = torch.stack(list(losses.values())).sum()
        if not total.requires_grad:
            raise CheckError(f"no loss has a gradient {what}")
        total.backward()
        gradients = {name: found.grad for name, found in head.named_parameters() if found.grad is not None}
        for name, gradient in gradients.items():
            if not torch.isfinite(gradient).all():
                raise CheckError(f"the gradient of {name} is not finite {what}")
        if not any(gradient.abs().max() > 0 for gradient in gradients.values()):
            raise CheckError(f"no parameter is given a gradient {what}")


def teaches_every_parameter(case: Case) -> None:
    """Within three steps a gradient reaches each parameter: what starts at zero blocks those before it at first."""
    head = case.head().train()
    optimiser = torch.optim.SGD(head.parameters(), lr=1e-3)
    missing = {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    for seed in range(3):
        optimiser.zero_grad()
        many, none = objects(case.spec, case.classes, 5), objects(case.spec, case.classes, 0)
        total_loss(head, random_features(case.spec, 2, seed=seed), [many, none]).backward()
        missing -= {name for name, found in head.named_parameters() if found.grad is not None and found.grad.any()}
        optimiser.step()
    if missing:
        raise CheckError(f"no gradient ever reaches {', '.join(sorted(missing)[:3])}")


def learns(case: Case) -> None:
    """A few steps on one batch lower its loss."""
    head = case.head().train()
    features = random_features(case.spec, 2)
    targets = [objects(case.spec, case.classes, 5), objects(case.spec, case.classes, 0)]
    values = train_steps(head, features, targets, STEPS)
    if not values[-1] < LOWER_LOSS * values[0]:
        raise CheckError(f"{STEPS} steps on one batch leave the loss at {values[-1]:g}, from {values[0]:g}")


def is_repeatable(case: Case) -> None:
    """One seed gives one head and one training."""
    features = random_features(case.spec, 2)
    targets = [objects(case.spec, case.classes, 5), objects(case.spec, case.classes, 0)]
    ends = []
    for _ in range(2):
        head = case.head(seed=3).train()
        train_steps(head, features, targets, 2)
        ends.append(head.state_dict())
    different = [name for name, value in ends[0].items() if not torch.equal(value, ends[1][name])]
    if different:
        raise CheckError(f"two trainings with one seed end with different weights ({different[0]})")


def loads_again(case: Case) -> None:
    """Built again from its recorded options it takes its weights and gives the same."""
    head = case.head(seed=9)
    recorded = registry.config_dict(case.entry, case.options)
    rebuilt = registry.build(case.entry.name, case.spec, case.classes, recorded).eval()
    rebuilt.load_state_dict(head.state_dict(), strict=True)
    features = random_features(case.spec, 1)
    with torch.no_grad():
        if not torch.equal(rebuilt(features).boxes, head(features).boxes):
            raise CheckError("built again with its weights it gives other boxes: something it needs is no weight")


CHECKS: Mapping[str, Callable[[Case], None]] = {
    "boxes, logits and quality have the right shapes": has_right_shapes,
    "the output is finite and no box is inside out, whatever the features": is_finite_whatever_the_features,
    "an image gives the same alone as in a batch": treats_images_alone,
    "the image decides the output": sees_the_image,
    "losses and gradients are finite with no, one and many objects": has_finite_losses,
    "gradients reach every parameter": teaches_every_parameter,
    "a few steps on one batch lower its loss": learns,
    "one seed gives one training": is_repeatable,
    "weights load into a head that is built again": loads_again,
}
"""The checks by what they hold a head to."""


def with_blocks(entry: registry.Entry, spec: FeatureSpec) -> FeatureSpec:
    """The same features with the intermediate blocks that the head reads besides."""
    main = spec.main_layers[-1]
    missing = [block for block in entry.head.blocks if f"block{block}" not in spec.names]
    blocks = tuple(FeatureLayer(f"block{block}", main.channels, main.stride) for block in missing)
    return replace(spec, layers=blocks + spec.layers)


def random_features(spec: FeatureSpec, batch: int, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    """Seeded normal values for each layer, ``[B, C, H / stride, W / stride]``."""
    generator = torch.Generator().manual_seed(seed)
    return {
        layer.name: scale
        * torch.randn(
            batch, layer.channels, spec.height // layer.stride, spec.width // layer.stride, generator=generator
        )
        for layer in spec.layers
    }


def objects(spec: FeatureSpec, classes: int, count: int = 5) -> Targets:
    """Up to five objects of several sizes, the whole picture and a tiny one included; xyxy, input pixels."""
    height, width = float(spec.height), float(spec.width)
    boxes = torch.tensor(
        [
            [0, 0, width, height],
            [width * 0.1, height * 0.2, width * 0.6, height * 0.9],
            [width * 0.5, height * 0.1, width * 0.8, height * 0.4],
            [20.0, 20.0, min(width, 44.0), min(height, 50.0)],
            [9.0, 20.0, 19.0, 31.0],
        ]
    )
    return Targets(boxes[:count].reshape(-1, 4), torch.arange(count) % classes)


def total_loss(head: Head, features: Mapping[str, Tensor], targets: Sequence[Targets]) -> Tensor:
    """The sum that a trainer minimises."""
    return torch.stack(list(head.loss(head(features), targets).values())).sum()


def train_steps(head: Head, features: Mapping[str, Tensor], targets: Sequence[Targets], steps: int) -> list[float]:
    """The loss before each of a few steps of AdamW on one batch."""
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3)
    values = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = total_loss(head, features, targets)
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    return values
