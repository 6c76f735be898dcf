"""Classes as directions: the classifier of heads that compare features with class embeddings."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detheads.heads.dense import PRIOR_BIAS


class CosineClassifier(nn.Module):
    """``scale * cos(project(x), embedding_k) + bias_k`` at every point.

    Args:
        hidden: channels of ``x``.
        text_dim: dimension of the space in which classes are compared.
        learned: embeddings are parameters; else constants, see :meth:`set_embeddings`.
    """

    def __init__(self, hidden: int, num_classes: int, text_dim: int, *, learned: bool) -> None:
        super().__init__()
        self.cls_project = nn.Linear(hidden, text_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP's initial temperature
        self.cls_bias = nn.Parameter(torch.full((num_classes,), PRIOR_BIAS))
        embeddings = F.normalize(torch.randn(num_classes, text_dim), dim=1)
        if learned:
            self.embeddings = nn.Parameter(embeddings)
        else:
            self.register_buffer("embeddings", embeddings)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, hidden, H, W]`` -> logits ``[B, K, H, W]``."""
        projected = F.linear(x.permute(0, 2, 3, 1), self.cls_project.weight)  # [B, H, W, text_dim]
        prototypes = F.normalize(self.embeddings, dim=1)  # [K, text_dim]
        cosine = F.linear(F.normalize(projected, dim=3), prototypes)  # [B, H, W, K]
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        return (cosine * scale + self.cls_bias).permute(0, 3, 1, 2)  # [B, K, H, W]

    def set_embeddings(self, embeddings: Tensor) -> None:
        """Compare with these embeddings ``[K, text_dim]``; the projection starts from their principal components."""
        expected = tuple(self.embeddings.shape)
        if tuple(embeddings.shape) != expected:
            raise ValueError(f"class embeddings have shape {tuple(embeddings.shape)}, expected {expected}")
        with torch.no_grad():
            self.embeddings.copy_(F.normalize(embeddings.float(), dim=1))
            components = torch.linalg.svd(self.embeddings, full_matrices=False).Vh  # [min(K, text_dim), text_dim]
            count = min(len(components), self.cls_project.in_features)
            self.cls_project.weight[:, :count] = components[:count].T
