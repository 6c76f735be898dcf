"""Whole makings, in processes of their own: with splits and killed in the middle, and of few pictures in folds."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.foundation.bundle import read_manifest
from detheads.make.budget import parse_budget
from detheads.make.request import Request

OPTIONS = ("--size", "96", "--head", "slim_fcos", "-O", "width=32", "--precision", "fp32", "--threads", "1", "--json")


def _command(*line: object) -> list[str]:
    return [sys.executable, "-m", "detheads", "make", *map(str, line), *OPTIONS]


def _made(*line: object) -> dict[str, Any]:
    finished = subprocess.run(_command(*line), capture_output=True, text=True, timeout=900, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    answer: dict[str, Any] = json.loads(finished.stdout)
    assert read_manifest(Path(answer["bundle"])).state == "verified"
    assert abs(answer["map_drop"]) <= 0.001
    assert Path(answer["page"]).is_file()
    return answer


@pytest.mark.slow
def test_a_killed_making_goes_on_and_ends_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    from detheads.data.scenes import generate

    data = tmp_path / "my pictures"
    generate(data, 24, 12, size=96, seed=2)
    whole = _made(data, "-o", tmp_path / "whole.detheads", "--epochs", 12)
    child = subprocess.Popen(
        _command(data, "-o", tmp_path / "killed.detheads", "--epochs", 12),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    work, deadline = tmp_path / "killed.make", time.monotonic() + 300
    while not list(work.glob("*/arena-*/runs/slim_fcos/last.safetensors")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "killed.detheads").exists()
    goes_on = _made(data, "-o", tmp_path / "killed.detheads", "--epochs", 12)
    assert goes_on["AP"] == whole["AP"]
    again = _made(data, "-o", tmp_path / "killed.detheads", "--epochs", 12)
    assert again["AP"] == whole["AP"]  # and its own bundle is no obstacle
    assert again["trials"] == goes_on["trials"]


@pytest.mark.slow
def test_few_pictures_are_judged_in_folds_and_all_are_learned_from(scenes: Path, tmp_path: Path) -> None:
    answer = _made(scenes, "-o", tmp_path / "few.detheads", "--epochs", 2)
    assert answer["train_pictures"] == 16
    assert "5 folds" in answer["judged"]
    report = json.loads((tmp_path / "few.make" / "report.json").read_text())
    assert report["statistics"]["AP"] == answer["AP"]


@pytest.mark.slow
def test_time_that_is_left_goes_into_altered_copies_and_longer_trainings(
    scenes: Path, request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    from detheads.make import contenders, divide, run

    monkeypatch.setattr(divide, "FEW_JUDGES", 4)  # so that there are no folds
    monkeypatch.setattr(contenders, "FEWEST_EPOCHS", 2)
    monkeypatch.setattr(contenders, "MOST_EPOCHS", 2)
    request = request_for(
        scenes, budget=parse_budget("best"), size=(96, 96), head="slim_fcos", options={"width": 32}, precision="fp32"
    )
    made = run.make(request)
    trained = {(trial["pictures"], trial["epochs"]) for trial in made.trials}
    assert ("train", 2) in trained
    longest = max(epochs for pictures, epochs in trained if pictures == "train")
    assert longest > 2
    altered = {epochs for pictures, epochs in trained if pictures == "altered"}
    assert altered <= {max(1, round(epochs / 4)) for _, epochs in trained}  # as many steps on four times the pictures
    assert len(altered) == 1
    assert max(trial["AP"] for trial in made.trials) == made.trials[0]["AP"] == made.AP
    assert any("with altered copies of the pictures reaches AP" in sentence for sentence in made.why["head"])


def test_a_bundle_of_somebody_else_is_not_replaced(scenes: Path, tmp_path: Path, detheads: Any) -> None:
    (tmp_path / "other.detheads").mkdir()
    (tmp_path / "other.detheads" / "notes.txt").touch()
    finished = detheads("make", scenes, "-o", tmp_path / "other.detheads")
    assert finished.code == 1
    assert "holds something that is not a bundle" in finished.err
    assert not (tmp_path / "other.make").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--budget", "20s"), "a budget of 20s is too small for anything"),
        (("--size", 100), "effnet_lite0 needs input sides that are multiples of 32, not 100x100"),
        (("--backbone", "effnet"), "unknown backbone 'effnet'"),
        (("--head", "fcos", "-O", "widht=3"), "head fcos has no option 'widht'"),
    ],
)
def test_what_is_impossible_is_told_before_the_work(
    options: tuple[object, ...], sentence: str, scenes: Path, tmp_path: Path, detheads: Any
) -> None:
    finished = detheads("make", scenes, "-o", tmp_path / "it.detheads", *options)
    assert finished.code == 1
    assert sentence in finished.err.splitlines()[-1]
    assert not list(tmp_path.glob("it.make/*/*"))
