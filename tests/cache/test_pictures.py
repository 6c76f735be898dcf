"""Every kind of picture file is cached as a viewer shows it; unreadable ones are refused by name."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from detheads.backbones.backbone import Backbone
from detheads.cache.builder import build_cache
from detheads.cache.images import batches, load_input
from detheads.cache.reader import FeatureCache
from detheads.data.dataset import Category, Dataset, ImageRecord, Objects
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import Letterbox
from tests.cache.conftest import CNN, HEIGHT, WIDTH, picture

Pixels = NDArray[np.uint8]


def one_image(path: Path, width: int, height: int) -> Dataset:
    record = ImageRecord(1, path.name, path, width, height)
    return Dataset("one", "train", (Category(1, "a"),), (record,), (Objects.empty(),))


def _rotated(orientation: int, turn: Callable[[Pixels], Pixels]) -> Callable[[Path], Pixels]:
    def save(path: Path) -> Pixels:
        image = picture(4, 70, 41)
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(path, exif=exif)
        return turn(np.array(image))

    return save


def _grey(path: Path) -> Pixels:
    image = picture(4, 70, 41).convert("L")
    image.save(path)
    return np.repeat(np.array(image)[:, :, None], 3, axis=2)


def _deep(path: Path) -> Pixels:
    values = np.array(picture(4, 70, 41).convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(path)
    return np.repeat((values // 257).astype(np.uint8)[:, :, None], 3, axis=2)


def _alpha(path: Path) -> Pixels:
    color = np.array(picture(4, 70, 41)).astype(np.float64)
    alpha = np.array(picture(5, 70, 41).convert("L"))
    Image.fromarray(np.dstack([color.astype(np.uint8), alpha])).save(path)
    share = alpha[:, :, None] / 255
    return (color * share + 255 * (1 - share)).round().astype(np.uint8)


def _transparent_palette(path: Path) -> Pixels:
    image = picture(4, 70, 41).quantize(16)
    colors = np.array(image.convert("RGB"))
    indices = np.array(image)
    image.save(path, transparency=3)
    colors[indices == 3] = 255
    return colors


def _cmyk(path: Path) -> Pixels:
    cmyk = np.dstack([np.array(picture(4, 70, 41)), np.array(picture(5, 70, 41).convert("L")) // 2])
    Image.fromarray(cmyk, "CMYK").save(path)
    ink = 255.0 - cmyk
    return (ink[:, :, :3] * ink[:, :, 3:] / 255).round().astype(np.uint8)


def _bilevel(path: Path) -> Pixels:
    image = picture(4, 70, 41).convert("1")
    image.save(path)
    return np.repeat(np.array(image).astype(np.uint8)[:, :, None] * 255, 3, axis=2)


KINDS: dict[str, tuple[str, Callable[[Path], Pixels]]] = {
    "mirrored by EXIF": ("png", _rotated(2, lambda image: image[:, ::-1])),
    "turned by EXIF 3": ("png", _rotated(3, lambda image: image[::-1, ::-1])),
    "turned by EXIF 6": ("png", _rotated(6, lambda image: np.rot90(image, -1))),
    "turned by EXIF 8": ("tiff", _rotated(8, lambda image: np.rot90(image, 1))),
    "grey": ("png", _grey),
    "16 bit": ("png", _deep),
    "alpha": ("png", _alpha),
    "transparent palette": ("png", _transparent_palette),
    "CMYK": ("tiff", _cmyk),
    "black and white": ("tiff", _bilevel),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_unusual_picture_is_cached_as_a_viewer_shows_it(
    tmp_path: Path, backbones: dict[str, Backbone], kind: str
) -> None:
    suffix, save = KINDS[kind]
    path = tmp_path / f"{kind}.{suffix}"
    seen = save(path)
    height, width, _ = seen.shape
    letterbox = Letterbox.fit(width, height, WIDTH, HEIGHT)
    expected = letterbox.apply(Image.fromarray(np.ascontiguousarray(seen)))
    data = one_image(path, width, height)
    found = load_input(data.images[0], HEIGHT, WIDTH)
    assert np.abs(found.astype(int) - expected).max() <= 1  # one grey level of rounding

    backbone = backbones[CNN]
    build_cache(data, backbone, tmp_path / "cache")
    features = FeatureCache(tmp_path / "cache").features([0])
    with torch.inference_mode():
        reference = backbone(backbone.normalise(torch.from_numpy(expected).permute(2, 0, 1)[None]))
    for layer, values in reference.items():
        assert (features[layer] - values).abs().max() <= 0.05 * values.abs().max(), layer


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 7, 13])
def test_batches_hold_every_image_once_and_in_order(tmp_path: Path, count: int) -> None:
    records = []
    for number in range(count):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(path)
        records.append(ImageRecord(number, path.name, path, 8, 8))
    sizes, reds = [], []
    for batch in batches(records, 8, 8, 2, on_bad=lambda record, error: pytest.fail(str(error))):
        assert (batch.pixels.dtype, tuple(batch.pixels.shape[1:])) == (torch.uint8, (3, 8, 8))
        assert batch.digests == tuple(hashlib.sha256(record.path.read_bytes()).hexdigest() for record in batch.records)
        sizes.append(len(batch.records))
        reds += batch.pixels[:, 0, 0, 0].tolist()
    assert reds == [10 * number for number in range(count)]
    assert sizes == [2] * (count // 2) + [1] * (count % 2)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "cannot be decoded"),
    "empty": (lambda path: path.write_bytes(b""), "is not an image"),
    "text": (lambda path: path.write_text("<html>"), "is not an image"),
    "another size": (
        lambda path: picture(0, 12, 34).save(path),
        "has 12x34 pixels, its annotation says 150x149",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_unusable_picture_is_named_and_finished_shards_stay(
    dataset: Path, tmp_path: Path, build: Callable[..., Any], small_shards: int, case: str
) -> None:
    change, sentence = BROKEN[case]
    path = dataset / "train" / "plain-4.png"  # in the second shard
    whole = path.read_bytes()
    change(path)
    cache = tmp_path / "cache"
    finished = build(dataset, cache)
    errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert (finished.code, finished.result) == (1, "")
    assert len(errors) == 1 and str(path) in errors[0] and sentence in errors[0]
    assert "Traceback" not in finished.err
    shards = {entry.name for entry in cache.glob("*shard*")}
    assert shards == {"shard-00000.safetensors", "shard-00000.json"}
    path.write_bytes(whole)
    again = build(dataset, cache)
    assert (again.code, '"resumed": 3' in again.out) == (0, True)


def test_a_huge_picture_is_refused_before_it_is_decoded(
    dataset: Path, tmp_path: Path, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detheads.foundation.images.MAX_PIXELS", 20_000)
    finished = build(dataset, tmp_path / "cache")
    assert (finished.code, "plain-4.png has 150x149 pixels, more than 20,000" in finished.err) == (1, True)


def test_a_dataset_without_images_is_refused(tmp_path: Path, backbones: dict[str, Backbone]) -> None:
    empty = Dataset("nothing", "val", (Category(1, "a"),), (), ())
    with pytest.raises(UserError, match="nothing val has no images to cache"):
        build_cache(empty, backbones[CNN], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_building_says_when_a_picture_has_almost_one_grey(
    dataset: Path, tmp_path: Path, build: Callable[..., Any]
) -> None:
    path = dataset / "train" / "plain-4.png"
    height, width = np.asarray(Image.open(path)).shape[:2]
    twelve_bits = np.linspace(0, 4095, height * width).round().astype(np.uint16)
    Image.fromarray(twelve_bits.reshape(height, width)).save(path)
    finished = build(dataset, tmp_path / "cache")
    assert finished.code == 0
    assert "plain-4.png has 16-bit pixels from 0 to 4095, almost one grey in 8 bits" in finished.err
