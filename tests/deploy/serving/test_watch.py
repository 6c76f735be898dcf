"""A bundle replaced while it is served: no request fails, and a broken one never takes its place."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.foundation.bundle import read_manifest, write_manifest
from tests.deploy.serving.test_gate import until
from tests.export.toy import Toy


@pytest.fixture
def folder(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the toy that may be replaced."""
    return Path(shutil.copytree(bundle, tmp_path / "served.detheads"))


def put_in_place(new: Path, folder: Path) -> None:
    folder.rename(folder.with_name(f"old of {new.name}"))
    new.rename(folder)


def other(bundle: Path, path: Path) -> Path:
    """The bundle under another name, as a new version."""
    copy = Path(shutil.copytree(bundle, path))
    write_manifest(copy, read_manifest(copy).model_copy(update={"name": "other"}))
    return copy


def test_a_replaced_bundle_is_served_and_no_request_fails(
    serve: Callable[..., Any], folder: Path, bundle: Path, toy: Toy
) -> None:
    content = (toy.images / "bild 4.png").read_bytes()
    with serve({"toy": folder}, watch_seconds=0.05) as (client, models):
        before, answers, stop = models.get(), [], threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answers.append(client.post("/v1/detect", content=content))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        put_in_place(other(bundle, folder.with_name("new")), folder)
        assert until(lambda: models.get() is not before)
        seen = len(answers)
        assert until(lambda: len(answers) > seen + 4)
        stop.set()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} == {200}
        assert len({str(answer.json()["detections"]) for answer in answers}) == 1
        assert client.get("/v1/models").json()["models"][0]["bundle"] == "other"
        assert 'detheads_reloads_total{model="toy",outcome="served"} 1.0' in client.get("/metrics").text


def test_a_broken_replacement_is_told_and_the_old_one_kept_until_a_good_one_comes(
    serve: Callable[..., Any], folder: Path, bundle: Path, toy: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    content = (toy.images / "bild 4.png").read_bytes()
    with serve({"toy": folder}, watch_seconds=0.05) as (client, models):
        before = models.get()
        broken = Path(shutil.copytree(bundle, folder.with_name("broken")))
        graph = broken / before.detector.manifest.onnx.file
        graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
        put_in_place(broken, folder)
        assert until(lambda: "toy" in models.refused)
        (told,) = client.get("/v1/models").json()["models"]
        assert "SHA-256 differs" in told["replacement_refused"]
        assert "the old one is kept" in caplog.text
        assert client.post("/v1/detect", content=content).status_code == 200
        assert models.get() is before
        put_in_place(other(bundle, folder.with_name("good")), folder)
        assert until(lambda: models.get() is not before)
        assert "replacement_refused" not in client.get("/v1/models").json()["models"][0]


def test_a_folder_that_is_still_being_written_is_left_alone(serve: Callable[..., Any], folder: Path) -> None:
    with serve({"toy": folder}, watch_seconds=0.05) as (_, models):
        for number in range(8):
            (folder / "growing").write_bytes(bytes(number))
            assert not until(lambda: bool(models.refused), 0.04)
        assert "toy" not in models.refused
        os.remove(folder / "growing")  # noqa: PTH107
