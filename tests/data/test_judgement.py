"""What ``data validate`` thinks of the whole: mistakes that no single number shows, with their likely cause."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data import read_dataset
from detheads.data.augment import augment_dataset
from detheads.data.convert import convert_dataset
from detheads.data.dataset import Category, Dataset, ImageRecord, Objects
from detheads.data.duplicates import Fingerprint, duplicate_groups, fingerprint
from detheads.data.findings import Finding
from detheads.data.judgement import judge_splits
from detheads.data.misreadings import Convention, Stated
from detheads.data.parsed import Parsed
from detheads.data.validate import validate_dataset
from tests.data.conftest import Document

WIDTH, HEIGHT = 320, 240


def _boxes(count: int = 40, seed: int = 1) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Plausible objects all over a picture, xyxy in pixels."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.1, 0.4, (count, 2))
    corner = rng.random((count, 2)) * (1 - size)
    return np.concatenate([corner, corner + size], axis=1) * (WIDTH, HEIGHT, WIDTH, HEIGHT)


def _stated(
    boxes: np.ndarray[Any, np.dtype[np.float64]],
    *,
    split: str = "train",
    convention: Convention = "sizes",
    names: Sequence[str] = ("ant",),
    labels: Sequence[int] | None = None,
    crowd: bool = False,
    per_picture: int = 4,
    area: np.ndarray[Any, np.dtype[np.float64]] | None = None,
) -> Stated:
    """A split of as many pictures as it takes; ``labels`` are 0 without a choice."""
    pictures = max(1, -(-len(boxes) // per_picture))
    records = (ImageRecord(i, f"{i}.jpg", Path(f"{i}.jpg"), WIDTH, HEIGHT) for i in range(pictures))
    parsed = Parsed(
        Path("labels"),
        tuple(Category(i, name) for i, name in enumerate(names)),
        tuple(records),
        np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        np.arange(len(boxes)) // per_picture,
        np.zeros(len(boxes), np.int64) if labels is None else np.array(labels),
        np.full(len(boxes), crowd),
        np.full(len(boxes), np.nan) if area is None else area,
    )
    return Stated(split, parsed, convention)


def _kinds(findings: Sequence[Finding]) -> dict[str, str]:
    return {finding.kind: finding.severity for finding in findings}


def _as_stated(numbers: np.ndarray[Any, np.dtype[np.float64]], convention: Convention) -> Stated:
    """The split that a reader makes of four numbers a box, in the layout's own convention."""
    one, two = numbers[:, :2], numbers[:, 2:]
    if convention == "corners":
        return _stated(numbers, convention="corners")
    if convention == "shares":
        scale = np.array([WIDTH, HEIGHT])
        return _stated(np.concatenate([(one - two / 2) * scale, (one + two / 2) * scale], axis=1), convention="shares")
    return _stated(np.concatenate([one, one + two], axis=1))


CORNERS = _boxes()
CORNER, FAR, SIZE = CORNERS[:, :2], CORNERS[:, 2:], CORNERS[:, 2:] - CORNERS[:, :2]
FRAME = np.array([WIDTH, HEIGHT])
SMALL = np.tile([12.0, 10.0], (200, 1)) + np.arange(200)[:, None] / 100
SMALL_CORNER = np.random.default_rng(2).random((200, 2)) ** 0.1 * (FRAME - SMALL)  # small objects low on the right
SMALL_CORNER[100:] = FRAME - SMALL[100:] - SMALL_CORNER[100:]  # and high on the left


@pytest.mark.parametrize(
    ("numbers", "convention", "cause"),
    [
        ((CORNER, FAR), "sizes", "read as corners (x1, y1, x2, y2)"),
        (((CORNER + FAR) / 2, SIZE), "sizes", "read as centre and size"),
        ((CORNER[:, ::-1], SIZE[:, ::-1]), "sizes", "read as y before x"),
        ((CORNER / FRAME, SIZE / FRAME), "sizes", "normalised"),
        ((CORNER / FRAME, FAR / FRAME), "shares", "read as corners (x1, y1, x2, y2)"),
        ((CORNER / FRAME, SIZE / FRAME), "shares", "read as corner and size"),
        (((CORNER + FAR) / 2 / FRAME * 100, SIZE / FRAME * 100), "shares", "read as percent"),
        (((CORNER + FAR) / 2, SIZE), "shares", "read as pixels"),
        ((CORNER, FAR), "shares", "read as corners in pixels"),
        ((CORNER, SIZE), "shares", "read as corner and size in pixels"),
        ((CORNER, SIZE), "corners", "read as corner and size"),
        (((CORNER + FAR) / 2, SIZE), "corners", "read as centre and size"),
        ((CORNER[:, ::-1], FAR[:, ::-1]), "corners", "read as y before x"),
        ((CORNER / FRAME, FAR / FRAME), "corners", "normalised"),
        ((CORNER * 4, SIZE * 4), "sizes", "pictures of another size"),
        ((CORNER / 2, SIZE / 2), "sizes", "smaller pictures"),
        ((CORNER / FRAME, FAR / FRAME), "sizes", "normalised"),
        ((CORNER / FRAME * 100, SIZE / FRAME * 100), "sizes", "may be percent"),
        ((SMALL_CORNER + SMALL / 2, SMALL), "sizes", "read as centre and size"),
        ((SMALL_CORNER / FRAME, SMALL / FRAME), "shares", "read as corner and size"),
    ],
)
def test_a_misread_convention_is_named(numbers: tuple[Any, Any], convention: Convention, cause: str) -> None:
    findings = judge_splits([_as_stated(np.concatenate(numbers, axis=1), convention)])
    assert [cause in finding.sentence for finding in findings if finding.kind != "no usable box"] == [True]
    assert all(finding.severity in {"warning", "error"} for finding in findings)


@pytest.mark.parametrize("convention", ["sizes", "shares", "corners"])
@pytest.mark.parametrize("absurd", [np.nan, np.inf, -np.inf, 1e308, -1e308, 0.0])
def test_absurd_numbers_are_judged_without_a_warning_of_numpy(convention: Convention, absurd: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for boxes in (np.full((3, 4), absurd), np.tile([absurd, 1.0, 9.0, absurd], (30, 1)), np.zeros((0, 4))):
            assert judge_splits([_stated(boxes, convention=convention)], (64, 64))


@pytest.mark.parametrize("convention", ["sizes", "shares", "corners"])
def test_good_boxes_raise_no_suspicion(convention: Convention) -> None:
    assert judge_splits([_stated(CORNERS, convention=convention)], (768, 768)) == []


def test_boxes_a_little_over_the_edge_are_not_taken_for_another_convention() -> None:
    whole = np.tile([-6.0, -6.0, WIDTH + 6.0, HEIGHT + 6.0], (10, 1)) + np.arange(10)[:, None]
    assert set(_kinds(judge_splits([_stated(np.concatenate([whole, CORNERS]))]))) == {"many clipped boxes"}


def test_boxes_that_are_odd_together_are_reported_by_kind() -> None:
    def kinds(boxes: object, **options: Any) -> dict[str, str]:
        return _kinds(judge_splits([_stated(np.asarray(boxes, dtype=np.float64), **options)]))

    thin = np.tile([10.0, 10.0, 10.5, 90.0], (5, 1)) + np.arange(5)[:, None]
    assert kinds(np.concatenate([CORNERS, thin])) == {"sub-pixel boxes": "warning"}
    assert kinds(np.concatenate([_boxes(400), thin[:1]])) == {"sub-pixel boxes": "note"}
    assert kinds(np.repeat(CORNERS, 2, axis=0)) == {"repeated boxes": "warning"}
    assert kinds(np.tile([1.0, 1.0, WIDTH - 1.0, HEIGHT - 1.0], (4, 1)), per_picture=1) == {
        "boxes of whole pictures": "warning"
    }
    assert kinds(np.repeat(CORNERS, 2, axis=0), names=["ant", "bee"], labels=[0, 1] * 40) == {
        "boxes of two classes": "warning"
    }
    assert kinds(np.tile(CORNERS[:1], (8, 1)), per_picture=1) == {"boxes of one place": "warning"}
    assert kinds(CORNERS, area=np.prod(SIZE, axis=1) / 5000) == {"areas that do not fit": "warning"}
    assert kinds(CORNERS, area=np.prod(SIZE, axis=1) * 4) == {"areas that do not fit": "warning"}
    assert kinds(CORNERS, area=np.prod(SIZE, axis=1) * 0.6) == {}
    points = np.concatenate([CORNER, CORNER + 20], axis=1)
    assert kinds(points) == {"boxes of one size": "warning"}
    assert kinds(_boxes(130), per_picture=101) == {"crowded pictures": "warning"}
    assert kinds(CORNERS, names=["Ant", "ant "], labels=[0, 1] * 20) == {"classes of nearly one name": "warning"}


@pytest.mark.parametrize(
    ("boxes", "crowd", "severity", "why"),
    [
        ([], False, "warning", "there is no box"),
        ([[400.0, 10.0, 450.0, 20.0]], False, "error", "outside the image"),
        ([[10.0, 10.0, 60.0, 60.0]], True, "warning", "crowd"),
    ],
)
def test_a_split_without_a_usable_box_is_named(boxes: list[Any], crowd: bool, severity: str, why: str) -> None:
    (finding,) = judge_splits([_stated(np.array(boxes), crowd=crowd)])
    assert (finding.kind, finding.severity) == ("no usable box", severity)
    assert why in finding.sentence


def test_classes_are_compared_between_splits() -> None:
    train = _stated(_boxes(2040), names=["ant", "bee", "cow"], labels=[0] * 2020 + [1] * 20)
    val = _stated(CORNERS, split="val", names=["ant", "bee", "cow"], labels=[0] * 20 + [2] * 20)
    other = _stated(CORNERS, split="test", names=["bee", "ant"])
    findings = judge_splits([train, val, other])
    assert _kinds(findings) == {
        "classes without training objects": "warning",
        "classes that are not tested": "note",
        "uneven classes": "warning",
        "splits of different classes": "warning",
        "classes of different numbers": "warning",
    }
    sentences = " ".join(finding.sentence for finding in findings)
    for words in (
        "val has objects of 'cow', of which train has none",
        "val has no object of 'bee'",
        "train defines 'cow', which test does not",
        "'ant' is class 0 in train and 1 in test",
    ):
        assert words in sentences


@pytest.mark.parametrize(("shift", "how"), [(1, "high"), (-1, "low"), (0, ""), (5, "")])
def test_shifted_class_numbers_are_named(
    coco_folder: Callable[..., Path], yolo_folder: Path, shift: int, how: str
) -> None:
    def change(content: Document) -> None:
        content["categories"] = [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}, {"id": 3, "name": "cow"}]
        first = content["annotations"][0]
        content["annotations"] = [first | {"id": i, "category_id": i + shift, "bbox": [i, 2, 9, 9]} for i in (1, 2, 3)]

    (yolo_folder / "data.yaml").write_text("names: [ant, bee, cow]\n")
    rows = "".join(f"{i + shift} 0.{3 + i} 0.5 0.2 0.2\n" for i in (0, 1, 2) if i + shift >= 0)
    (yolo_folder / "labels" / "train" / "a.txt").write_text(rows)
    for folder in (coco_folder(change), *([yolo_folder] if shift >= 0 else [])):
        findings = validate_dataset(folder).findings
        sentences = [finding.sentence for finding in findings if finding.kind == "shifted class numbers"]
        assert [f"look one too {how}" in sentence for sentence in sentences] == ([True] if how else [])


def test_tiny_objects_are_judged_for_the_input_they_will_have() -> None:
    small = np.concatenate([CORNER, CORNER + np.arange(10, 50)[:, None] / 2], axis=1)  # 5 to 25 pixels wide
    assert judge_splits([_stated(small)], (640, 640)) == []
    (finding,) = judge_splits([_stated(small)], (128, 128))
    assert finding.kind == "tiny objects"
    sides = np.arange(10, 50) / 2 * 128 / WIDTH
    assert f"{(sides < 8).sum()} of 40 objects" in finding.sentence
    larger = int(finding.sentence.split("--size ")[1].split()[0])
    assert (sides * larger / 128 < 8).mean() <= 0.1 < (sides * (larger - 64) / 128 < 8).mean()


def _photograph(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture of soft shapes, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _altered(picture: Image.Image, how: str, folder: Path) -> Image.Image:
    if how == "re-encoded":
        picture.save(folder / "copy.jpg", quality=40)
        return Image.open(folder / "copy.jpg")
    if how == "halved":
        return picture.resize((80, 60))
    if how == "brightened":
        return picture.point(lambda value: min(255, value + 20))
    return picture.crop((2, 2, 160, 120))


@pytest.mark.parametrize("how", ["re-encoded", "halved", "brightened", "cropped"])
def test_altered_copies_are_found_and_other_pictures_are_not(how: str, tmp_path: Path) -> None:
    pictures = [_photograph(seed) for seed in range(30)]
    prints = [
        fingerprint(picture, str(i)) for i, picture in enumerate([*pictures, _altered(pictures[3], how, tmp_path)])
    ]
    assert [group for group in duplicate_groups(prints) if len(group) > 1] == [[3, 30]]


def test_plain_pictures_are_not_taken_for_each_other() -> None:
    plain = [Image.new("RGB", (64, 48), (100 + i, 100, 100)) for i in range(5)]
    groups = duplicate_groups([fingerprint(picture, str(i)) for i, picture in enumerate(plain)])
    assert [len(group) for group in groups] == [1] * 5


def test_groups_are_those_of_comparing_every_pair() -> None:
    prints = []
    for number in range(40):  # eight pictures with ever more noise, so that some stay alike and some do not
        rng, picture = np.random.default_rng(number), np.array(_photograph(number % 8)).astype(float)
        noise = rng.normal(0, 12 * (number // 8), (15, 20, 1)).repeat(8, 0).repeat(8, 1)
        noisy = Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8))
        prints.append(fingerprint(noisy, str(number)))
    prints += prints[:2]

    def alike(one: Fingerprint, other: Fingerprint) -> bool:
        a, b = ((known.blocks - known.blocks.mean()) / known.blocks.std() for known in (one, other))
        return one.sha256 == other.sha256 or bool((one.bits != other.bits).sum() <= 10 and np.abs(a - b).mean() <= 0.25)

    near = np.array([[alike(one, other) for other in prints] for one in prints])
    for _ in range(6):
        near = near @ near  # reachable in ever more steps
    expected = {tuple(np.flatnonzero(row).tolist()) for row in near}
    assert 8 < len(expected) < 40
    assert {tuple(group) for group in duplicate_groups(prints)} == expected


def test_copies_within_and_across_splits_are_reported(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any]
) -> None:
    coco_folder(split="val")
    folder = coco_folder()
    _photograph(1, (40, 30)).save(folder / "train" / "a.jpg")
    _photograph(2, (40, 30)).save(folder / "train" / "b.jpg")
    (folder / "val" / "a.jpg").write_bytes((folder / "train" / "a.jpg").read_bytes())
    _photograph(2, (40, 30)).save(folder / "val" / "b.jpg", quality=30)
    result = json.loads(detheads("data", "validate", folder, "--json").out)
    found = {finding["kind"]: finding["severity"] for finding in result["judgement"]}
    assert found == {
        "equal pictures in several splits": "warning",
        "nearly equal pictures in several splits": "warning",
        "rare classes": "note",
    }
    assert result["input_size"] == [768, 768]
    pairs = [[Path(entry["file"]).name for entry in group] for group in result["equal_pictures"]]
    assert pairs == [["a.jpg", "a.jpg"]]
    assert [[entry["split"] for entry in group] for group in result["nearly_equal_pictures"]] == [["train", "val"]]

    (folder / "train" / "b.jpg").write_bytes((folder / "train" / "a.jpg").read_bytes())
    within = [finding.kind for finding in validate_dataset(folder, "train").findings]
    assert within == ["equal pictures", "rare classes"]


def test_the_judgement_is_printed_last_and_an_error_in_it_fails(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any]
) -> None:
    def outside(content: Document) -> None:
        for annotation in content["annotations"]:
            annotation["bbox"] = [50, 50, 5, 5]

    finished = detheads("data", "validate", coco_folder(outside))
    assert finished.code == 1
    last = finished.out.split("The dataset as a whole:")[1]
    assert "error: no usable box: train: all 2 boxes are dropped, 2 of them because they are outside the image" in last


@pytest.mark.parametrize("name", ["convert", "augment", "split", "draw"])
def test_bad_pictures_are_left_out_on_request_and_listed(
    coco_folder: Callable[..., Path], detheads: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    def more(content: Document) -> None:
        content["images"].append({"id": 50, "file_name": "c.jpg", "width": 40, "height": 30})

    folder = coco_folder(more)
    (folder / "train" / "c.jpg").write_bytes(b"no picture")
    target = tmp_path / "out"
    options = ["-o", target, *(["--val", "0.5"] if name == "split" else [])]
    refused = detheads("data", name, folder, *options)
    assert (refused.code, "c.jpg" in refused.err) == (1, True)
    finished = detheads("data", name, folder, *options, "--skip-bad", "--json")
    assert finished.code == 0
    assert list(json.loads(finished.out)["skipped"]) == [str(folder / "train" / "c.jpg")]
    assert "left out 1 that cannot be used" in finished.err


def test_nothing_is_left_when_all_pictures_are_bad(coco_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = coco_folder()
    for name in ("a.jpg", "b.jpg"):
        (folder / "train" / name).write_bytes(b"no picture")
    dataset: Dataset = read_dataset(folder)
    for write in (
        lambda: convert_dataset([dataset], tmp_path / "out", "coco", skip_bad=True),
        lambda: augment_dataset(dataset, tmp_path / "out", 1, skip_bad=True),
    ):
        with pytest.raises(Exception, match="no image of set train can be used"):
            write()
        assert not (tmp_path / "out").exists()
    assert isinstance(dataset.objects[0], Objects)
