"""What is thought of a whole dataset: whether its splits, classes and sizes suit training and evaluation."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detheads.data.findings import Finding, counted, some
from detheads.data.misreadings import Stated, judge_boxes, normalised
from detheads.data.parsed import CLIPPED

SMALLEST_SIDE = 8.0
"""Objects whose box has a smaller side (square root of its area) in the model's input are hard to find: half the finest
usual stride of 16."""
MANY_SMALL = 0.1
"""Share of such objects from which a larger input is advised."""
ROWS = 100
"""Detections a bundle returns for a picture."""
FEW_BOXES = 10
"""Fewer boxes of a class than this teach little."""
UNEVEN = 100
"""The most frequent class may have this many times the boxes of the rarest one."""


def judge_splits(parts: Sequence[Stated], size: tuple[int, int] | None = None) -> list[Finding]:
    """What the annotations of the splits look like as a whole.

    Args:
        parts: the splits.
        size: height and width of the model's input in pixels; without it, small objects are not judged.
    """
    findings = [finding for part in parts for finding in (*_usable(part), *_shifted(part), *judge_boxes(part))]
    findings += _class_names(parts)
    findings += _classes_of_splits(parts)
    findings += _balance(parts)
    findings += _crowded(parts)
    if size is not None:
        findings += _small(parts, size)
    return findings


def _kept(part: Stated) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Boxes clipped to their pictures ``[N, 4]``; which are objects that count: usable and no crowd, ``[N]``."""
    boxes, verdict = part.parsed.box_verdicts()
    return boxes, ((verdict == "") | (verdict == CLIPPED)) & ~part.parsed.crowd


def _usable(part: Stated) -> list[Finding]:
    """Whether there is anything to learn or to score."""
    _, verdict = part.parsed.box_verdicts()
    dropped = (verdict != "") & (verdict != CLIPPED)
    total = len(verdict)
    if total and dropped.all():
        reason, count = Counter(verdict.tolist()).most_common(1)[0]
        sentence = f"{part.split}: all {total} boxes are dropped, {count} of them because they are {reason}"
        return [Finding("error", "no usable box", sentence, total)]
    if not _kept(part)[1].any():
        why = "every usable box is a crowd, which is neither trained on nor scored" if total else "there is no box"
        return [Finding("warning", "no usable box", f"{part.split}: {why}: nothing can be learned or scored here", 0)]
    return []


def _shifted(part: Stated) -> list[Finding]:
    """Class numbers that are one too high or low: one beyond the known ones is used, and the first or last is not."""
    numbers = [category.id for category in part.parsed.categories]
    used = np.bincount(part.parsed.labels, minlength=len(numbers)) > 0
    unknown = part.parsed.problems.unknown_classes
    if not numbers or not used.any() or used.all():
        return []
    for beyond, unused, how in ((max(numbers) + 1, 0, "high"), (min(numbers) - 1, -1, "low")):
        if unknown == {beyond} and not used[unused]:
            name = part.parsed.categories[unused].name
            sentence = (
                f"{part.split}: the class numbers of the objects look one too {how}: {beyond} is used and is no class, "
                f"and {numbers[unused]} ({name!r}) is a class and is not used"
            )
            return [Finding("warning", "shifted class numbers", sentence, len(part.parsed.labels))]
    return []


def _class_names(parts: Sequence[Stated]) -> list[Finding]:
    """Names that differ in case or spaces only."""
    spellings: dict[str, dict[str, None]] = defaultdict(dict)
    for part in parts:
        for category in part.parsed.categories:
            spellings["".join(category.name.casefold().split())].setdefault(category.name)
    alike = [list(names) for names in spellings.values() if len(names) > 1]
    return [
        Finding("warning", "classes of nearly one name", f"the classes {some(names)} differ in case or spaces only", 1)
        for names in alike
    ]


def _classes_of_splits(parts: Sequence[Stated]) -> list[Finding]:
    """Classes that one split defines or uses and another does not."""
    if len(parts) < 2:
        return []
    findings = []
    first = parts[0]
    for other in parts[1:]:
        for have, lack in ((first, other), (other, first)):
            ids = {category.name: category.id for category in lack.parsed.categories}
            missing = [category.name for category in have.parsed.categories if category.name not in ids]
            if missing:
                sentence = f"{have.split} defines {some(missing)}, which {lack.split} does not"
                findings.append(Finding("warning", "splits of different classes", sentence, len(missing)))
            moved = [
                category for category in have.parsed.categories if ids.get(category.name, category.id) != category.id
            ]
            if moved and have is first:
                name = moved[0].name
                sentence = f"{name!r} is class {moved[0].id} in {have.split} and {ids[name]} in {lack.split}"
                findings.append(Finding("warning", "classes of different numbers", sentence, len(moved)))
    train = next((part for part in parts if part.split.startswith("train")), None)
    if train is None:
        return findings
    taught = _boxes_of_classes(train)
    for part in parts:
        if part is train:
            continue
        asked = _boxes_of_classes(part)
        unknown = [name for name, count in asked.items() if count and not taught.get(name)]
        if unknown:
            sentence = f"{part.split} has objects of {some(unknown)}, of which {train.split} has none to learn from"
            findings.append(Finding("warning", "classes without training objects", sentence, len(unknown)))
        untested = [name for name, count in taught.items() if count and not asked.get(name)]
        if untested and any(asked.values()):
            sentence = f"{part.split} has no object of {some(untested)}: their AP is undefined there"
            findings.append(Finding("note", "classes that are not tested", sentence, len(untested)))
    return findings


def _boxes_of_classes(part: Stated) -> dict[str, int]:
    counts = np.bincount(part.parsed.labels[_kept(part)[1]], minlength=len(part.parsed.categories)).tolist()
    return dict(zip((category.name for category in part.parsed.categories), counts, strict=True))


def _balance(parts: Sequence[Stated]) -> list[Finding]:
    """Rare classes of the training split (of the only split, where there is one)."""
    train = next((part for part in parts if part.split.startswith("train")), parts[0] if len(parts) == 1 else None)
    counts = {name: count for name, count in _boxes_of_classes(train).items() if count} if train is not None else {}
    if len(counts) < 2 or train is None:
        return []
    rare, common = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    findings = []
    if counts[common] >= UNEVEN * counts[rare]:
        sentence = f"{train.split}: {common!r} has {counts[common]} boxes and {rare!r} has {counts[rare]}"
        findings.append(Finding("warning", "uneven classes", sentence, len(counts)))
    if few := [name for name, count in counts.items() if count < FEW_BOXES]:
        sentence = f"{train.split}: fewer than {FEW_BOXES} boxes of {some(few)}"
        findings.append(Finding("note", "rare classes", sentence, len(few)))
    return findings


def _crowded(parts: Sequence[Stated]) -> list[Finding]:
    findings = []
    for part in parts:
        per_picture = np.bincount(part.parsed.image_index[_kept(part)[1]], minlength=len(part.parsed.images))
        crowded = int((per_picture > ROWS).sum())
        if crowded:
            most, name = per_picture.max(), part.parsed.images[int(per_picture.argmax())].file_name
            sentence = (
                f"{part.split}: {counted(crowded, 'picture')} with more than {ROWS} objects (up to {most}, in {name}); "
                f"a bundle returns {ROWS} detections for a picture, and COCO's AP counts as many"
            )
            findings.append(Finding("warning", "crowded pictures", sentence, crowded))
    return findings


def _small(parts: Sequence[Stated], size: tuple[int, int]) -> list[Finding]:
    """Objects that are tiny in the model's input."""
    findings = []
    for part in parts:
        if normalised(part) is not None:
            continue
        boxes, kept = _kept(part)
        scale = np.minimum(size[1] / part.sizes[kept, 0], size[0] / part.sizes[kept, 1])
        sides = np.sqrt(np.prod(boxes[kept, 2:] - boxes[kept, :2], axis=1)) * scale
        small = int((sides < SMALLEST_SIDE).sum())
        if small <= MANY_SMALL * len(sides):
            continue
        factor = SMALLEST_SIDE / max(float(np.quantile(sides, MANY_SMALL)), 1e-9)
        larger = -(-int(max(size) * factor) // 32) * 32
        advice = (
            f"--size {larger} would leave a tenth of them so small" if factor <= 4 else "cut the pictures into tiles"
        )
        sentence = (
            f"{part.split}: {small} of {len(sides)} objects ({100 * small / len(sides):.0f} %) are under "
            f"{SMALLEST_SIDE:.0f} pixels at an input of {size[1]}x{size[0]} (width x height); {advice}"
        )
        findings.append(Finding("warning", "tiny objects", sentence, small))
    return findings
