"""Classes as directions: the classifier of heads that compare features with class embeddings."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.headkit.prior import PRIOR_BIAS, start_from

INITIAL_LOG_SCALE = math.log(1 / 0.07)
"""CLIP's initial temperature (Radford et al. 2021)."""


class CosineClassifier(nn.Module):
    """``scale * cos(project(x), embedding_k) + bias_k`` at every point, without a visit to the space of the classes.

    With ``P`` the projection, ``(P x) . e = x . (P^T e)`` and ``|P x|^2 = x . (P^T P x)``, so that a point costs
    ``hidden`` times ``hidden + K`` multiplications, whatever the dimension. Squares lose half of the digits, which
    float32 can spare; projections shorter than 1e-3 have no direction.

    Args:
        hidden: channels of ``x``.
        text_dim: dimension of the space in which classes are compared.
        learned: embeddings are parameters; else constants, see :meth:`set_embeddings`.
    """

    def __init__(self, hidden: int, num_classes: int, text_dim: int, *, learned: bool) -> None:
        super().__init__()
        self.cls_project = nn.Linear(hidden, text_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))
        self.cls_bias = nn.Parameter(torch.full((num_classes,), PRIOR_BIAS))
        embeddings = F.normalize(torch.randn(num_classes, text_dim), dim=1)
        if learned:
            self.embeddings = nn.Parameter(embeddings)
        else:
            self.register_buffer("embeddings", embeddings)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, hidden, H, W]`` -> logits ``[B, K, H, W]``, float32."""
        with _full_precision(x.device.type):
            rows = x.permute(0, 2, 3, 1).float()  # [B, H, W, hidden]
            projection = self.cls_project.weight  # [text_dim, hidden]
            products = F.linear(rows, F.normalize(self.embeddings, dim=1) @ projection)  # [B, H, W, K]
            squares = (F.linear(rows, projection.T @ projection) * rows).sum(dim=3, keepdim=True)  # [B, H, W, 1]
            cosine = products * squares.clamp(min=1e-6).rsqrt()
            return (cosine * scale_of(self.logit_scale) + self.cls_bias).permute(0, 3, 1, 2)  # [B, K, H, W]

    def directions(self, x: Tensor) -> Tensor:
        """Points ``[P, hidden]`` in the space of the classes, ``[P, text_dim]``, float32, unit length."""
        return F.normalize(F.linear(x.float(), self.cls_project.weight.float()), dim=1)

    def set_embeddings(self, embeddings: Tensor, *, pc_init: bool = True) -> None:
        """Compare with these embeddings ``[K, text_dim]``.

        Args:
            pc_init: the projection starts from their principal components, not at random.
        """
        expected = tuple(self.embeddings.shape)
        if tuple(embeddings.shape) != expected:
            raise ValueError(f"class embeddings have shape {tuple(embeddings.shape)}, expected {expected}")
        with torch.no_grad():
            self.embeddings.copy_(F.normalize(embeddings.float(), dim=1))
            if not pc_init:
                return
            components = torch.linalg.svd(self.embeddings, full_matrices=False).Vh  # [min(K, text_dim), text_dim]
            count = min(len(components), self.cls_project.in_features)
            self.cls_project.weight[:, :count] = components[:count].T

    def start_from(self, logits: Tensor) -> None:
        """Set scale and biases so that the loss of these first logits ``[B, N, K]`` is about that of the prior."""
        start_from(logits - self.cls_bias, self.logit_scale, self.cls_bias)


def scale_of(log_scale: Tensor) -> Tensor:
    """What cosines are multiplied by: at most 100, as in CLIP."""
    return log_scale.clamp(max=math.log(100.0)).exp()


def _full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Products of float32 tensors stay float32 in here, in mixed precision too."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()  # the meta device, on which heads are measured
