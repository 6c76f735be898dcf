"""The prior of class logits: at the start, every class is rare everywhere.

A bias alone sees to it where the weights of the last layer are small. Cosines with class embeddings are not: those of
one class have a mean of their own over the points of real features, and a spread, times a scale of 14. What they are is
known once the first batch is.
"""

import math

import torch
from torch import Tensor

PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)
"""Logit of an initial score of 0.01, which keeps the focal loss stable at the start (Lin et al. 2017, section 3.3)."""

MAX_SPREAD = 1.0
"""Largest standard deviation of a class's first logits. At 1 the bias of :func:`start_bias` falls by 1.5, and the loss
of objects grows by a third; at 2 it would fall by 6, and neither objects nor background would start from the prior."""


@torch.no_grad()
def start_from(logits: Tensor, log_scale: Tensor, bias: Tensor) -> None:
    """Set scale and bias of ``scale * cosine + bias`` so that its first loss is about that of the prior.

    Args:
        logits: ``[B, N, K]``, cosines times scale, without the bias.
        log_scale: of one element, changed in place.
        bias: ``[K]``, changed in place.
    """
    shrink = shrink_to_spread(logits)
    log_scale.add_(shrink.log())
    bias.copy_(start_bias(logits * shrink))


def shrink_to_spread(logits: Tensor) -> Tensor:
    """What logits ``[B, N, K]`` have to be multiplied by, 1 at most, for a spread of at most :data:`MAX_SPREAD`.

    The spread is the standard deviation over all points, root mean square over the classes.
    """
    points = logits.flatten(0, 1)  # [B * N, K]
    if len(points) < 2:  # one point has no spread
        return torch.ones_like(points[0, 0])
    spread = points.var(dim=0).mean().sqrt()
    return (MAX_SPREAD / spread.clamp(min=1e-6)).clamp(max=1.0)


def start_bias(logits: Tensor) -> Tensor:
    """The bias ``[K]`` with which logits ``[B, N, K]`` cost as background what a constant :data:`PRIOR_BIAS` would.

    The focal loss of background is the cube of a small score, ``p^2 log(1 / (1 - p))``, and ``p`` is the exponential of
    its logit, so that the bias is the prior's logit less a third of ``log(mean(exp(3 * logit)))``.
    """
    points = logits.flatten(0, 1)  # [B * N, K]
    return PRIOR_BIAS - ((3 * points).logsumexp(dim=0) - math.log(len(points))) / 3
