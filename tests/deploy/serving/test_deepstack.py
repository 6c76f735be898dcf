"""DeepStack's interface, asked as its clients ask: ``requests.post(url, files={"image": ...}, data={...})``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from detheads.deploy import Detector
from tests.export.toy import Toy

PATH = "/v1/vision/detection"


def posted(client: httpx.Client, picture: bytes, path: str = PATH, **fields: str) -> httpx.Response:
    """What ``requests`` sends: a file called like its field, of no stated type."""
    return client.post(path, files={"image": ("image", picture)}, data=fields)


@pytest.fixture(scope="module")
def picture(toy: Toy) -> bytes:
    return (toy.images / "bild 5.png").read_bytes()


def test_predictions_are_the_detections_in_whole_pixels(
    client: httpx.Client, picture: bytes, detector: Detector
) -> None:
    answer = posted(client, picture, api_key="", min_confidence="0.7").json()
    found = detector(picture).above(0.7)
    assert len(found) > 3
    assert (answer["success"], answer["count"]) == (True, len(found))
    assert [entry["label"] for entry in answer["predictions"]] == list(found.names)
    np.testing.assert_allclose([entry["confidence"] for entry in answer["predictions"]], found.scores)
    sides = ("x_min", "y_min", "x_max", "y_max")
    boxes = [[entry[side] for side in sides] for entry in answer["predictions"]]
    assert all(isinstance(side, int) for box in boxes for side in box)
    np.testing.assert_allclose(boxes, found.boxes, atol=0.5)


def test_without_a_confidence_each_class_is_given_from_its_best_score(
    client: httpx.Client, picture: bytes, detector: Detector
) -> None:
    shown = detector(picture).above(detector.draw_scores)
    assert 0 < len(shown) < len(detector(picture))
    assert posted(client, picture).json()["count"] == len(shown)


def test_frigate_reads_its_rows(client: httpx.Client, picture: bytes, detector: Detector) -> None:
    """The loop of Frigate's plugin ``deepstack``: it ends at the first one below 0.4, and divides by the size."""
    predictions = posted(client, picture, api_key="").json().get("predictions")
    rows = []
    for entry in predictions:
        if entry["confidence"] < 0.4:
            break
        rows.append([entry["y_min"] / 480, entry["x_min"] / 640, entry["y_max"] / 480, entry["x_max"] / 640])
    assert len(rows) == len(predictions)
    assert 0 <= np.min(rows) < np.max(rows) <= 1


def test_bundles_are_custom_models(serve: Callable[..., Any], bundle: Path, picture: bytes) -> None:
    with serve({"front": bundle, "back": bundle}) as (client, _):
        for ask in (client.get, client.post):
            assert ask("/v1/vision/custom/list").json() == {"success": True, "models": ["front", "back"]}
        assert posted(client, picture, "/v1/vision/custom/back").json()["success"]


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "no form": ({"content": b"\xff\xd8"}, 400, "send a form"),
    "no picture": ({"data": {"min_confidence": "0.4"}}, 400, "send a form"),
    "another field": ({"files": {"photo": b"x"}}, 400, "no file in its field 'image'"),
    "empty": ({"files": {"image": b""}}, 400, "empty"),
    "another file": ({"files": {"image": b"GET / HTTP"}}, 415, "is not an image"),
    "no number": ({"files": {"image": b"x"}, "data": {"min_confidence": "low"}}, 400, "from 0 to 1, not 'low'"),
    "NaN": ({"files": {"image": b"x"}, "data": {"min_confidence": "nan"}}, 400, "from 0 to 1"),
    "per cent": ({"files": {"image": b"x"}, "data": {"min_confidence": "40"}}, 400, "from 0 to 1, not '40'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_a_failure_with_its_status(case: str, client: httpx.Client) -> None:
    request, status, words = WRONG[case]
    answer = client.post(PATH, **request)
    assert (answer.status_code, answer.json()["success"]) == (status, False)
    assert words in answer.json()["error"]


def test_an_unknown_model_is_named(client: httpx.Client, picture: bytes) -> None:
    answer = posted(client, picture, "/v1/vision/custom/toys")
    assert (answer.status_code, answer.json()["success"]) == (404, False)
    assert "Did you mean 'toy'" in answer.json()["error"]


def test_the_key_is_the_server_s_token(serve: Callable[..., Any], bundle: Path, picture: bytes) -> None:
    with serve({"toy": bundle}, token="schlüssel") as (client, _):
        for path in (PATH, "/v1/vision/custom/toy", "/v1/vision/custom/unknown", "/v1/vision/custom/list"):
            for key in ({}, {"api_key": "schlussel"}):
                refused = posted(client, picture, path, **key)
                assert (refused.status_code, refused.json()["success"]) == (401, False)
        assert client.get("/v1/vision/custom/list").status_code == 401
        assert client.post("/v1/vision/custom/list", data={"api_key": "schlüssel"}).json()["models"] == ["toy"]
        assert posted(client, picture, api_key="schlüssel").json()["success"]
