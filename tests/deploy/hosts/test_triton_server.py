"""A real Triton server reads a repository of ``deploy triton``: versions, warm-up, instances, limits.

The server is the one that ``nvidia-pytriton`` brings (``pip install --no-deps nvidia-pytriton``). It has no ONNX
Runtime backend, for which no package is published: a backend in Python runs the repository's graph in that library.
Answers are not looked at, since the Python backend of that build loses every output where there is no CUDA driver.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.export.toy import SIDE

pytestmark = pytest.mark.slow

BACKEND = """
import json, sys
sys.path[:0] = {paths!r}
from pathlib import Path
import onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.names = [output["name"] for output in config["output"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.log = open({log!r}, "a", buffering=1)

    def execute(self, requests):
        answers = []
        for request in requests:
            images = triton.get_input_tensor_by_name(request, "images").as_numpy()
            found = self.session.run(self.names, {{"images": images}})
            answers.append(triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(self.names, found)]))
        self.log.write(f"{{len(requests)}}\\n")  # of one image each, also in a warm-up
        return answers
"""


@pytest.fixture(scope="module")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from detheads.deploy.hosts.triton import Wishes, place

    target = tmp_path_factory.mktemp("triton") / "models"
    wishes = Wishes(4, 200_000, (4,), ("cpu:1",), "latest:2", warmup=True)
    for _ in range(3):
        place(bundle, target, wishes=wishes)
    return target


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Its address, and the file with the size of each batch that it ran."""
    found = importlib.util.find_spec("pytriton")  # importing it would need all that it depends on
    if found is None or found.origin is None:
        pytest.skip("needs nvidia-pytriton, which brings a Triton server")
    home, place = Path(found.origin).parent / "tritonserver", tmp_path_factory.mktemp("server")
    stub = f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
    backends, log = place / "backends", place / "batches.txt"
    shutil.copytree(home / "backends" / "python", backends / "python")
    shutil.copy(home / stub, backends / "python")
    (backends / "onnxruntime").mkdir()
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (backends / "onnxruntime" / "model.py").write_text(BACKEND.format(paths=paths, log=str(log)))
    program = place / "tritonserver"
    shutil.copy(home / "bin" / "tritonserver", program)
    for path in (program, backends / "python" / "triton_python_backend_stub"):
        path.chmod(0o755)
    libraries = [str(home.parent.parent / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (place / "log").open("w") as said:
        process = subprocess.Popen(
            [program, f"--model-repository={repository}", f"--backend-directory={backends}", f"--http-port={port}",
             "--allow-grpc=false", "--allow-metrics=false"],
            env=os.environ | {"LD_LIBRARY_PATH": ":".join(libraries)}, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}", process, place / "log")
        yield f"http://127.0.0.1:{port}", log
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()


def wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/v2/health/ready", timeout=5)
        except OSError:  # nobody listens yet
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def answer(address: str, document: Any = None) -> Any:
    """A JSON answer of the Open Inference Protocol."""
    body = None if document is None else json.dumps(document).encode()
    with urllib.request.urlopen(urllib.request.Request(address, body), timeout=30) as response:
        return json.load(response)


def test_the_two_latest_versions_are_served_and_were_warmed_up(server: tuple[str, Path]) -> None:
    address, log = server
    assert answer(f"{address}/v2/models/toy")["versions"] == ["2", "3"]
    config = answer(f"{address}/v2/models/toy/config")
    assert config["max_batch_size"] == 4
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 200_000
    assert [group["kind"] for group in config["instance_group"]] == ["KIND_CPU"]
    assert sorted(log.read_text().split())[:4] == ["1", "1", "4", "4"]  # of each version


def test_more_images_than_the_largest_batch_are_refused_by_the_server(server: tuple[str, Path]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        given = {
            "name": "images",
            "datatype": "UINT8",
            "shape": [5, 3, SIDE, SIDE],
            "data": [0] * (5 * 3 * SIDE * SIDE),
        }
        answer(f"{server[0]}/v2/models/toy/infer", {"inputs": [given]})
    assert "batch-size must be <= 4" in refused.value.read().decode()
