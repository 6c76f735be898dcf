"""Hook FCOS: do intermediate transformer blocks know what the last one has forgotten?

Hypothesis: a transformer's early and middle blocks still hold edges and places that its last block has traded for
meaning, and small objects profit from them. Each of the three inputs of the simple pyramid (strides s/2, s, 2s) is the
last block's map plus a learned projection of one intermediate block, the earliest for the finest. That is the only
difference from ``fcos``: the projections start at zero, so that both begin as the same network.
At 768 channels and 80 classes the default has 17,909,850 parameters.

Sources: Ranftl, Bochkovskiy, Koltun. Vision Transformers for Dense Prediction. ICCV 2021 (blocks of a ViT-B and their
order); ``fcos.py`` and its papers; phanerozoic/detection-heads, row ``hook_fcos``. Refuted if small objects are
found as well without the blocks (``hooks=false``), which is ``fcos``, in ``detheads arena run --heads hook_fcos
--with-controls``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit.controls import Control
from detheads.headkit.registry import register
from detheads.heads import fcos


@dataclass(frozen=True)
class Config(fcos.Config):
    """Options of ``hook_fcos``: those of ``fcos``.

    Attributes:
        hooks: the pyramid hears the intermediate blocks; else it is that of ``fcos``.
    """

    hooks: bool = True


@register(Config)
class HookFCOS(fcos.FCOS):
    """FCOS that reads blocks 2, 5 and 8 of a transformer besides its last one."""

    blocks: ClassVar[tuple[int, ...]] = (2, 5, 8)
    controls = MappingProxyType(
        {"hooks": Control("Small objects profit from what earlier blocks still hold.", {"hooks": False}, "APs")}
    )

    def __init__(self, spec: FeatureSpec, num_classes: int, config: Config) -> None:
        if len(spec.main_layers) != 1:
            raise UserError(
                f"head hook_fcos reads the blocks of a plain transformer, not {', '.join(spec.main)} together; "
                "use fcos for a hierarchical backbone."
            )
        super().__init__(spec, num_classes, config, HookedPyramid if config.hooks else fcos.usual_pyramid)


class HookedPyramid(fcos.SimplePyramid):
    """The simple pyramid whose inputs each hear one intermediate block, the earliest at the finest stride."""

    def __init__(self, spec: FeatureSpec, width: int) -> None:
        super().__init__(spec, width)
        self.hooks = [f"block{block}" for block in HookFCOS.blocks]
        channels = spec.main_layers[0].channels
        self.projections = nn.ModuleList(nn.Conv2d(spec.layer(hook).channels, channels, 1) for hook in self.hooks)
        for parameter in self.projections.parameters():
            nn.init.zeros_(parameter)

    def inputs(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        fine, same, coarse = (
            last + projection(features[hook])  # [B, C, H, W]
            for last, projection, hook in zip(super().inputs(features), self.projections, self.hooks, strict=True)
        )
        return fine, same, coarse
