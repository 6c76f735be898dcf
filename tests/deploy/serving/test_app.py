"""Pictures over HTTP: what the detector finds, or one sentence with the right status."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from detheads.deploy import Detector
from tests.export.toy import Toy


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("form", [False, True])
def test_a_picture_gets_the_detections_of_the_detector(
    form: bool, client: httpx.Client, detector: Detector, toy: Toy
) -> None:
    path = toy.images / "bild 4.png"
    body: dict[str, Any] = {"files": {"image": path.open("rb")}} if form else {"content": path.read_bytes()}
    answer = client.post("/v1/detect", **body).json()
    expected = detector(path).to_dict()
    assert expected["detections"]
    assert {key: answer[key] for key in expected} == expected
    assert (answer["model"], answer["width"], answer["height"]) == ("toy", 257, 131)
    assert answer["timing_ms"]["total"] >= answer["timing_ms"]["inference"] > 0


def test_the_lowest_score_may_be_named(client: httpx.Client, detector: Detector, toy: Toy) -> None:
    path = toy.images / "bild 4.png"
    found = detector(path)
    middle = float(found.scores[len(found) // 2])
    answer = client.post("/v1/detect", params={"score": middle}, content=path.read_bytes()).json()
    assert answer["detections"] == found.above(middle).to_dict()["detections"]


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "the upload is empty"),
        (b"no picture at all", 415, "is not an image but text"),
        (encoded(Image.new("RGB", (40, 40)))[:60], 400, "cannot be decoded"),
        (encoded(Image.new("L", (800, 501))), 413, "800x501 pixels, more than 400,000"),
        (bytes(2 << 20), 413, "more than 1,048,576 bytes"),
        (encoded(Image.new("RGB", (40, 40)), "ICO"), 415, "an icon"),
    ],
)
def test_what_is_no_picture_of_the_limits_is_refused(
    content: bytes, status: int, words: str, client: httpx.Client
) -> None:
    answer = client.post("/v1/detect", content=content)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"files": {"photo": b"x"}}, 400, "no file in its field 'image'"),
        ({"content": b"--", "headers": {"content-type": "multipart/form-data"}}, 400, "Missing boundary"),
        ({"content": b"x", "params": {"model": "toys"}}, 404, "Did you mean 'toy'?"),
        ({"content": b"x", "params": {"score": "high"}}, 422, "query.score"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    request_: dict[str, Any], status: int, words: str, client: httpx.Client
) -> None:
    answer = client.post("/v1/detect", **request_)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_unknown_paths_and_methods_are_refused_in_the_same_form(client: httpx.Client) -> None:
    assert client.get("/nothing").json() == {"error": "GET /nothing: Not Found."}
    assert client.get("/v1/detect").status_code == 405


def test_the_models_are_described(client: httpx.Client, detector: Detector) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["state"], model["classes"]) == ("toy", "verified", list(detector.class_names))
    assert model["input"] == {"height": 160, "width": 160}


def test_several_bundles_are_told_apart_by_name(
    serve: Callable[..., Any], bundle: Path, toy: Toy, detector: Detector
) -> None:
    with serve({"one": bundle, "two": bundle}, types=("JPEG",)) as (client, _):
        jpeg = encoded(Image.open(toy.images / "bild 4.png").convert("RGB"), "JPEG")
        answers = [client.post("/v1/detect", params=which, content=jpeg).json() for which in ({}, {"model": "two"})]
        assert [answer["model"] for answer in answers] == ["one", "two"]
        assert answers[0]["detections"] == answers[1]["detections"] == detector(jpeg).to_dict()["detections"]
        refused = client.post("/v1/detect", content=(toy.images / "bild 4.png").read_bytes())
        assert (refused.status_code, refused.json()["error"]) == (
            415,
            "pictures of type PNG are not taken here; send JPEG.",
        )
