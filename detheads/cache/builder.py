"""Build a feature cache, and build it again: only pictures whose features are not there yet are extracted.

Safe against a kill at any moment: a shard is written beside its final name and renamed, then its digest is recorded
beside it; what a finished manifest names is left as it is until the next manifest stands.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from detheads.backbones.backbone import Backbone, require_rebuildable
from detheads.backbones.features import DEPTH
from detheads.cache.depth import DepthMaps
from detheads.cache.extract import Waiting, extract
from detheads.cache.images import OnBad, OnRemark
from detheads.cache.manifest import (
    PIXEL_RULE,
    CacheManifest,
    LayerEntry,
    PartEntry,
    Settings,
    StorageType,
    read_manifest,
)
from detheads.cache.parts import Part, require_divisible
from detheads.cache.pictures import compare, picture_digests, without
from detheads.cache.plan import (
    claimed,
    full_disk_is_told,
    images_per_shard,
    require_digests,
    require_equal_settings,
)
from detheads.cache.publish import publish_dataset
from detheads.cache.sizes import require_space
from detheads.cache.stock import Stock
from detheads.data.dataset import Dataset, ImageRecord
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent

Group = tuple[str | None, Sequence[ImageRecord]]
"""Pictures of one shard, and the name of the damaged one whose place it takes."""


@dataclass(frozen=True)
class BuildResult:
    """What a build did.

    Attributes:
        folder: of the finished cache, or of the part.
        images: in it.
        extracted: images that went through the backbone, now.
        resumed: images whose features were there.
        replaced: file names of pictures whose content is another than when the cache was built before.
        skipped: pictures left out because they could not be decoded: path -> why.
        bytes: size of all shards.
        waited: seconds in which the backbone waited for decoded pictures.
    """

    folder: Path
    images: int
    extracted: int
    resumed: int
    replaced: tuple[str, ...]
    skipped: dict[str, str]
    bytes: int
    waited: float = 0.0


def settings_for(
    backbone: Backbone, dtype: StorageType = "fp16", flips: bool = False, depth: DepthMaps | None = None
) -> Settings:
    """The cache settings that a backbone implies.

    Args:
        depth: maps that lie beside the features, on the grid on which heads join them.

    Raises:
        UserError: when the backbone's name does not give it again.
    """
    require_rebuildable(backbone)
    spec, features = backbone.spec, backbone.feature_spec
    layers = [LayerEntry(name=e.name, channels=e.channels, stride=e.stride) for e in features.layers]
    if depth is not None:
        layers.append(LayerEntry(name=DEPTH, channels=1, stride=features.join_stride))
    return Settings(
        backbone=spec.name,
        backbone_file_sha256=backbone.file_sha256,
        timm_name=spec.timm_name,
        licence=spec.licence,
        weights_sha256=backbone.weights_sha256,
        mean=spec.mean,
        std=spec.std,
        pixel_rule=PIXEL_RULE,
        height=features.height,
        width=features.width,
        layers=tuple(layers),
        main=features.main,
        dtype=dtype,
        flips=flips,
        precision=backbone.precision,
        depth_sha256=None if depth is None else depth.sha256,
    )


def build_cache(
    dataset: Dataset,
    backbone: Backbone,
    folder: str | Path,
    *,
    dtype: StorageType = "fp16",
    flips: bool = False,
    batch_size: int = 8,
    reuse: Sequence[str | Path] = (),
    skip_bad: bool = False,
    part: Part | None = None,
    depth: DepthMaps | None = None,
    on_progress: Progress = silent,
    on_remark: OnRemark = None,
) -> BuildResult:
    """Put the features of every image of ``dataset`` into ``folder``.

    A folder that holds a cache of the same settings, finished or begun, goes on from there: only pictures that are new
    or were replaced are extracted, damaged shards are made anew, and boxes and classes become those of ``dataset``.

    Args:
        reuse: folders of finished caches of the same settings, whose features are taken for equal pictures.
        skip_bad: leave out pictures that cannot be decoded instead of stopping at the first.
        part: extract only this part of the dataset's pictures, into its own folder in ``folder``; other processes and
            machines may build the others at the same time, and :func:`detheads.cache.merge.merge_parts` makes them one.
        depth: depth maps of all pictures of the dataset, stored beside the features.
        on_remark: called with a sentence about each picture whose pixels look wrong or that has further frames.

    Raises:
        UserError: when the folder holds a cache of other settings or of pictures that the dataset lacks, the disk is
            too small, an image cannot be read (finished shards stay), or there is no such part.
    """
    if not dataset.images:
        raise UserError(f"{dataset.name} {dataset.split} has no images to cache.")
    strange = next((name for image in dataset.images if _leads_out(name := image.file_name)), None)
    if strange is not None:
        raise UserError(
            f"{dataset.name}/{dataset.split} calls a picture {strange!r}, which leads out of a cache's folder; "
            "name pictures relative to the folder of the split."
        )
    folder, settings = Path(folder), settings_for(backbone, dtype, flips, depth)
    entry: PartEntry | None = None
    if part is not None:
        require_divisible(folder, reuse)
        entry = part.entry(dataset, settings)
        folder, dataset = part.folder(folder), part.of_dataset(dataset, settings)
    bad: dict[ImageRecord, str] = {}

    def on_bad(record: ImageRecord, error: UserError) -> None:
        if not skip_bad:
            raise error
        bad[record] = str(error)

    with full_disk_is_told(folder), claimed(folder, settings, None if part is None else str(part)) as known:
        stock = Stock(folder, known)
        others = {Path(other): _stock_of(Path(other), settings) for other in reuse}
        key_of: dict[ImageRecord, str] = {}
        if stock.shards or stock.damaged or others:  # else digests are taken when the pictures are decoded
            key_of = picture_digests(dataset.images, on_bad, on_progress)
            _require_same_pictures(folder, known, stock, dataset, key_of)
        for other, shelf in others.items():
            stock.take(other, shelf.used(set(key_of.values()) - stock.pictures))
        there = stock.pictures
        missing = [record for record in dataset.images if key_of.get(record, "") not in there and record not in bad]
        require_space(folder, len(missing) * settings.bytes_per_image, settings)
        resumed = len(dataset.images) - len(missing) - len(bad)
        groups = _groups(missing, key_of, stock, images_per_shard(settings))
        waiting = Waiting()
        key_of |= _extract_all(
            groups, backbone, settings, batch_size, stock, on_bad, on_progress, resumed, on_remark, waiting, depth
        )
        skipped = {**dataset.skipped, **{record.file_name: why for record, why in bad.items()}}
        manifest = publish_dataset(folder, known, stock, without(dataset, bad), settings, key_of, skipped, entry)
        return BuildResult(
            folder=folder,
            images=len(manifest.images),
            extracted=len(manifest.images) - resumed,
            resumed=resumed,
            replaced=_replaced(known, manifest),
            skipped={str(record.path): why for record, why in bad.items()},
            bytes=sum((folder / shard.file).stat().st_size for shard in manifest.shards),
            waited=waiting.seconds,
        )


def _groups(
    missing: Sequence[ImageRecord], key_of: Mapping[ImageRecord, str], stock: Stock, per_shard: int
) -> list[Group]:
    """What is to be extracted: a damaged shard as it was, so that the cache stays the same; the rest in order."""
    by_key = {key_of[record]: record for record in missing if record in key_of}
    groups: list[Group] = []
    for entry in stock.damaged:
        if by_key.keys() >= set(entry.pictures):
            groups.append((entry.file, [by_key.pop(key) for key in dict.fromkeys(entry.pictures)]))
    mended = {key_of[record] for _, records in groups for record in records}
    rest = [record for record in missing if key_of.get(record) not in mended]
    return groups + [(None, rest[start : start + per_shard]) for start in range(0, len(rest), per_shard)]


def _extract_all(
    groups: Sequence[Group],
    backbone: Backbone,
    settings: Settings,
    batch_size: int,
    stock: Stock,
    on_bad: OnBad,
    on_progress: Progress,
    resumed: int,
    on_remark: OnRemark,
    waiting: Waiting,
    depth: DepthMaps | None,
) -> dict[ImageRecord, str]:
    """Write a shard of each group; the digest of each picture that could be used."""
    key_of: dict[ImageRecord, str] = {}
    done, total = resumed, resumed + sum(len(records) for _, records in groups)

    def advance(images: int) -> None:
        nonlocal done
        done += images
        on_progress("caching", done, total)

    advance(0)
    pending: Future[None] | None = None
    with ThreadPoolExecutor(1) as writer:  # hashes and writes one shard while the next one is computed
        for name, records in groups:
            keys, tensors = extract(records, backbone, settings, batch_size, on_bad, advance, on_remark, waiting, depth)
            if pending is not None:
                pending.result()
            pending = None
            if keys:
                key_of |= keys
                pending = writer.submit(stock.add, tensors, keys.values(), name)
        if pending is not None:
            pending.result()
    return key_of


def _stock_of(folder: Path, settings: Settings) -> Stock:
    manifest = read_manifest(folder)
    require_digests(folder, manifest)
    require_equal_settings(folder, manifest.settings, settings)
    return Stock(folder, manifest)


def _require_same_pictures(
    folder: Path, known: CacheManifest | None, stock: Stock, dataset: Dataset, key_of: Mapping[ImageRecord, str]
) -> None:
    """A cache grows and follows its pictures; features that took long are not thrown away for another dataset's."""
    if known is not None:
        gone = compare(known, key_of).gone
        reason = f"{len(gone)} pictures that it does not have (first {gone[0]})" if gone else ""
    else:
        strange = bool(stock.shards) and not stock.pictures & set(key_of.values())
        reason = "other pictures" if strange else ""
    if reason:
        raise UserError(
            f"{folder} was built of another dataset than {dataset.name}/{dataset.split}: it holds features of "
            f"{reason}; choose another folder with -o, and --from {folder} re-uses what both have."
        )


def _replaced(known: CacheManifest | None, manifest: CacheManifest) -> tuple[str, ...]:
    before = {image.file_name: image.sha256 for image in known.images} if known else {}
    return tuple(
        image.file_name for image in manifest.images if before.get(image.file_name, image.sha256) != image.sha256
    )


def _leads_out(name: str) -> bool:
    path = Path(name)
    return path.is_absolute() or ".." in path.parts
