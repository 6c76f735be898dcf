"""``detheads train`` under the real launchers: torchrun, and Accelerate's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detheads.training.log import read_log
from tests.training.pair import free_port
from tests.training.world import World

pytestmark = pytest.mark.slow

TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
ACCELERATE += ("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1")
EPOCHS = 30


def _started(launcher: tuple[str, ...], arguments: list[str]) -> "subprocess.Popen[str]":
    port = "--master-port" if launcher is TORCHRUN else "--main_process_port"
    command = [sys.executable, "-m", *launcher, port, str(free_port()), "-m", "detheads", "train", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _worker(launcher: int, rank: int) -> int:
    """The process of a rank among the children of a launcher."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text("utf-8").split()
    return next(
        int(child)
        for child in children
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    )


def _told(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")
def test_a_killed_worker_ends_torchrun_with_one_sentence_and_accelerate_goes_on(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = f"fcos -O width=16 -O tower_blocks=1 --batch 4 --epochs {EPOCHS} --eval-every {EPOCHS} -o {run} --json"
    arguments = [*line.split(), "--cache", str(world.caches / "train"), "--val", str(world.caches / "val")]
    process = _started(TORCHRUN, arguments)
    try:
        deadline = time.monotonic() + 180
        while not (run / "last.safetensors").is_file():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(_worker(process.pid, 1), signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode != 0
    [sentence] = _told(err)
    assert sentence.endswith("the same command goes on from the last checkpoint.")
    assert json.loads(out)["error"] in sentence
    assert len(read_log(run)) < 3 * EPOCHS // 20 + 1

    going_on = _started(ACCELERATE, arguments)
    out, err = going_on.communicate(timeout=300)
    assert going_on.returncode == 0, err
    assert json.loads(out)["epochs"] == EPOCHS
    assert "2 processes, here on cpu" in err
    assert not list(run.glob(".*")), "a partial file was left behind"


def test_what_all_processes_find_wrong_is_said_once(world: World, tmp_path: Path) -> None:
    val = ["--val", str(world.caches / "val"), "-o", str(tmp_path / "run"), "--batch", "1"]
    for cache, said in (("nowhere", "holds no feature cache"), ("train", "a batch of 1 images cannot be shared by 2")):
        process = _started(TORCHRUN, ["fcos", "--cache", str(world.caches / cache), *val])
        _, err = process.communicate(timeout=120)
        assert process.returncode != 0
        [sentence] = _told(err)
        assert said in sentence
    assert not (tmp_path / "run").exists()
