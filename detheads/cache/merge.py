"""Parts of a divided build become the cache that an undivided build would have made, to the byte."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detheads.cache.manifest import CacheManifest, PartEntry, annotations_bytes, read_manifest
from detheads.cache.parts import Part, part_folders
from detheads.cache.plan import claimed, full_disk_is_told
from detheads.cache.publish import publish
from detheads.cache.sizes import require_space
from detheads.cache.stock import Stock
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent
from detheads.foundation.reading import read_json

Found = tuple[Path, CacheManifest, PartEntry]


def merge_parts(sources: Sequence[str | Path], folder: str | Path, on_progress: Progress = silent) -> CacheManifest:
    """Make one cache of all parts of a divided build. The parts stay; on the same disk their shards are shared (links).

    A merge that was killed goes on when it is called again.

    Args:
        sources: folders that hold parts, or parts themselves.
        folder: of the cache.

    Raises:
        UserError: when a part is missing, unfinished, damaged, given twice or of another build than the others, or
            ``folder`` holds something else.
    """
    folder, places = Path(folder), [Path(source) for source in sources]
    parts = _in_order([_read(place) for place in part_folders(places)])
    first = parts[0][1]
    with full_disk_is_told(folder), claimed(folder, first.settings) as known:
        images = tuple(image for _, manifest, _ in parts for image in manifest.images)
        if known is not None and known.images != images:
            raise UserError(f"{folder} is a finished cache of other pictures than the parts; choose another with -o.")
        stock = Stock(folder, known)
        for done, (place, manifest, _) in enumerate(parts, start=1):
            damaged = Stock(place, manifest).damaged
            if damaged:
                raise UserError(
                    f"{place / damaged[0].file} is missing or damaged; run that part's 'detheads cache build' again, "
                    "which makes only such shards anew."
                )
            there = {(entry.sha256, entry.pictures) for entry in stock.shards}
            new = [shard for shard in manifest.shards if (shard.sha256, shard.pictures) not in there]
            if place.stat().st_dev != folder.stat().st_dev:  # copied, where others are linked
                require_space(folder, sum((place / shard.file).stat().st_size for shard in new))
            stock.take(place, new)
            on_progress("merging", done, len(parts))
        return publish(
            folder,
            known,
            stock,
            settings=first.settings,
            dataset=first.dataset,
            split=first.split,
            annotations=annotations_bytes(_joined([_annotations(place, manifest) for place, manifest, _ in parts])),
            images=images,
            dropped=first.dropped,
            skipped={name: why for _, manifest, _ in parts for name, why in manifest.skipped.items()},
        )


def _read(place: Path) -> Found:
    manifest = read_manifest(place)
    if manifest.part is None:
        raise UserError(f"{place} is a cache of its own and no part of one; give folders of 'cache build --part'.")
    return place, manifest, manifest.part


def _in_order(parts: list[Found]) -> list[Found]:
    """The parts by their numbers, when they are all parts of one build, each once."""
    known: dict[int, Path] = {}
    for place, manifest, part in parts:
        _require_same_build(parts[0], (place, manifest, part))
        if part.number in known:
            raise UserError(
                f"{Part(part.number, part.of)} is there twice, as {known[part.number]} and {place}; give one of them."
            )
        known[part.number] = place
    of = parts[0][2].of
    missing = [number for number in range(1, of + 1) if number not in known]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{Part(missing[0], of)}{more} is missing; 'detheads cache build --part {missing[0]}/{of}' makes it, or "
            "give the folder that has it."
        )
    return sorted(parts, key=lambda found: found[2].number)


def _require_same_build(one: Found, other: Found) -> None:
    """Refuse parts whose union is nobody's cache.

    Raises:
        UserError: naming the first thing that differs.
    """
    (place, first, part), (strange, manifest, entry) = one, other
    kinds = [(name, getattr(manifest.settings, name), value) for name, value in first.settings]
    kinds += [
        ("number of parts", entry.of, part.of),
        ("dataset", f"{manifest.dataset}/{manifest.split}", f"{first.dataset}/{first.split}"),
    ]
    for name, found, wanted in kinds:
        if found != wanted:
            raise UserError(f"{strange} is a part of another build than {place}: its {name} is {found}, not {wanted}.")
    if entry.plan_sha256 != part.plan_sha256:
        raise UserError(
            f"{strange} is a part of another build than {place}: the dataset listed other pictures; build both of the "
            "same list."
        )
    if (entry.annotations_sha256, manifest.dropped) != (part.annotations_sha256, first.dropped):
        raise UserError(
            f"{strange} has other boxes or classes than {place}; run the 'detheads cache build' of both parts again "
            "with the dataset as it is now, which extracts nothing that is there."
        )


def _annotations(place: Path, manifest: CacheManifest) -> dict[str, Any]:
    """The COCO object of a part, as it was written.

    Raises:
        UserError: when it is not what the manifest says.
    """
    path = atomic.inside(place, manifest.annotations)
    if not path.is_file() or atomic.sha256_of(path) != manifest.annotations_sha256:
        raise UserError(f"{path} is missing or was changed; run that part's 'detheads cache build' again.")
    document: dict[str, Any] = read_json(path)
    return document


def _joined(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One COCO object of the images and annotations of all; those are numbered anew."""
    annotations = [entry for document in documents for entry in document["annotations"]]
    return {
        **documents[0],
        "images": [entry for document in documents for entry in document["images"]],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations, start=1)],
    }
