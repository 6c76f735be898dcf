"""A finished cache beside the dataset as it is now: whether its pictures are the same, and the new boxes on them."""

from pathlib import Path

from detheads.cache.manifest import CacheManifest, read_manifest
from detheads.cache.pictures import Difference, compare, picture_digests, without
from detheads.cache.plan import claimed, full_disk_is_told, require_digests
from detheads.cache.publish import publish_dataset
from detheads.cache.stock import Stock
from detheads.data.dataset import Dataset, ImageRecord
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent


def annotate_cache(folder: str | Path, dataset: Dataset, on_progress: Progress = silent) -> CacheManifest:
    """Give a finished cache the boxes, classes and image ids of ``dataset``, whose pictures are those it was built of.

    Pictures that the cache left out when it was built stay left out.

    Raises:
        UserError: when a picture was replaced, is missing, or is not in the cache; nothing is changed then.
    """
    folder = Path(folder)
    settings = read_manifest(folder).settings
    with full_disk_is_told(folder), claimed(folder, settings) as known:
        if known is None:
            raise UserError(f"the manifest of {folder} was removed just now; build the cache again.")
        dataset = without(dataset, {image for image in dataset.images if image.file_name in known.skipped})
        key_of = picture_digests(dataset.images, _stop, on_progress)
        difference = compare(known, key_of)
        if difference:
            raise UserError(
                f"{folder} was not built of the pictures of {dataset.name}/{dataset.split} ({difference.sentence}); "
                "'detheads cache build' brings it up to date."
            )
        stock = Stock(folder, known, check=False)
        return publish_dataset(folder, known, stock, dataset, settings, key_of, known.skipped)


def compare_pictures(folder: str | Path, dataset: Dataset, on_progress: Progress = silent) -> Difference:
    """What differs between the pictures that a finished cache was built of and those of ``dataset`` now.

    Raises:
        UserError: when a picture cannot be read, or the cache does not know its pictures.
    """
    known = read_manifest(Path(folder))
    require_digests(Path(folder), known)
    images = [image for image in dataset.images if image.file_name not in known.skipped]
    return compare(known, picture_digests(images, _stop, on_progress))


def _stop(record: ImageRecord, error: UserError) -> None:
    raise error
