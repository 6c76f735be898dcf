"""The pictures of lowest confidence are kept: so many, in a dataset that can be read at every moment."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detheads.data import read_dataset
from detheads.deploy.detector import Detections
from detheads.deploy.monitor.uncertain import APART, MOST, Keeper, doubt, keeping
from detheads.foundation.errors import UserError
from tests.deploy.monitor.world import CLASSES, pictures, prepare

SHOWN_FROM = np.array([0.5, 0.3])


class Stub:
    """What of a detector is asked for."""

    classes = CLASSES
    draw_scores = SHOWN_FROM


def found(*scores: float, label: int = 0) -> Detections:
    """Boxes of these scores, each 10 pixels wide and 20 high."""
    boxes = np.array([[5 * n, 2, 5 * n + 10, 22] for n in range(len(scores))], dtype=np.float64).reshape(-1, 4)
    return Detections(boxes, np.array(scores, np.float32), np.full(len(scores), label, np.int32))


def see(keeper: Keeper, image: Image.Image, *scores: float) -> bool:
    return keeper.see(lambda: image, prepare(image), found(*scores))


def kept(folder: Path, most: int = 3):  # type: ignore[no-untyped-def]
    return keeping(folder, most, Stub())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "label", "expected"),
    [
        ((0.5,), 0, 1.0),  # where it is shown from
        ((0.3,), 1, 1.0),
        ((1.0,), 0, 0.0),
        ((0.75,), 0, 0.25),
        ((0.5, 1.0), 0, 0.5),
        ((1.0, 0.2, 0.1), 0, 0.0),  # the last two are background
        ((), 0, 0.0),
    ],
)
def test_doubt_is_the_mean_margin_of_what_may_be_shown(scores: tuple[float, ...], label: int, expected: float) -> None:
    assert doubt(found(*scores, label=label), SHOWN_FROM) == pytest.approx(expected, abs=1e-6)


def test_the_most_doubtful_pictures_are_kept_whatever_their_order(tmp_path: Path) -> None:
    shown = pictures(6, seed=1)
    with kept(tmp_path / "kept") as keeper:
        for image, score in zip(shown, (0.95, 0.55, 0.9, 0.6, 0.52, 0.99), strict=True):
            see(keeper, image, score, 0.97)
    dataset = read_dataset(tmp_path / "kept", "train")
    assert [record.width for record in dataset.images] == [80] * 3
    proposed = [objects.boxes.tolist() for objects in dataset.objects]
    assert proposed == [[[0, 2, 10, 22], [5, 2, 15, 22]]] * 3
    document = json.loads((tmp_path / "kept/annotations/instances_train.json").read_text())
    assert sorted(round(entry["score"], 2) for entry in document["annotations"]) == [0.52, 0.55, 0.6, 0.97, 0.97, 0.97]
    assert document["categories"] == [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}]
    on_disk = {path.name for path in (tmp_path / "kept/train").iterdir()}
    assert on_disk == {image["file_name"] for image in document["images"]}
    by_name = {image["file_name"]: image["id"] for image in document["images"]}
    with Image.open(tmp_path / "kept/train" / next(iter(by_name))) as image:
        assert np.abs(np.asarray(image).astype(int) - np.asarray(shown[1])).mean() < 3  # the second was the first kept


def test_reading_the_dataset_says_that_its_boxes_are_proposals(tmp_path: Path) -> None:
    with kept(tmp_path / "kept") as keeper:
        see(keeper, pictures(1, seed=1)[0], 0.6)
    assert any(
        "proposal that nobody has corrected" in line for line in read_dataset(tmp_path / "kept", "train").remarks
    )


def test_pictures_of_certain_detections_or_none_are_not_kept(tmp_path: Path) -> None:
    with kept(tmp_path / "kept") as keeper:
        assert [see(keeper, image, *scores) for image, scores in zip(pictures(2, 1), ((), (1.0,)), strict=True)] == [
            False,
            False,
        ]


def test_a_camera_that_stands_still_fills_the_folder_slowly(tmp_path: Path) -> None:
    frame = pictures(1, seed=1)[0]
    with kept(tmp_path / "kept", most=10) as keeper:
        for number in range(2 * APART):
            see(keeper, frame, 0.9 - 0.004 * number)
        assert len(keeper) == 2
    scores = [
        entry["score"]
        for entry in json.loads((tmp_path / "kept/annotations/instances_train.json").read_text())["annotations"]
    ]
    assert scores == pytest.approx([0.9 - 0.004 * (APART - 1), 0.9 - 0.004 * (2 * APART - 1)], abs=1e-6)


def test_a_later_process_goes_on_and_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    first, second, third = pictures(3, seed=1)
    with kept(tmp_path / "kept", most=2) as keeper:
        see(keeper, first, 0.6)
        see(keeper, second, 0.8)
    (tmp_path / "kept/train/00000099.jpg").write_bytes(b"never named")
    with kept(tmp_path / "kept", most=2) as keeper:
        assert see(keeper, third, 0.7)
    names = sorted(path.name for path in (tmp_path / "kept/train").iterdir())
    assert names == ["00000001.jpg", "00000003.jpg"]
    assert [record.id for record in read_dataset(tmp_path / "kept", "train").images] == [1, 3]


def test_a_folder_that_was_labelled_is_not_written_into(tmp_path: Path) -> None:
    with kept(tmp_path / "kept") as keeper:
        see(keeper, pictures(1, seed=1)[0], 0.6)
    path = tmp_path / "kept/annotations/instances_train.json"
    document = json.loads(path.read_text())
    del document["annotations"][0]["proposal"]
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="may have been labelled"), kept(tmp_path / "kept"):
        pass
    assert json.loads(path.read_text()) == document


def test_labels_that_somebody_makes_meanwhile_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "kept/annotations/instances_train.json"
    with (
        pytest.raises(UserError, match="was changed while pictures were kept there"),
        kept(tmp_path / "kept") as keeper,
    ):
        see(keeper, pictures(1, seed=1)[0], 0.6)
        keeper.flush()
        path.write_text('{"labelled": "by hand"}')
    assert path.read_text() == '{"labelled": "by hand"}'


def test_a_folder_of_something_else_or_of_other_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no set of pictures to label"), kept(tmp_path / "mine"):
        pass
    with kept(tmp_path / "kept"):
        pass
    other = Stub()
    other.classes = CLASSES[:1]
    with (
        pytest.raises(UserError, match="set of pictures to label with another classes"),
        keeping(tmp_path / "kept", 3, other),
    ):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("most", [0, MOST + 1])
def test_a_number_of_pictures_out_of_bounds_is_refused(tmp_path: Path, most: int) -> None:
    with pytest.raises(UserError, match=f"from 1 to {MOST}"), kept(tmp_path / "kept", most):
        pass
    assert not (tmp_path / "kept").exists()
