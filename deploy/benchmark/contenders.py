"""Who takes part in a benchmark, and on which pictures."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from detheads.deploy.benchmark.measure import Contender, Load
from detheads.deploy.benchmark.report import threads_told
from detheads.deploy.detector import Detector
from detheads.deploy.inputs import collect_images
from detheads.deploy.probes import read_probes
from detheads.foundation.bundle import read_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.foundation.progress import Remark, unheard

MOST: Final = 16
"""Contenders; all of them are in memory at once, so that they can take turns."""
MOST_PICTURES: Final = 256


def open_contenders(
    bundles: Sequence[Path],
    backends: Sequence[str],
    threads: Sequence[int | None],
    *,
    on_remark: Remark = unheard,
) -> list[Contender]:
    """Every bundle in every backend with every number of threads, named by what tells them apart.

    Args:
        backends: as :meth:`Detector.load` takes them, ``auto`` among them.
        threads: of the CPU; None for the library's own choice.
        on_remark: told what ``auto`` took.

    Raises:
        UserError: when one cannot be opened, or there are too many.
    """
    bundles, backends, threads = (
        list(dict.fromkeys(bundles)),
        list(dict.fromkeys(backends)),
        list(dict.fromkeys(threads)),
    )
    if (count := len(bundles) * len(backends) * len(threads)) > MOST:
        raise UserError(f"{count} contenders would be in memory at once, and {MOST} may be; measure them in parts.")
    stems = [bundle.absolute().name.removesuffix(".detheads") for bundle in bundles]
    titles = stems if len(set(stems)) == len(stems) else [str(bundle) for bundle in bundles]
    found = []
    for (bundle, title), backend, number in product(zip(bundles, titles, strict=True), backends, threads):
        detector = Detector.load(bundle, backend=backend, threads=number)
        if detector.choice:
            on_remark(f"auto took {detector.choice}")
        parts = [title] if len(bundles) > 1 or len(backends) == len(threads) == 1 else []
        parts += [backend] if len(backends) > 1 else []
        parts += [threads_told(number)] if len(threads) > 1 else []
        found.append(Contender(", ".join(parts), detector, number))
    return found


def find_pictures(bundle: Path, sources: Sequence[str], *, on_remark: Remark = unheard) -> tuple[list[Load], str]:
    """Pictures to measure with and where they come from: files, folders and patterns, else the bundle's probes.

    Raises:
        UserError: when a source is none, or there are neither sources nor probes.
    """
    if sources:
        images = collect_images(sources, on_remark=on_remark)
        if len(images) > MOST_PICTURES:
            on_remark(f"the first {MOST_PICTURES} of {len(images)} pictures are used")
        kept = images[:MOST_PICTURES]
        return [partial(image.load, unheard) for image in kept], ", ".join(sources)
    manifest = read_manifest(bundle)
    try:
        probes = read_probes(bundle, manifest)
    except UserError as error:
        raise UserError(f"{str(error).partition(';')[0]}; give pictures with --images.") from None
    return [partial(load_image, bundle / probe.file) for probe in probes.probes], f"the probes of {manifest.name}"
