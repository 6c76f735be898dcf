"""Who learns and who judges: the dataset's splits, a fifth of it, or folds in which every picture is judged once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detheads.data import read_dataset
from detheads.foundation.errors import UserError
from detheads.foundation.progress import silent
from detheads.make import divide as rules
from detheads.make.divide import Division, divide, subset
from detheads.make.look import check, look_at
from detheads.make.request import Request

RequestFor = Callable[..., Request]


def _divide(request: Request) -> Division:
    return divide(look_at(request), request, silent)


def test_the_datasets_own_splits_are_used_where_they_say_enough(
    scenes: Path, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "FEW_JUDGES", 4)
    division = _divide(request_for(scenes))
    assert (len(division.train.images), len(division.val.images), division.folds) == (12, 4, ())
    assert division.data == scenes


def test_without_a_validation_split_a_fifth_of_the_pictures_judges(
    without_val: Path, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "FEW_PICTURES", 10)
    request = request_for(without_val)
    first, again = _divide(request), _divide(request)
    judged = {image.file_name for image in first.val.images}
    assert 2 <= len(judged) <= 3
    assert judged.isdisjoint(image.file_name for image in first.train.images)
    assert {image.file_name for image in again.val.images} == judged
    assert read_dataset(first.data, "val").class_names == first.train.class_names


def test_few_pictures_are_judged_in_folds_each_picture_once(scenes: Path, request_for: RequestFor) -> None:
    division = _divide(request_for(scenes))
    every = {image.id for image in division.train.images}
    assert len(every) == 16  # those of both splits: 4 to judge by are too few
    held = [image.id for _, val in division.folds for image in val.images]
    assert sorted(held) == sorted(every)
    for train, val in division.folds:
        assert {image.id for image in train.images} == every - {image.id for image in val.images}


def test_a_subset_has_as_many_pictures_as_asked_for(scenes: Path) -> None:
    every = read_dataset(scenes, "train")
    part = subset(every, 5, seed=0)
    assert len(part.images) == 5
    assert set(part.images) <= set(every.images)
    assert subset(every, 5, seed=0) == part
    assert subset(every, 99, seed=0) is every


def _rewrite(data: Path, change: Callable[[dict[str, list[dict[str, object]]]], None]) -> None:
    path = data / "annotations" / "instances_train.json"
    annotations = json.loads(path.read_text())
    change(annotations)
    path.write_text(json.dumps(annotations))


def test_a_class_without_boxes_is_told(without_val: Path, request_for: RequestFor) -> None:
    _rewrite(without_val, lambda each: each["categories"].append({"id": 99, "name": "unicorn"}))
    request = request_for(without_val)
    assert any(
        "unicorn" in sentence and "cannot learn it" in sentence for sentence in check(look_at(request), request, silent)
    )


def test_a_dataset_without_any_box_is_refused(without_val: Path, request_for: RequestFor) -> None:
    _rewrite(without_val, lambda each: each["annotations"].clear())
    with pytest.raises(UserError, match=r"has no box to learn from in its split train \(12 images\)"):
        look_at(request_for(without_val))


def test_a_picture_that_cannot_be_read_is_refused_or_left_out(without_val: Path, request_for: RequestFor) -> None:
    (without_val / "train" / "000003.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1 error, the first: .*000003.png.*--skip-bad leaves out"):
        check(look_at(request_for(without_val)), request_for(without_val), silent)
    lenient = request_for(without_val, skip_bad=True)
    check(look_at(lenient), lenient, silent)
