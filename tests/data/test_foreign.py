"""Datasets in other tools' formats: what they mark is what is read, and what is hostile is refused in one sentence."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data import list_splits, read_dataset
from detheads.data.dataset import Dataset
from detheads.data.foreign import known_formats, read_foreign
from detheads.foundation.errors import UserError
from detheads.foundation.extras import extras_of

pytest.importorskip("globox")
pytest.importorskip("defusedxml")

Objects = list[tuple[str, float, float, float, float]]
TRUTH: dict[str, Objects] = {
    "a.png": [("red fox", 4, 3, 30, 20), ("dog", 10, 10, 39, 29)],
    "b.png": [("dog", 1, 2, 11, 22)],
    "c.png": [],
}


def _picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "grey").save(path)


def _pictures(folder: Path) -> Path:
    for name in TRUTH:
        _picture(folder / name)
    return folder


def _objects(part: Dataset) -> dict[str, Objects]:
    """The objects of each picture as plain values, in order."""
    return {
        image.file_name.rpartition("/")[2]: [
            (part.class_names[label], *np.round(box, 6).tolist())
            for label, box in zip(objects.labels, objects.boxes, strict=True)
        ]
        for image, objects in zip(part.images, part.objects, strict=True)
    }


def _by_globox(method: str, target: str, images: str = ".", **options: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        import globox

        _pictures(folder / images)
        rows = (
            globox.Annotation(
                name,
                (40, 30),
                [globox.BoundingBox(label=c, xmin=x1, ymin=y1, xmax=x2, ymax=y2) for c, x1, y1, x2, y2 in objects],
            )
            for name, objects in TRUTH.items()
        )
        if "image_folder" in options:
            options["image_folder"] = folder
        getattr(globox.AnnotationSet(rows), method)(folder / target, **options)

    return write


def _by_labelformat(output: str, images: str, **options: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        formats = pytest.importorskip("labelformat.formats")
        from labelformat.model.bounding_box import BoundingBox, BoundingBoxFormat
        from labelformat.model.category import Category
        from labelformat.model.image import Image as Picture
        from labelformat.model.object_detection import (
            ImageObjectDetection,
            ObjectDetectionInput,
            SingleObjectDetection,
        )

        classes = [Category(id=0, name="dog"), Category(id=1, name="red fox")]

        class Source(ObjectDetectionInput):
            @staticmethod
            def add_cli_arguments(parser: Any) -> None: ...

            def get_categories(self) -> Any:
                return classes

            def get_images(self) -> Any:
                return [Picture(id=i, filename=name, width=40, height=30) for i, name in enumerate(TRUTH)]

            def get_labels(self) -> Any:
                for picture in self.get_images():
                    marks = [
                        SingleObjectDetection(
                            category=classes[c == "red fox"],
                            box=BoundingBox.from_format(list(box), BoundingBoxFormat.XYXY),
                        )
                        for c, *box in TRUTH[picture.filename]
                    ]
                    yield ImageObjectDetection(image=picture, objects=marks)

        _pictures(folder / images)
        places = {key: value if key == "output_split" else folder / value for key, value in options.items()}
        for place in places.values():
            if isinstance(place, Path):
                place.parent.mkdir(parents=True, exist_ok=True)
        getattr(formats, f"{output}ObjectDetectionOutput")(**places).save(Source())

    return write


WRITTEN: list[tuple[str, str | None, Callable[[Path], object]]] = [
    ("globox voc", "voc", _by_globox("save_pascal_voc", "Annotations", "JPEGImages")),
    ("globox cvat", "cvat", _by_globox("save_cvat", "annotations.xml", "images")),
    ("globox labelme", "labelme", _by_globox("save_labelme", ".")),
    ("globox via", "via", _by_globox("save_via_json", "via.json", image_folder=None)),
    ("globox open images", "open_images", _by_globox("save_openimage", "train-annotations-bbox.csv", "images")),
    ("labelformat voc", "voc", _by_labelformat("PascalVOC", ".", output_folder=".")),
    ("labelformat cvat", "cvat", _by_labelformat("CVAT", "images", output_folder=".")),
    ("labelformat kitti", "kitti", _by_labelformat("Kitti", "image_2", output_folder="label_2")),
    ("labelformat yolo", None, _by_labelformat("YOLOv8", "images", output_file="data.yaml", output_split="train")),
    ("labelformat coco", None, _by_labelformat("COCO", "train", output_file="annotations/instances_train.json")),
]


@pytest.mark.parametrize(("form", "write"), [row[1:] for row in WRITTEN], ids=[row[0] for row in WRITTEN])
def test_what_other_tools_write_is_read_alike(
    form: str | None, write: Callable[[Path], object], detheads: Callable[..., Any], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write(source)
    options = ["--from", form] if form else []
    finished = detheads("data", "convert", source, "-o", tmp_path / "out", *options, "--json")
    assert finished.code == 0, finished.err
    assert list_splits(tmp_path / "out") == ["train"]
    found = _objects(read_dataset(tmp_path / "out"))
    expected = {
        name: objects for name, objects in TRUTH.items() if objects or form != "open_images"
    }  # has no empty ones
    assert found == expected


def _write(folder: Path, name: str, content: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content, encoding="utf-8")


def _voc(objects: str, filename: str = "a.png", size: str = "<width>40</width><height>30</height>") -> str:
    return f"<annotation><filename>{filename}</filename><size>{size}</size>{objects}</annotation>"


def _voc_object(box: str = "1 2 11 12", name: str = "dog", more: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=False)
    return f"<object><name>{name}</name>{more}<bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in sides)}</bndbox></object>"


def test_a_renamed_picture_is_found_by_the_name_of_its_annotations(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _picture(tmp_path / f"{name}.png")
        _write(tmp_path, f"{name}.xml", _voc(_voc_object(), "IMG_0001.JPG"))
    (part,) = read_foreign(tmp_path, "voc")
    assert [image.file_name for image in part.images] == ["a.png", "b.png"]


def test_another_tools_dataset_is_divided(detheads: Callable[..., Any], tmp_path: Path) -> None:
    for name in "abcde":
        _picture(tmp_path / "source" / f"{name}.png")
        _write(tmp_path / "source", f"{name}.xml", _voc(_voc_object(), f"{name}.png"))
        Image.effect_noise((40, 30), ord(name)).save(tmp_path / "source" / f"{name}.png")
    assert detheads("data", "split", tmp_path / "source", "--from", "voc", "-o", tmp_path / "out").code == 0
    assert [len(read_dataset(tmp_path / "out", name).images) for name in ("train", "val")] == [4, 1]


def test_voc_lists_of_splits_difficult_objects_and_pictures_without_a_file(tmp_path: Path) -> None:
    _pictures(tmp_path / "JPEGImages")
    _write(tmp_path, "Annotations/a.xml", _voc(_voc_object() + _voc_object("5 5 9 9", more="<difficult>1</difficult>")))
    _write(tmp_path, "Annotations/b.xml", _voc(_voc_object("9 9 3 12"), "b.jpg", "<width>0</width><height>0</height>"))
    _write(tmp_path, "ImageSets/Main/train.txt", "a\n")
    _write(tmp_path, "ImageSets/Main/val.txt", "b\nc\n")
    train, val = read_foreign(tmp_path, "voc")
    assert [(part.split, list(_objects(part))) for part in (train, val)] == [
        ("train", ["a.png"]),
        ("val", ["b.png", "c.png"]),
    ]
    assert train.objects[0].crowd.tolist() == [False, True]
    assert dict(val.dropped) == {"zero or negative size": 1}
    assert train.categories == val.categories


def test_cvat_shapes_and_subsets(tmp_path: Path) -> None:
    _pictures(tmp_path / "images")
    shapes = (
        '<box label="dog" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
        '<polygon label="fox" points="1,2;11,2;6,22"/><points label="dog" points="1,1"/><tag label="night"/>'
    )
    _write(
        tmp_path,
        "annotations.xml",
        f'<annotations><image id="0" name="images/a.png" subset="Train" width="40" height="30">{shapes}'
        '</image><image id="1" name="b.png" subset="Validation" width="40" height="30"/></annotations>',
    )
    train, val = read_foreign(tmp_path / "annotations.xml", "cvat")
    assert (train.split, val.split, len(val.objects[0].boxes)) == ("train", "val", 0)
    assert _objects(train) == {"a.png": [("dog", 15, 5, 25, 25), ("fox", 1, 2, 11, 22)]}
    assert any("1 points left out" in remark for remark in train.remarks)
    _write(tmp_path, "annotations.xml", '<annotations><track id="0" label="dog"/></annotations>')
    with pytest.raises(UserError, match="tracks of a video; export it as 'CVAT for images'"):
        read_foreign(tmp_path, "cvat")


def test_labelme_shapes(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    shapes = [
        {"label": "dog", "shape_type": "rectangle", "points": [[30, 20], [4, 3]]},
        {"label": "fox", "points": [[1, 2], [11, 2], [6, 22]]},
        {"label": "fox", "shape_type": "circle", "points": [[20, 15], [20, 5]]},
        {"label": "dog", "shape_type": "line", "points": [[1, 2], [3, 4]]},
    ]
    document = {
        "imagePath": "..\\somewhere\\a.png",
        "imageHeight": 30,
        "imageWidth": 40,
        "shapes": shapes,
        "imageData": None,
    }
    _write(tmp_path, "a.json", json.dumps(document))
    (part,) = read_foreign(tmp_path, "labelme")
    assert _objects(part) == {"a.png": [("dog", 4, 3, 30, 20), ("fox", 1, 2, 11, 22), ("fox", 10, 5, 30, 25)]}


def test_via_classes_by_any_attribute(tmp_path: Path) -> None:
    _pictures(tmp_path)
    rect = {"name": "rect", "x": 4, "y": 3, "width": 26, "height": 17}
    line = {"name": "polygon", "all_points_x": [1, 11, 6], "all_points_y": [2, 2, 22]}
    entries = {
        "a.png1": {"filename": "a.png", "regions": [{"shape_attributes": rect, "region_attributes": {"Kind": "dog"}}]},
        "b.png1": {
            "filename": "b.png",
            "regions": {"0": {"shape_attributes": line, "region_attributes": {"pose": "left", "class": "fox"}}},
        },
    }
    _write(tmp_path, "project.json", json.dumps({"_via_img_metadata": entries}))
    (part,) = read_foreign(tmp_path, "via")
    assert _objects(part) == {"a.png": [("dog", 4, 3, 30, 20)], "b.png": [("fox", 1, 2, 11, 22)]}


def test_label_studio_tasks(tmp_path: Path) -> None:
    for name in ("my pic.png", "b.png", "c.png", "89abcdef-d.png"):
        _picture(tmp_path / "media" / name)

    def region(kind: str, **value: Any) -> dict[str, Any]:
        return {"type": kind, "original_width": 40, "original_height": 30, "value": value}

    box = region("rectanglelabels", x=10, y=10, width=65, height=50, rotation=0, rectanglelabels=["dog"])
    turned = region("rectanglelabels", x=50, y=10, width=20, height=10, rotation=90, rectanglelabels=["dog"])
    ring = region("polygonlabels", points=[[10, 10], [20, 10], [15, 50]], polygonlabels=["fox"])
    tasks = [
        {
            "data": {"image": "/data/local-files/?d=media/my%20pic.png"},
            "annotations": [{"result": [box, turned, ring]}],
        },
        {
            "data": {"image": "/data/upload/1/0123abcd-b.png"},
            "annotations": [{"was_cancelled": True, "result": [box]}, {"result": [ring]}, {"result": [box]}],
        },
        {"data": {"image": "/data/upload/1/89abcdef-d.png"}, "annotations": []},  # as Label Studio itself keeps it
        {"image": "s3://bucket/media/c.png", "label": [box["value"] | {"original_width": 40, "original_height": 30}]},
    ]
    _write(tmp_path, "tasks.json", json.dumps(tasks))
    (part,) = read_foreign(tmp_path, "label_studio")
    first, fox = ("dog", 4, 3, 30, 18), ("fox", 4, 3, 8, 15)
    # A quarter turn about the upper left corner (20, 3) lays 8x3 pixels to its left.
    assert _objects(part) == {
        "my pic.png": [first, ("dog", 17, 3, 20, 11), fox],
        "b.png": [fox],
        "c.png": [first],
        "89abcdef-d.png": [],
    }


def test_kitti_lines(tmp_path: Path) -> None:
    _pictures(tmp_path / "image_2")
    rest = "-1 -1 -1 -1000 -1000 -1000 -10"
    lines = ("Car 0.00 0 -1.58 4 3 30 20", "Person sitting 0 0 0 1 2 11 22", "DontCare -1 -1 -10 5 5 9 9")
    _write(tmp_path, "label_2/a.txt", "".join(f"{line} {rest}\n" for line in lines))
    _write(tmp_path, "label_2/b.txt", "")
    _write(tmp_path, "readme.txt", "nothing of the kind")
    (part,) = read_foreign(tmp_path, "kitti")
    assert _objects(part) == {"a.png": [("Car", 4, 3, 30, 20), ("Person sitting", 1, 2, 11, 22)], "b.png": []}


def test_open_images_names_groups_and_splits(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("validation", "b")):
        _picture(tmp_path / split / f"{name}.png")
        row = f"{name},/m/1,1,0.1,0.5,0.2,0.4,{int(name == 'b')}"
        header = "ImageID,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf"
        _write(tmp_path, f"{split}-annotations-bbox.csv", f"{header}\n{row}\n")
    _write(tmp_path, "class-descriptions-boxable.csv", '/m/1,"Dog, wet"\n')
    train, val = read_foreign(tmp_path, "open_images")
    assert (train.split, _objects(train)) == ("train", {"a.png": [("Dog, wet", 4, 6, 20, 12)]})
    assert (val.split, val.objects[0].crowd.tolist()) == ("val", [True])


def test_pictures_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        _picture(tmp_path / split / "a.png")
        _write(tmp_path, f"{split}/a.xml", _voc(_voc_object(name=split)))
    train, val = read_foreign(tmp_path, "voc")
    assert [part.images[0].file_name for part in (train, val)] == ["train/a.png", "val/a.png"]
    assert [part.class_names[part.objects[0].labels[0]] for part in (train, val)] == ["train", "val"]
    _write(tmp_path, "labels/a.xml", (tmp_path / "val" / "a.xml").read_text())
    with pytest.raises(UserError, match=r"may be train/a\.png or val/a\.png; name its folder"):
        read_foreign(tmp_path, "voc")


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + _voc(_voc_object(name="&b;"))
READS = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>' + _voc(_voc_object(name="&x;"))


@pytest.mark.parametrize(
    ("form", "name", "content", "message"),
    [
        ("voc", "a.xml", BOMB, "document type or entities"),
        ("voc", "a.xml", READS, "document type or entities"),
        ("voc", "a.xml", BOMB.encode("utf-16"), "document type or entities"),
        ("cvat", "a.xml", BOMB, "document type or entities"),
        ("voc", "a.xml", "<annotation>", "not readable XML"),
        ("voc", "a.xml", '<?xml version="1.0" encoding="no-such"?><annotation/>', "not readable XML"),
        ("voc", "a.xml", "<a>" * 200_000, "not readable XML"),
        ("voc", "a.xml", _voc(_voc_object("1 2 3")), "object 1 has no name or no whole 'bndbox'"),
        ("voc", "a.xml", _voc(_voc_object("1 2 3 many")), "object 1 has no name or no whole 'bndbox'"),
        ("via", "v.json", '{"a": {"filename": "../../etc/no.png", "regions": []}}', "the picture '../../etc/no.png'"),
        ("via", "v.json", '{"a": {"filename": "aa.png", "regions": []}}', "Did you mean 'a.png'?"),
        ("voc", "a.xml", _voc(_voc_object(), size="<width>30</width><height>40</height>"), "its annotation says 30x40"),
        ("labelme", "a.json", "[" * 100_000, "deep"),
        ("labelme", "a.json", '{"shapes": [1], "imagePath": "a.png"}', "shape 1 has no label"),
        ("labelme", "a.json", '{"shapes": [{"label": 1, "points": [["x"]]}], "imagePath": "a.png"}', "shape 1 has no"),
        ("via", "a.json", '{"a": {"filename": "a.png", "regions": [{}]}}', "region 1 of 'a.png'"),
        ("label_studio", "a.json", '[{"image": "a.png", "tag": [{"rectanglelabels": ["a"]}]}]', "region 1 of 'a.png'"),
        ("kitti", "a.txt", "Car 0 0 0 1 2 3 4 0 0 0 0 0 0 0\nCar 1 2\n", "line 2 is not a class and 14 numbers"),
        ("open_images", "a.csv", "ImageID,LabelName,XMin,YMin,XMax,YMax\na,b,0,0,1\n", "row 2 has no four numbers"),
        ("open_images", "a.csv", b"ImageID\xff", "UTF-8"),
        ("labelme", "a.csv", "", "holds no LabelMe JSON files"),
        ("voc", "a.xml", "<html/>", "holds no Pascal VOC XML files"),
    ],
)  # fmt: skip
def test_what_is_broken_or_hostile_is_refused_in_one_sentence(
    detheads: Callable[..., Any], tmp_path: Path, form: str, name: str, content: str | bytes, message: str
) -> None:
    folder = tmp_path / "source"
    _picture(folder / "a.png")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    finished = detheads("data", "convert", folder, "--from", form, "-o", tmp_path / "out")
    assert finished.code == 1
    assert message in finished.err
    assert finished.err.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_foreign_dataset_is_validated_as_it_is(detheads: Callable[..., Any], tmp_path: Path) -> None:
    for split in ("train", "val"):
        _picture(tmp_path / split / f"{split}.png")
        # Corner and size, where the format has two corners.
        _write(
            tmp_path, f"{split}/{split}.xml", _voc(_voc_object("20 10 10 9") + _voc_object("25 20 5 8"), f"{split}.png")
        )
    finished = detheads("data", "validate", tmp_path, "--from", "voc", "--json")
    result = json.loads(finished.out)
    assert (finished.code, [part["split"] for part in result["splits"]]) == (1, ["train", "val"])
    found = [finding["sentence"] for finding in result["judgement"] if finding["kind"] == "other box convention"]
    assert ["read as corner and size; this layout states corners in pixels" in sentence for sentence in found] == [
        True
    ] * 2
    assert any("read as corner and size" in remark for part in read_foreign(tmp_path, "voc") for remark in part.remarks)
    one = json.loads(detheads("data", "validate", tmp_path, "--from", "voc", "--split", "val", "--json").out)
    assert [part["split"] for part in one["splits"]] == ["val"]
    missing = detheads("data", "validate", tmp_path, "--from", "voc", "--split", "test")
    assert "has no split 'test'; it has train, val" in missing.err


def test_what_is_bad_is_left_out_on_request(detheads: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "source"
    _pictures(folder)
    _write(folder, "a.xml", _voc(_voc_object() + _voc_object("1 2 3")))
    _write(folder, "b.xml", BOMB)
    finished = detheads("data", "convert", folder, "--from", "voc", "-o", tmp_path / "out", "--skip-bad", "--json")
    result = json.loads(finished.out)
    assert (finished.code, result["images"], result["boxes"]) == (0, 1, 1)
    assert len(result["skipped"]) == 2


def test_a_subset_cannot_name_a_folder_outside(detheads: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "source"
    _picture(folder / "a.png")
    box = '<box label="dog" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    image = f'<image name="a.png" subset="../../up" width="40" height="30">{box}</image>'
    _write(folder, "annotations.xml", f"<annotations>{image}</annotations>")
    before = sorted(tmp_path.iterdir())
    assert detheads("data", "convert", folder, "--from", "cvat", "-o", tmp_path / "out").code == 0
    (split,) = list_splits(tmp_path / "out")
    assert "/" not in split
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.xml")
    _write(tmp_path, "a.xml", _voc(_voc_object()))
    assert len(read_foreign(tmp_path, "voc")) == 1


def test_an_unknown_format_and_a_missing_extra_are_told_in_one_sentence(
    detheads: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _picture(tmp_path / "a.png")
    _write(tmp_path, "a.xml", _voc(_voc_object()))
    unknown = detheads("data", "convert", tmp_path, "--from", "vok", "-o", tmp_path / "out")
    assert (unknown.code, "'voc'" in unknown.err) == (2, True)
    assert "voc" in known_formats()
    if not extras_of("globox"):
        pytest.skip("the package was installed before it had this extra")
    monkeypatch.setitem(sys.modules, "globox", None)
    missing = detheads("data", "convert", tmp_path, "--from", "voc", "-o", tmp_path / "out")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert "this command needs globox" in missing.err
    assert "pip install 'detheads[" in missing.err
