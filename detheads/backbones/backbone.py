"""A frozen encoder: normalised images in, named feature maps out."""

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.backbones.spec import BackboneSpec, spec_of
from detheads.backbones.weights import find_weights, load_strictly, read_state
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import nearest_sides, sides

RANDOM_SEED = 0
"""Random weights are seeded, so that a cache and a later export of the same backbone agree."""


class Backbone(nn.Module):
    """A timm encoder in evaluation mode without gradients.

    Attributes:
        spec: name, licence, normalisation.
        feature_spec: the layers it returns at its input size.
        weights_sha256: digest of the weight file; None when the weights are random.
    """

    mean: Tensor
    std: Tensor
    file_sha256: str | None = None

    def __init__(
        self, spec: BackboneSpec, model: nn.Module, indices: dict[str, int], features: FeatureSpec, sha256: str | None
    ) -> None:
        super().__init__()
        self.spec, self.feature_spec, self.weights_sha256 = spec, features, sha256
        self._indices = indices
        self.model = model
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Frozen: stays in evaluation mode."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 or float RGB 0..255 ``[B, 3, H, W]`` -> float32 as the encoder was trained on."""
        return (images.float() / 255.0 - self.mean) / self.std

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images ``[B, 3, H, W]`` -> ``{layer name: [B, C, H / stride, W / stride]}``."""
        maps = self.model.forward_intermediates(  # type: ignore[operator]  # a timm method, unknown to nn.Module
            images, indices=list(self._indices.values()), norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return dict(zip(self._indices, maps, strict=True))


def load_backbone(
    name: str,
    size: tuple[int, int] | None = None,
    *,
    weights: Path | None = None,
    random_weights: bool = False,
    blocks: tuple[int, ...] = (),
) -> Backbone:
    """Build a frozen backbone for one input size.

    Args:
        name: a name of ``SPECS`` or ``timm:NAME``.
        size: input ``(height, width)`` in pixels; the spec's default square when None.
        weights: a local safetensors or ``.pth`` file instead of the spec's own source.
        random_weights: seeded random weights, for tests and timing only.
        blocks: further transformer blocks (0-based) to return as ``block{i}``, for heads that read them.

    Raises:
        UserError: unknown name, unsuitable size or block, missing or unfitting weights.
    """
    spec = spec_of(name)
    timm_name = spec.timm_name if spec else name.removeprefix("timm:")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        try:
            model: Any = timm.create_model(timm_name, pretrained=False)
        except (RuntimeError, ValueError, OSError) as error:  # OSError: timm:hf-hub:NAME without a network
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            close = difflib.get_close_matches(timm_name, timm.list_models(), n=3)
            hint = f"; did you mean {', '.join('timm:' + model for model in close)}?" if close else "."
            raise UserError(f"timm cannot build {timm_name!r} ({reason}){hint}") from None
    spec = spec or _spec_from_timm(name, model)
    height, width = size or (spec.default_size, spec.default_size)
    if height % spec.multiple or width % spec.multiple or min(height, width) < spec.multiple:
        raise UserError(
            f"{name} needs input sides that are multiples of {spec.multiple}, not {sides(height, width)}; "
            f"the nearest is --size {nearest_sides(height, width, spec.multiple)}."
        )
    sha256 = None
    if not random_weights:
        path = find_weights(spec, weights)
        load_strictly(model, read_state(path), path, by_position=spec.weights == "package")
        sha256 = atomic.sha256_of(path)
    if hasattr(model, "set_input_size"):  # resamples position embeddings once, so that the graph is static
        model.set_input_size(img_size=(height, width))
    indices, layers = _main_layers(model)
    main = tuple(indices)
    for block in blocks:
        if len(main) > 1 or not 0 <= block < len(model.feature_info):
            raise UserError(f"{name} has no transformer block {block} to read.")
        if block not in indices.values():
            indices[f"block{block}"] = block
            layers.append(FeatureLayer(f"block{block}", layers[0].channels, layers[0].stride))
    order = sorted(indices, key=lambda layer: indices[layer])  # timm returns maps in this order
    features = FeatureSpec(tuple(sorted(layers, key=lambda layer: order.index(layer.name))), main, height, width)
    return Backbone(spec, model, {layer: indices[layer] for layer in order}, features, sha256)


def _main_layers(model: Any) -> tuple[dict[str, int], list[FeatureLayer]]:
    """The last block of a plain transformer, or strides 8, 16 and 32 of a hierarchical network."""
    channels = [info["num_chs"] for info in model.feature_info]
    strides = [info["reduction"] for info in model.feature_info]
    last = len(strides) - 1
    if len(set(strides)) == 1:
        return {"last": last}, [FeatureLayer("last", channels[last], strides[last])]
    chosen = {f"stride{stride}": index for index, stride in enumerate(strides) if stride in {8, 16, 32}}
    if not chosen:
        raise UserError(f"{type(model).__name__} has feature maps of strides {strides}, none of 8, 16 or 32.")
    return chosen, [FeatureLayer(layer, channels[index], strides[index]) for layer, index in chosen.items()]


def _spec_from_timm(name: str, model: Any) -> BackboneSpec:
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
        raise UserError(f"{name} gives no intermediate feature maps in timm; choose another model.")
    config = model.pretrained_cfg
    _, layers = _main_layers(model)
    multiple = max(layer.stride for layer in layers)
    side = max(multiple, max(config["input_size"][1:]) // multiple * multiple)
    return BackboneSpec(
        name,
        f"{config['architecture']}.{config['tag']}" if config.get("tag") else str(config["architecture"]),
        str(config.get("license") or "unknown; see the model's page"),
        tuple(config["mean"]),
        tuple(config["std"]),
        side,
        multiple,
        tuple(layer.channels for layer in layers),
        tuple(layer.stride for layer in layers),
        int(getattr(model, "num_prefix_tokens", 0)),
    )
