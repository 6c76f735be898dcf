"""A frozen encoder: normalised images in, named feature maps out."""

import difflib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.backbones.own import OwnBackbone, own_backbone
from detheads.backbones.spec import BackboneSpec, Precision, spec_of
from detheads.backbones.weights import find_weights, load_strictly, read_state, sha256_of_state
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import nearest_sides, sides
from detheads.foundation.own_file import line_in

RANDOM_SEED = 0
"""Random weights are seeded, so that a cache and a later export of the same backbone agree."""


_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Backbone(nn.Module):
    """A frozen encoder in evaluation mode without gradients; :func:`load_backbone` makes it.

    Attributes:
        spec: name, licence, normalisation.
        feature_spec: the layers it returns at its input size.
        weights_sha256: digest of the weights; None when they are random.
        file_sha256: digest of the user's file that defines it; None for one that this package or timm knows.
        precision: what it computes in, fp32 unless :meth:`computing_in` was asked for something else.
    """

    precision: Precision = "fp32"

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: BackboneSpec,
        maps: nn.Module,
        features: FeatureSpec,
        weights_sha256: str | None,
        file_sha256: str | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.feature_spec = spec, features
        self.weights_sha256, self.file_sha256 = weights_sha256, file_sha256
        self.maps = maps
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @property
    def model(self) -> nn.Module:
        """The encoder as timm, or the user's file, built it."""
        return self.maps.model if isinstance(self.maps, _TimmMaps) else self.maps

    def train(self, mode: bool = True) -> "Backbone":
        """Frozen: stays in evaluation mode."""
        return super().train(False)

    def computing_in(self, precision: Precision) -> "Backbone":
        """This encoder, in another precision from now on. Caches of its features record it."""
        self.precision = precision
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 or float RGB 0..255 ``[B, 3, H, W]`` -> float32 as the encoder was trained on."""
        return (images.float() / 255.0 - self.mean) / self.std

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images ``[B, 3, H, W]`` -> ``{layer name: [B, C, H / stride, W / stride]}``."""
        mixed = self.precision != "fp32"
        with torch.autocast(images.device.type, _TYPES[self.precision]) if mixed else nullcontext():
            maps = self.maps(images)
        if isinstance(maps, Mapping):
            maps = maps.values()
        return dict(zip(self.feature_spec.names, [maps] if isinstance(maps, Tensor) else maps, strict=True))


class _TimmMaps(nn.Module):
    """Some intermediate maps of a timm model.

    ``norm`` asks for them behind the model's last norm, which the hierarchical ones do not know.
    """

    def __init__(self, model: nn.Module, indices: list[int], norm: bool) -> None:
        super().__init__()
        self.model, self.indices, self.norm = model, indices, norm

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(  # type: ignore[operator,no-any-return]  # unknown to nn.Module
            images, indices=self.indices, norm=self.norm, output_fmt="NCHW", intermediates_only=True
        )


def load_backbone(
    name: str,
    size: tuple[int, int] | None = None,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    blocks: tuple[int, ...] = (),
) -> Backbone:
    """Build a frozen backbone for one input size.

    Args:
        name: a name of ``SPECS``, ``timm:NAME``, or the name of a backbone file that was loaded.
        size: input ``(height, width)`` in pixels; the spec's default square when None.
        weights: a local safetensors or ``.pth`` file instead of the spec's own source.
        random_weights: seeded random weights, for tests and timing only.
        blocks: further transformer blocks (0-based) to return as ``block{i}``, for heads that read them.

    Raises:
        UserError: unknown name, unsuitable size or block, missing or unfitting weights, a model without usable maps.
    """
    spec, own = spec_of(name), own_backbone(name)
    if own is not None and own.build is not None:
        return _load_own(own, own.build, size, None if weights is None else Path(weights), random_weights, blocks)
    model = _from_timm(spec.timm_name if spec else name.removeprefix("timm:"))
    known, spec = spec is not None and own is None, spec or _spec_from_timm(name, model)
    height, width = _checked_size(spec, size)
    sha256 = None
    if not random_weights:
        path = find_weights(spec, None if weights is None else Path(weights))
        load_strictly(model, read_state(path), path, by_position=spec.weights == "package")
        sha256 = atomic.sha256_of(path)
    if hasattr(model, "set_input_size"):  # resamples position embeddings once, so that the graph is static
        try:
            model.set_input_size(img_size=(height, width))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{name} cannot be set to {height}x{width} pixels ({_first_line(error)}).") from None
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
    maps = _TimmMaps(model, [indices[layer] for layer in order], norm=True)
    backbone = Backbone(spec, maps, features, sha256, own.sha256 if own else None)
    if not known:
        _try(backbone)
    return backbone


def require_rebuildable(backbone: Backbone) -> None:
    """Refuse a backbone that its name alone does not give again: what is trained on it could not be exported.

    Raises:
        UserError: when it, or its specification, was made or changed by hand.
    """
    name, own = backbone.spec.name, own_backbone(backbone.spec.name)
    try:
        known = spec_of(name) or _spec_from_timm(name, backbone.model)
    except UserError:
        known = None
    if known != backbone.spec or backbone.file_sha256 != (own.sha256 if own else None):
        raise UserError(
            f"{name} is a backbone made by hand, which its name does not give again, so that nothing trained on it "
            "could be exported; define it in a file of its own and load that with load_backbone_file (--backbone-file)."
        )


def _from_timm(timm_name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        try:
            return timm.create_model(timm_name, pretrained=False)
        except (RuntimeError, ValueError, OSError) as error:  # OSError: timm:hf-hub:NAME without a network
            close = difflib.get_close_matches(timm_name, timm.list_models(), n=3)
            hint = f"; did you mean {', '.join('timm:' + model for model in close)}?" if close else "."
            raise UserError(f"timm cannot build {timm_name!r} ({_first_line(error)}){hint}") from None


def _load_own(
    own: OwnBackbone,
    build: Callable[[int, int], nn.Module],
    size: tuple[int, int] | None,
    weights: Path | None,
    random_weights: bool,
    blocks: tuple[int, ...],
) -> Backbone:
    spec = own.spec
    height, width = _checked_size(spec, size)
    if blocks:
        raise UserError(f"{spec.name} has no transformer blocks to read; return them as maps of {own.path}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        try:
            model = build(height, width)
        except Exception as error:
            where = f"{own.path}{line_in(own.path, error)}"
            raise UserError(f"{where}: build fails with {type(error).__name__}: {_first_line(error)}.") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{own.path}: build returns {type(model).__name__}, not a torch.nn.Module.")
    if random_weights:
        sha256 = None
    elif weights is None and spec.weights == "built":
        sha256 = sha256_of_state(model)
    else:
        path = find_weights(spec, weights)
        load_strictly(model, read_state(path), path)
        sha256 = atomic.sha256_of(path)
    names = [f"stride{stride}" for stride in spec.strides] if len(spec.strides) > 1 else ["last"]
    layers = tuple(map(FeatureLayer, names, spec.channels, spec.strides))
    backbone = Backbone(spec, model, FeatureSpec(layers, tuple(names), height, width), sha256, own.sha256)
    _try(backbone)
    return backbone


def _checked_size(spec: BackboneSpec, size: tuple[int, int] | None) -> tuple[int, int]:
    height, width = size or (spec.default_size, spec.default_size)
    if height % spec.multiple or width % spec.multiple or min(height, width) < spec.multiple:
        raise UserError(
            f"{spec.name} needs input sides that are multiples of {spec.multiple}, not {sides(height, width)}; "
            f"the nearest is --size {nearest_sides(height, width, spec.multiple)}."
        )
    return height, width


@torch.inference_mode()
def _try(backbone: Backbone) -> None:
    """One grey picture: whether the maps are what is said of them shows before any long work.

    Raises:
        UserError: when they are not.
    """
    spec = backbone.feature_spec
    inputs = torch.zeros(1, 3, spec.height, spec.width)
    try:
        try:
            maps = backbone(inputs)
        except AssertionError as error:
            if not isinstance(backbone.maps, _TimmMaps) or "norm" not in str(error):
                raise
            backbone.maps.norm = False  # "normalization of features not supported"
            maps = backbone(inputs)
    except Exception as error:  # a model of timm, or the user's own code
        raise UserError(
            f"{backbone.spec.name} gives no feature maps at {spec.height}x{spec.width} pixels "
            f"({type(error).__name__}: {_first_line(error)}); choose another size or model."
        ) from None
    found = {name: tuple(values.shape) for name, values in maps.items()}
    wanted = {
        layer.name: (1, layer.channels, spec.height // layer.stride, spec.width // layer.stride)
        for layer in spec.layers
    }
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(
                f"{backbone.spec.name} gives a map {name} of shape {found[name]} where {shape} is expected of its "
                "channels and strides; choose another size or model."
            )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


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
