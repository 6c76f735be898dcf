"""DOODS, asked as Home Assistant's client does: base64 in JSON."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from detheads.deploy import Detections, Detector
from tests.export.toy import Toy

SIZE = np.array([640, 480, 640, 480])


@pytest.fixture(scope="module")
def picture(toy: Toy) -> bytes:
    return (toy.images / "bild 5.png").read_bytes()


@pytest.fixture(scope="module")
def found(detector: Detector, picture: bytes) -> Detections:
    return detector(picture)


def asked(client: httpx.Client, picture: bytes, **changed: Any) -> httpx.Response:
    """What pydoods sends."""
    data = base64.b64encode(picture).decode()
    return client.post("/detect", json={"data": data, "detector_name": "default", "detect": {}, "id": ""} | changed)


def boxes(answer: httpx.Response) -> Any:
    entries = answer.json()["detections"]
    return np.array([[entry[side] for side in ("left", "top", "right", "bottom")] for entry in entries]).reshape(-1, 4)


def test_the_detectors_are_the_bundles(client: httpx.Client, detector: Detector) -> None:
    (entry,) = client.get("/detectors").json()["detectors"]
    assert (entry["name"], entry["labels"]) == ("toy", list(detector.class_names))
    assert {"width", "height"} <= entry.keys()


@pytest.mark.parametrize("name", ["default", "toy", "", None])
def test_detections_are_shares_of_the_picture_in_per_cent(
    name: str | None, client: httpx.Client, picture: bytes, found: Detections
) -> None:
    answer = asked(client, picture, detector_name=name, detect={"*": 70}, id="42")
    expected = found.above(0.7)
    assert len(expected) > 3
    assert answer.json()["id"] == "42"
    entries = answer.json()["detections"]
    assert [entry["label"] for entry in entries] == list(expected.names)
    np.testing.assert_allclose([entry["confidence"] for entry in entries], 100 * expected.scores, rtol=1e-6)
    np.testing.assert_allclose(boxes(answer) * SIZE, expected.boxes, atol=1e-3)


def test_a_bundle_called_default_is_what_default_means(serve: Callable[..., Any], bundle: Path, picture: bytes) -> None:
    with serve({"toy": bundle, "default": bundle}) as (client, _):
        assert [entry["name"] for entry in client.get("/detectors").json()["detectors"]] == ["toy", "default"]
        assert {asked(client, picture, detector_name=name).status_code for name in ("toy", "default", "", None)} == {
            200
        }


def test_each_class_has_its_own_lowest_confidence(client: httpx.Client, picture: bytes, found: Detections) -> None:
    best = found.names[0]
    (only,) = asked(client, picture, detect={best: 100 * float(found.scores[0]) - 1e-4}).json()["detections"]
    assert only["label"] == best
    others = asked(client, picture, detect={"*": 0, best: 100}).json()["detections"]
    assert len(others) == sum(name != best for name in found.names)


def test_without_rules_each_class_is_given_from_its_best_score(
    client: httpx.Client, picture: bytes, found: Detections, detector: Detector
) -> None:
    assert len(boxes(asked(client, picture))) == len(found.above(detector.draw_scores))


@pytest.mark.parametrize("covers", [True, False])
def test_a_region_has_rules_of_its_own(covers: bool, client: httpx.Client, picture: bytes, found: Detections) -> None:
    region = {"id": "left", "top": 0.1, "left": 0, "bottom": 0.9, "right": 0.7, "detect": {"*": 0}, "covers": covers}
    answer = asked(client, picture, regions=[region])
    shares = found.boxes / SIZE
    if covers:
        inside = (shares[:, :2] >= [0, 0.1]).all(1) & (shares[:, 2:] <= [0.7, 0.9]).all(1)
    else:
        inside = (shares[:, :2] <= [0.7, 0.9]).all(1) & (shares[:, 2:] >= [0, 0.1]).all(1)
    assert 0 < inside.sum() < len(found)
    np.testing.assert_allclose(boxes(answer), shares[inside], atol=1e-6)
    assert {entry["region_id"] for entry in answer.json()["detections"]} == {"left"}


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "no base64": ({"data": "http://example.org/a.jpg"}, 400, "addresses are not fetched"),
    "no ASCII": ({"data": "größte"}, 400, "is not base64"),
    "no picture": ({"data": "AAAA"}, 415, "is not an image"),
    "an unknown detector": ({"detector_name": "toys"}, 404, "Did you mean 'toy'"),
    "a confidence above 100": ({"detect": {"*": 101}}, 400, "detect.*"),
    "preprocessing": ({"preprocess": ["grayscale"]}, 400, "neither changed"),
    "a drawn picture": ({"image": ".jpg"}, 400, "nor sent back"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence(case: str, client: httpx.Client, picture: bytes) -> None:
    changed, status, words = WRONG[case]
    answer = asked(client, picture, **changed)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_the_key_is_the_server_s_token(serve: Callable[..., Any], bundle: Path, picture: bytes) -> None:
    with serve({"toy": bundle}, token="geheim") as (client, _):
        assert client.get("/detectors").status_code == 401
        assert asked(client, picture).status_code == 401
        client.headers["doods-auth-key"] = "geheim"
        assert client.get("/detectors").status_code == 200
        assert asked(client, picture).status_code == 200
