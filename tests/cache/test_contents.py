"""What is stored equals what the live backbone gives, within the precision of the storage type."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detheads.backbones.backbone import Backbone
from detheads.cache.builder import build_cache
from detheads.cache.manifest import StorageType
from detheads.cache.reader import FeatureCache
from detheads.cache.storage import decode, encode, require_finite
from detheads.data import Dataset, read_dataset
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import Letterbox
from tests.cache.conftest import CNN, HEIGHT, SIZES, VIT, WIDTH


def by_hand(path: Path) -> Tensor:
    """uint8 ``[1, 3, HEIGHT, WIDTH]`` of a plain RGB file, letterboxed without the project's loader."""
    with Image.open(path) as image:
        scale = min(WIDTH / image.width, HEIGHT / image.height)
        width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        canvas = Image.new("RGB", (WIDTH, HEIGHT), (114, 114, 114))
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        canvas.paste(resized, ((WIDTH - width) // 2, (HEIGHT - height) // 2))
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)[None]


def live(backbone: Backbone, pixels: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return backbone(backbone.normalise(pixels))  # type: ignore[no-any-return]


def bound(features: Tensor, dtype: StorageType) -> Tensor:
    """Largest rounding error an element: half a unit in the last place, and what another batch size changes."""
    size = features.abs()
    rounding = {
        "fp16": size * 2**-11 + 2**-25,
        "bf16": size * 2**-8,
        "int8": size.amax(dim=(2, 3), keepdim=True).expand_as(size) / 254,
    }[dtype]
    return rounding + 2e-5 * size.max()


@pytest.fixture(scope="module", params=[(VIT, "fp16"), (VIT, "bf16"), (VIT, "int8"), (CNN, "fp16"), (CNN, "int8")])
def stored(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shared_dataset: Path,
    backbones: dict[str, Backbone],
) -> tuple[Dataset, Backbone, FeatureCache, StorageType]:
    name, dtype = request.param
    data, folder = read_dataset(shared_dataset), tmp_path_factory.mktemp("cache") / f"größer {dtype}"
    build_cache(data, backbones[name], folder, dtype=dtype, flips=True, batch_size=4)
    return data, backbones[name], FeatureCache(folder), dtype


Stored = tuple[Dataset, Backbone, FeatureCache, StorageType]


@pytest.mark.parametrize("flipped", [False, True])
def test_stored_features_are_those_of_the_live_backbone(stored: Stored, flipped: bool) -> None:
    data, backbone, cache, dtype = stored
    assert len(cache) == len(SIZES) == len(data.images)  # images without objects are kept
    for index, record in enumerate(data.images):
        pixels = by_hand(record.path)
        expected = live(backbone, pixels.flip(3) if flipped else pixels)
        found = cache.features([index], [flipped])
        assert list(found) == list(expected) == list(cache.feature_spec.names)
        for layer, values in expected.items():
            assert found[layer].dtype == torch.float32
            assert ((found[layer] - values).abs() <= bound(values, dtype)).all(), (record.file_name, layer)


def test_features_of_the_mirrored_image_are_not_mirrored_features(stored: Stored) -> None:
    _, _, cache, dtype = stored
    plain, mirrored = cache.features([0], [False]), cache.features([0], [True])
    for layer, values in plain.items():
        difference = (mirrored[layer] - values.flip(3)).abs()
        assert (difference > 3 * bound(values, dtype)).float().mean() > 0.3, layer


def test_random_access_equals_reading_in_order(stored: Stored) -> None:
    _, _, cache, _ = stored
    order = [7, 0, 9, 3, 3, 1]
    flips = [True, False, False, True, False, True]
    together = cache.features(order, flips)
    for position, (index, flip) in enumerate(zip(order, flips, strict=True)):
        for layer, values in cache.features([index], [flip]).items():
            assert torch.equal(together[layer][position], values[0])


def test_layers_are_read_by_name(stored: Stored) -> None:
    _, _, cache, _ = stored
    everything = cache.features([2, 5])
    assert len(everything) in {2, 3}
    for layer, values in everything.items():
        alone = cache.features([2, 5], layers=[layer])
        assert list(alone) == [layer]
        assert torch.equal(alone[layer], values)


@pytest.mark.parametrize("index", [-1, len(SIZES)])
def test_an_image_outside_the_cache_is_an_index_error(stored: Stored, index: int) -> None:
    with pytest.raises(IndexError, match=f"image {index} of a cache of {len(SIZES)}"):
        stored[2].features([index])


@pytest.mark.parametrize("flips", [[True], [False, True, False]])
def test_images_and_flips_come_in_pairs(stored: Stored, flips: list[bool]) -> None:
    with pytest.raises(ValueError):
        stored[2].features([0, 1], flips)


def test_the_stated_size_is_the_size_on_disk(stored: Stored) -> None:
    _, _, cache, _ = stored
    expected = len(cache) * cache.manifest.settings.bytes_per_image
    shards = sum((cache.folder / shard.file).stat().st_size for shard in cache.manifest.shards)
    assert expected <= shards <= expected + 4096 * len(cache.manifest.shards)


@pytest.mark.parametrize("flipped", [False, True])
def test_targets_are_the_boxes_in_input_pixels_without_crowds(stored: Stored, flipped: bool) -> None:
    data, _, cache, _ = stored
    crowds = 0
    for index, (record, objects) in enumerate(zip(data.images, data.objects, strict=True)):
        scale = min(WIDTH / record.width, HEIGHT / record.height)
        width, height = max(1, round(record.width * scale)), max(1, round(record.height * scale))
        expected, labels = [], []
        for (x1, y1, x2, y2), label, crowd in zip(objects.boxes.tolist(), objects.labels, objects.crowd, strict=True):
            crowds += bool(crowd)
            if crowd:
                continue
            left, right = (x * width / record.width + (WIDTH - width) // 2 for x in (x1, x2))
            top, bottom = (y * height / record.height + (HEIGHT - height) // 2 for y in (y1, y2))
            expected.append([WIDTH - right, top, WIDTH - left, bottom] if flipped else [left, top, right, bottom])
            labels.append(int(label))
        targets = cache.targets(index, flipped)
        assert torch.allclose(targets.boxes, torch.tensor(expected).reshape(-1, 4), atol=1e-4)
        assert targets.labels.tolist() == labels
        assert targets.labels.dtype == torch.int64
    assert crowds == 2


def test_the_manifest_says_how_each_image_lies_in_the_input(stored: Stored) -> None:
    data, _, cache, _ = stored
    for index, (record, entry) in enumerate(zip(data.images, cache.manifest.images, strict=True)):
        letterbox = Letterbox.fit(record.width, record.height, WIDTH, HEIGHT)
        assert cache.letterbox(index) == letterbox
        assert (entry.id, entry.file_name) == (record.id, record.file_name)
        assert (entry.scale, entry.pad_left, entry.pad_top) == (letterbox.scale, letterbox.pad_left, letterbox.pad_top)


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused(dtype: StorageType, value: float) -> None:
    features = torch.zeros(2, 3, 4, 4)
    features[1, 2, 3, 0] = value
    pictures = [Path("whole.png"), Path("broken.png")]
    with pytest.raises(UserError, match=r"broken\.png: the backbone gives features that are not finite in layer last"):
        require_finite("last", features, encode("last", features, dtype), pictures)


def test_features_too_large_for_fp16_are_refused_with_the_cure() -> None:
    features = torch.full((1, 1, 2, 2), 1e5)
    with pytest.raises(UserError, match=r"bright\.png.* --dtype bf16"):
        require_finite("last", features, encode("last", features, "fp16"), [Path("bright.png")])
    require_finite("last", features, encode("last", features, "bf16"), [Path("bright.png")])
    assert torch.allclose(decode(encode("last", features, "bf16")["last"], None), features, rtol=2**-8)


def test_channels_of_zeros_survive_int8() -> None:
    stored = encode("last", torch.zeros(1, 2, 2, 2), "int8")
    assert torch.equal(decode(stored["last"], stored["last.scale"]), torch.zeros(1, 2, 2, 2))
