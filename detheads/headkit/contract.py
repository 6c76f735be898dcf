"""What every detection head takes and gives. Exporter, evaluator, trainer and tests rely on this and no more."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from detheads.foundation.errors import UserError
from detheads.headkit.controls import Control
from detheads.targets.objects import TargetBatch, Targets

Matcher = Callable[[TargetBatch], Mapping[str, Tensor]]
"""Objects of a batch, on the CPU, to what a head's loss takes as ``targets.prepared``: tensors by name."""


@dataclass(frozen=True)
class HeadOutput:
    """Dense predictions, ``N`` candidate boxes an image.

    Attributes:
        boxes: ``[B, N, 4]`` xyxy, input pixels.
        logits: ``[B, N, K]`` one sigmoid logit a class.
        quality: ``[B, N]`` logit of a localisation quality (centerness, IoU) or None. Where present the score of a
            detection is ``sqrt(sigmoid(logit) * sigmoid(quality))``, else ``sigmoid(logit)``.
        extras: what the head's own loss needs besides.
    """

    boxes: Tensor
    logits: Tensor
    quality: Tensor | None
    extras: Mapping[str, Any]


class Head(nn.Module, ABC):
    """Base class of all heads. Build one with ``heads.build(name, spec, num_classes, config)``."""

    nms_free: bool = False
    """True when the head's boxes need no non-maximum suppression; options may decide it for one head of a class."""

    blocks: ClassVar[tuple[int, ...]] = ()
    """Intermediate transformer blocks (0-based) it reads besides the main layers, as layers ``block{i}``."""

    controls: ClassVar[Mapping[str, Control]] = MappingProxyType({})
    """Its ideas by name, each with the options that turn it off."""

    trainable: ClassVar[bool] = True
    """False for a head that is solved, not trained: it has no loss."""

    @property
    def remark(self) -> str:
        """What whoever trains it on these features should know; empty where its name says all."""
        return ""

    @abstractmethod
    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        """Map feature layers by name (``[B, C, H/s, W/s]`` each) to dense predictions."""

    @abstractmethod
    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Named scalar losses; the trainer minimises their sum. Finite for images without objects.

        The trainer gives a :class:`TargetBatch`, whose ``boxes``, ``labels`` and ``images`` spare a loop over images. A
        loss divides by counts of a whole batch through :func:`~detheads.ops.across.mean_across_processes`, so that
        several processes learn what one would.
        """

    def matcher(self) -> Matcher | None:
        """What readers do ahead of a step, in their threads: an assignment that needs the geometry alone.

        It holds copies of what it needs on the CPU, and stays the same while the head learns. None: the loss does all.
        """
        return None

    def start_from(self, features: Mapping[str, Tensor]) -> None:
        """See the features of the first batch, once, before the first step of a training.

        Heads whose first class logits depend on what features look like start them from the prior here. Others need
        not.
        """

    def set_class_embeddings(self, embeddings: Tensor) -> None:
        """Use text embeddings ``[K, D]`` of the class names. Heads that compare classes with text override this."""
        raise UserError(f"head {type(self).__name__} does not compare classes with text; leave the embeddings out.")
