"""A server observes the pictures it is sent, and answers whatever becomes of that."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image

from detheads.data import read_dataset
from detheads.deploy.monitor.observer import Observing
from detheads.deploy.serving.models import Models
from detheads.deploy.serving.settings import Settings
from detheads.foundation.errors import UserError
from tests.conftest import Finished
from tests.deploy.monitor.world import pictures
from tests.deploy.serving.conftest import running


def send(client: httpx.Client, image: Image.Image) -> None:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    assert client.post("/v1/detect", content=stream.getvalue()).status_code == 200


def eventually(told: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not told():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_drift_is_told_by_the_server_and_its_metrics_and_uncertain_pictures_are_kept(
    watched: Path, tmp_path: Path
) -> None:
    observing = Observing(monitor=True, keep=tmp_path / "kept", most=5)
    with running({"toy": watched}, Settings(threads=1, observing=observing)) as (client, models):
        for image in pictures(30, 1, lambda array: array // 3):
            send(client, image)
        eventually(lambda: client.get("/v1/monitor").json()["models"]["toy"]["pictures"] == 30)
        told = client.get("/v1/monitor").json()
        assert told["passed_over"] == 0
        assert "the pictures are darker" in told["models"]["toy"]["warnings"][0]
        distance = told["models"]["toy"]["heads"]["head"]["brightness"]["distance"]
        metrics = client.get("/metrics").text
        assert f'detheads_drift{{head="head",measure="brightness",model="toy"}} {distance}' in metrics
        assert 'detheads_drift_warnings{model="toy"} ' in metrics
        # a replaced bundle is watched anew, and its pictures are kept with those before
        models.replace(models.open("toy"))
        send(client, pictures(1, 2)[0])
        eventually(lambda: client.get("/v1/monitor").json()["models"]["toy"]["pictures"] == 1)
    dataset = read_dataset(tmp_path / "kept/toy", "train")
    assert 1 <= len(dataset.images) <= 5
    document = json.loads((tmp_path / "kept/toy/annotations/instances_train.json").read_text())
    assert all(annotation["proposal"] is True for annotation in document["annotations"])


def test_a_server_that_observes_nothing_says_so(bundle: Path) -> None:
    with running({"toy": bundle}, Settings(threads=1)) as (client, _):
        answer = client.get("/v1/monitor")
        assert (answer.status_code, "--monitor" in answer.json()["error"]) == (404, True)
        assert "detheads_drift{" not in client.get("/metrics").text


def test_a_bundle_that_cannot_be_monitored_is_not_served(bundle: Path, tmp_path: Path) -> None:
    import shutil

    from detheads.foundation.bundle import read_manifest, write_manifest

    copy = shutil.copytree(bundle, tmp_path / "toy.detheads")
    manifest = read_manifest(copy)
    write_manifest(copy, manifest.with_head(manifest.first.model_copy(update={"field": None})))
    with pytest.raises(UserError, match="nothing to compare with"):
        Models({"toy": copy}, Settings(observing=Observing(monitor=True)))


def test_several_workers_cannot_rank_pictures_together(
    bundle: Path, tmp_path: Path, detheads: Callable[..., Finished]
) -> None:
    finished = detheads("deploy", "serve", bundle, "--workers", 2, "--keep", tmp_path / "kept")
    assert finished.code == 1
    assert "--keep ranks the pictures of one process" in finished.err
    assert not (tmp_path / "kept").exists()
