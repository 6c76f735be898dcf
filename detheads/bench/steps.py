"""What a training step asks of its device: operations, and those after which the program waits for it.

Both are counted, not timed, so that a CPU tells what will keep a GPU waiting: PyTorch reports each operation that it
dispatches.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.checks import random_features, with_blocks
from detheads.targets.objects import TargetBatch, Targets
from detheads.training.batches import Batch
from detheads.training.config import TrainConfig
from detheads.training.learner import Learner

FEATURES = FeatureSpec((FeatureLayer("last", 64, 16),), ("last",), 256, 256)
"""One small map of stride 16: how many operations there are depends on levels and layers, not on sizes."""

ASKING = frozenset(
    ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique2", "unique_dim")
)
"""Dispatched operations whose outcome, a number or a size, the program has to know before it goes on."""

COPYING = (Tensor.cpu, Tensor.tolist)
"""Calls that bring values to the program."""

MAKING = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
"""Calls that bring numbers of the program to a device, which copies from ordinary memory while the program waits."""

PARTS = ("forward", "loss", "backward", "optimiser")


@dataclass
class Counts:
    """``operations`` that were dispatched, and how many of them, and of copies, make the program ``wait``."""

    operations: int = 0
    waits: int = 0


@dataclass(frozen=True)
class StepBench:
    """A step of one head by its :data:`PARTS`; ``ahead`` says whether readers assign for it."""

    head: str
    images: int
    objects: int
    ahead: bool
    parts: dict[str, Counts] = field(default_factory=dict)

    @property
    def total(self) -> Counts:
        """The whole step."""
        return Counts(
            sum(part.operations for part in self.parts.values()), sum(part.waits for part in self.parts.values())
        )


class Counter(TorchDispatchMode):
    """Counts what is dispatched while it is entered, for the part of the step that :attr:`part` names."""

    def __init__(self) -> None:
        super().__init__()
        self.part = "optimiser"
        self.counts: dict[str, Counts] = defaultdict(Counts)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, _, overload = func.__name__.partition(".")
        counts = self.counts[self.part]
        counts.operations += 1
        masked = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        repeated = name == "repeat_interleave" and overload == "Tensor"  # as many as a tensor says
        counts.waits += name in ASKING or masked or repeated
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    """Counts what is not dispatched on a CPU, where nothing is copied, and sees where the backward pass begins."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        counter = self.counter
        if func in COPYING or (func in MAKING and (func is Tensor.new_tensor or options.get("device") is not None)):
            counter.counts[counter.part].waits += 1
        if func is not Tensor.backward:
            return func(*args, **options)
        return _during(counter, "backward", func)(*args, **options)


@contextmanager
def counting() -> Iterator[Counter]:
    """Count what the block has PyTorch do."""
    counter = Counter()
    with _Calls(counter), counter:
        yield counter


def count_step(learner: Learner, batch: Batch) -> dict[str, Counts]:
    """Take one step and count it; what is neither the head's forward pass, its loss nor backward is the optimiser's."""
    head = learner.head
    with counting() as counter, ExitStack() as stack:
        for name, part in (("forward", "forward"), ("loss", "loss")):
            setattr(head, name, _during(counter, part, getattr(head, name)))
            stack.callback(delattr, head, name)
        learner.optimise(batch)
    return {part: counter.counts[part] for part in PARTS}


def bench_step(
    name: str, options: Mapping[str, str], images: int, objects: int, classes: int, *, ahead: bool = True
) -> StepBench:
    """Count the second step of a new head on random features.

    Args:
        objects: in each image.
        ahead: assign as readers do, where the head knows how.

    Raises:
        UserError: for a head that is not trained.
    """
    entry = registry.entry(name)
    if not entry.head.trainable:
        raise UserError(f"{name} is solved, not trained: it takes no steps.")
    spec = with_blocks(entry, FEATURES)
    torch.manual_seed(0)
    chosen = {"prototypes": "learned"} if "learned" in registry.choices(entry, "prototypes") else {}
    head = registry.build(name, spec, classes, registry.config_dict(entry, chosen | dict(options)))
    targets = TargetBatch.of([_scene(objects, classes, image) for image in range(images)])
    matcher = head.matcher() if ahead else None
    if matcher is not None:
        targets = replace(targets, prepared=matcher(targets))
    learner = Learner(head, TrainConfig(batch=images), [2], torch.device("cpu"))
    batch = Batch(random_features(spec, images), targets)
    learner.optimise(batch)  # the first makes the optimiser's state
    return StepBench(name, images, objects, matcher is not None, count_step(learner, batch))


def _scene(objects: int, classes: int, seed: int) -> Targets:
    """Objects of all sizes anywhere in a picture."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([FEATURES.width, FEATURES.height], dtype=torch.float32)
    centers = torch.rand(objects, 2, generator=generator) * size
    half = torch.exp2(torch.rand(objects, 2, generator=generator) * 5 + 2)
    boxes = torch.cat(((centers - half).clamp(min=0), torch.minimum(centers + half, size)), dim=1)
    return Targets(boxes, torch.randint(classes, (objects,), generator=generator))


def _during(counter: Counter, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose operations count for a part."""

    def call(*arguments: Any, **options: Any) -> Any:
        before, counter.part = counter.part, part
        try:
            return function(*arguments, **options)
        finally:
            counter.part = before

    return call
