"""Altered annotation files of other tools, read for ``data convert --from`` and ``data validate --from``."""

import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detheads.data.foreign import read_foreign
from detheads.data.validate import validate_dataset
from tests.fuzz.guard import replaced, survives
from tests.fuzz.mutate import file_bytes, json_bytes, texts
from tests.fuzz.test_inputs import cases

pytest.importorskip("globox")
pytest.importorskip("defusedxml")

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>12</ymax></bndbox>"
RECTANGLE = {"x": 1, "y": 2, "width": 30, "height": 40, "rotation": 5, "rectanglelabels": ["a"]}
RING = {"points": [[1, 2], [30, 40], [5, 6]], "polygonlabels": ["b"]}
SIZE = {"original_width": 40, "original_height": 30}
FILES: dict[str, tuple[str, object]] = {
    "voc": (
        "a.xml",
        "<annotation><filename>a.png</filename><size><width>40</width><height>30</height></size>"
        f"<object><name>dog</name><difficult>0</difficult>{BOX}</object></annotation>",
    ),
    "cvat": (
        "all.xml",
        '<annotations><image id="0" name="a.png" subset="train" width="40" height="30">'
        '<box label="dog" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
        '<polygon label="fox" points="1,2;11,2;6,22"/></image></annotations>',
    ),
    "kitti": (
        "a.txt",
        "Red car 0 0 0 4 3 30 20 -1 -1 -1 -1000 -1000 -1000 -10\nDontCare 0 0 0 1 2 3 4 0 0 0 0 0 0 0\n",
    ),
    "open_images": ("train-boxes.csv", "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,/m/1,0.1,0.5,0.2,0.4,0\n"),
    "labelme": (
        "a.json",
        {
            "imagePath": "a.png",
            "imageWidth": 40,
            "imageHeight": 30,
            "shapes": [
                {"label": "a", "shape_type": "circle", "points": [[1, 2], [3, 4]]},
                {"label": "b", "shape_type": "rectangle", "points": [[1, 2], [5, 6]]},
            ],
        },
    ),
    "via": (
        "all.json",
        {
            "a": {
                "filename": "a.png",
                "regions": [
                    {
                        "shape_attributes": {"name": "rect", "x": 4, "y": 3, "width": 26, "height": 17},
                        "region_attributes": {"kind": "dog"},
                    },
                    {
                        "shape_attributes": {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [3, 4]},
                        "region_attributes": {"kind": "fox"},
                    },
                ],
            }
        },
    ),
    "label_studio": (
        "all.json",
        [
            {
                "data": {"image": "/data/upload/1/0123abcd-a.png"},
                "annotations": [
                    {"result": [{"type": "rectanglelabels", "value": RECTANGLE, **SIZE}, {"value": RING, **SIZE}]}
                ],
            }
        ],
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each format, with one picture and one annotation file."""
    root = tmp_path_factory.mktemp("foreign")
    for name, (file, content) in FILES.items():
        (root / name).mkdir()
        Image.new("RGB", (40, 30)).save(root / name / "a.png")
        (root / name / file).write_text(content if isinstance(content, str) else json.dumps(content))
        assert read_foreign(root / name, name)[0].images
    return root


@cases(0.1, by_default=40)
@given(st.data())
def test_annotation_files_of_other_tools(folders: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    file, content = FILES[name]
    path = folders / name / file
    text = path.read_text(encoding="utf-8")
    altered = texts(text) if isinstance(content, str) else json_bytes(content)
    skip_bad = data.draw(st.booleans())
    with replaced(path, data.draw(st.one_of(altered, altered, file_bytes(text.encode())))):
        survives(partial(read_foreign, skip_bad=skip_bad), folders / name, name)
        survives(partial(validate_dataset, format_name=name, size=(64, 64)), folders / name)
