"""Every known backbone builds and gives what its spec says; real weights give timm's own features."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from detheads.backbones.backbone import Backbone, load_backbone
from detheads.backbones.spec import SPECS
from detheads.foundation.errors import UserError


def images(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), generator=torch.Generator().manual_seed(1)).byte()


@pytest.mark.parametrize("name", SPECS)
def test_every_known_backbone_gives_the_channels_and_strides_of_its_spec(name: str) -> None:
    spec = SPECS[name]
    height, width = 4 * spec.multiple, 2 * spec.multiple
    with torch.device("meta"):  # shapes without memory or arithmetic
        backbone = load_backbone(name, (height, width), random_weights=True)
        maps = backbone(torch.empty(2, 3, height, width))
    assert tuple(layer.channels for layer in backbone.feature_spec.layers) == spec.channels
    assert tuple(layer.stride for layer in backbone.feature_spec.layers) == spec.strides
    assert backbone.feature_spec.names == backbone.feature_spec.main == tuple(maps)
    assert [tuple(values.shape) for values in maps.values()] == [
        (2, channels, height // stride, width // stride)
        for channels, stride in zip(spec.channels, spec.strides, strict=True)
    ]
    assert getattr(backbone.model, "num_prefix_tokens", 0) == spec.prefix_tokens
    assert backbone.weights_sha256 is None


@pytest.mark.parametrize("name", SPECS)
def test_the_licence_and_default_size_of_every_backbone_are_known(name: str) -> None:
    spec = SPECS[name]
    assert spec.licence
    assert spec.default_size % spec.multiple == 0
    assert timm.models.get_pretrained_cfg(spec.timm_name) is not None  # the weight tag exists


@pytest.mark.parametrize("name", [name for name in SPECS if SPECS[name].weights == "hub"])
def test_the_normalisation_of_a_known_backbone_is_the_one_timm_states(name: str) -> None:
    config = timm.models.get_pretrained_cfg(SPECS[name].timm_name)
    assert (config.mean, config.std) == (SPECS[name].mean, SPECS[name].std)


@pytest.mark.parametrize("name", ["timm:test_vit", "effnet_lite0"])
def test_random_weights_are_the_same_in_every_load(name: str) -> None:
    torch.manual_seed(1)
    first = load_backbone(name, (64, 64), random_weights=True)
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    second = load_backbone(name, (64, 64), random_weights=True)
    assert torch.equal(torch.rand(3), expected)  # and the caller's random state is left alone
    state = second.state_dict()
    assert all(torch.equal(values, state[key]) for key, values in first.state_dict().items())


@pytest.mark.parametrize(
    ("name", "strides", "layers"),
    [("timm:test_vit", (16,), ("last",)), ("timm:test_efficientnet", (8, 16, 32), ("stride8", "stride16", "stride32"))],
)
def test_any_timm_model_works(name: str, strides: tuple[int, ...], layers: tuple[str, ...]) -> None:
    backbone = load_backbone(name, (96, 64), random_weights=True)
    maps = backbone(backbone.normalise(images(96, 64)))
    assert (backbone.spec.strides, backbone.feature_spec.main, tuple(maps)) == (strides, layers, layers)
    for layer in backbone.feature_spec.layers:
        assert maps[layer.name].shape == (2, layer.channels, 96 // layer.stride, 64 // layer.stride)
    config = timm.models.get_pretrained_cfg(name.removeprefix("timm:"))
    assert (backbone.spec.mean, backbone.spec.std) == (config.mean, config.std)
    assert backbone.spec.licence == config.license
    assert backbone.spec.timm_name.endswith("r160_in1k")


def test_a_model_that_has_no_norm_for_its_maps_gives_them_without() -> None:
    backbone = load_backbone("timm:hiera_tiny_224", random_weights=True)
    assert backbone.feature_spec.names == ("stride8", "stride16", "stride32")


def test_a_model_whose_maps_are_not_what_timm_says_is_refused() -> None:
    with pytest.raises(UserError, match=r"gives a map stride8 of shape \(1, 64, 27, 27\) where \(1, 64, 28, 28\)"):
        load_backbone("timm:pit_ti_224", random_weights=True)


def test_a_backbone_stays_frozen() -> None:
    backbone = load_backbone("timm:test_efficientnet", (64, 64), random_weights=True)
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    before = {key: values.clone() for key, values in backbone.state_dict().items()}
    maps = backbone(backbone.normalise(images(64, 64)))
    assert not any(values.requires_grad for values in maps.values())
    after = backbone.state_dict()
    assert all(torch.equal(values, after[key]) for key, values in before.items())  # batch statistics too


def test_normalisation_is_that_of_the_spec() -> None:
    backbone = load_backbone("effnet_lite0", (64, 64), random_weights=True)
    pixels = images(64, 64)
    assert torch.allclose(backbone.normalise(pixels), (pixels.float() - 127) / 128, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("eupe_vitb", "eupe_vitb16"),
        ("dinov2_vits", "dinov2_vits14"),
        ("efnet_lite", "effnet_lite0"),
        ("timm:tets_vit", "timm:test_vit"),
    ],
)
def test_an_unknown_name_is_answered_with_close_ones(name: str, suggestion: str) -> None:
    with pytest.raises(UserError, match=f"did you mean .*{suggestion}"):
        load_backbone(name, random_weights=True)


@pytest.mark.parametrize("name", ["timm:", "timm:test_vit.nonsense", "timm:local-dir:nowhere", "nonsense", ""])
def test_a_name_that_nothing_knows_is_one_sentence(name: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_backbone(name, random_weights=True)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "size", "multiple"),
    [
        ("dinov2_vits14", (448, 450), 14),
        ("eupe_vitt16", (100, 96), 16),
        ("effnet_lite0", (48, 64), 32),
        ("timm:test_vit", (8, 8), 16),
    ],
)
def test_an_unsuitable_size_is_answered_with_the_multiple(name: str, size: tuple[int, int], multiple: int) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=f"multiples of {multiple}, not {size[0]}x{size[1]}"):
        load_backbone(name, size, random_weights=True)


@pytest.mark.parametrize("size", [(448, 448), (140, 210)])
def test_a_real_vit_gives_timms_own_features(vit_weights: Path, size: tuple[int, int]) -> None:
    from safetensors.torch import load_file

    backbone = load_backbone("dinov2_vits14", size, weights=vit_weights)
    reference = timm.create_model("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True)
    reference.load_state_dict(load_file(vit_weights))
    inputs = backbone.normalise(images(*size, batch=1))
    with torch.inference_mode():
        features = backbone(inputs)["last"]
        tokens = reference.eval().forward_features(inputs)[:, 1:]
    rows, columns = size[0] // 14, size[1] // 14
    expected = tokens.transpose(1, 2).reshape(1, 384, rows, columns)
    assert features.shape == (1, 384, rows, columns)
    assert torch.allclose(features, expected, atol=2e-3 * float(expected.abs().max()))


def test_intermediate_blocks_are_those_of_timm(vit_weights: Path) -> None:
    backbone = load_backbone("dinov2_vits14", (140, 112), weights=vit_weights, blocks=(5, 2))
    assert (backbone.feature_spec.names, backbone.feature_spec.main) == (("block2", "block5", "last"), ("last",))
    inputs = backbone.normalise(images(140, 112, batch=1))
    with torch.inference_mode():
        maps = backbone(inputs)
        expected = [
            backbone.model.forward_intermediates(inputs, indices=[block], norm=True, intermediates_only=True)[0]  # type: ignore[operator]
            for block in (2, 5, 11)
        ]
    assert list(maps) == ["block2", "block5", "last"]
    for values, wanted in zip(maps.values(), expected, strict=True):
        assert torch.allclose(values, wanted, atol=1e-5)
    assert not torch.allclose(maps["block2"], maps["block5"], atol=0.1)


def test_asking_twice_for_a_block_gives_it_once() -> None:
    depth = len(load_backbone("timm:test_vit", random_weights=True).model.feature_info)  # type: ignore[arg-type]
    backbone = load_backbone("timm:test_vit", random_weights=True, blocks=(1, 1, depth - 1))
    assert backbone.feature_spec.names == ("block1", "last")


@pytest.mark.parametrize(("name", "block"), [("timm:test_vit", 99), ("timm:test_vit", -1), ("effnet_lite0", 1)])
def test_a_block_that_does_not_exist_is_refused(name: str, block: int) -> None:
    with pytest.raises(UserError, match=f"{name} has no transformer block {block}"):
        load_backbone(name, (64, 64), random_weights=True, blocks=(block,))


def test_the_embedded_default_loads_its_packaged_weights() -> None:
    backbone: Backbone = load_backbone("effnet_lite0", (64, 96))
    assert backbone.weights_sha256 == SPECS["effnet_lite0"].weights_sha256
    random = load_backbone("effnet_lite0", (64, 96), random_weights=True)
    inputs = backbone.normalise(images(64, 96))
    with torch.inference_mode():
        maps, noise = backbone(inputs), random(inputs)
    assert {name: tuple(values.shape[1:]) for name, values in maps.items()} == {
        "stride8": (40, 8, 12),
        "stride16": (112, 4, 6),
        "stride32": (320, 2, 3),
    }
    assert not torch.allclose(maps["stride16"], noise["stride16"])
