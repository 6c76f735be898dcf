"""The folder that Frigate mounts, and the worker that answers its ``zmq`` detector, asked by a real ZeroMQ client."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detheads.deploy import Detector
from detheads.deploy.hosts import frigate_worker
from detheads.deploy.hosts.frigate_worker import NOTHING, Worker, serve
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.images import load_image
from detheads.foundation.manifest import ProfileEntry
from tests.export.toy import SIDE, Toy

zmq = pytest.importorskip("zmq", reason="needs detheads[frigate]")

Ask = Callable[..., list[bytes]]


@pytest.fixture
def profiled(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that lists files as ``export --profile frigate`` puts them there."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))
    folder = copy / "profiles" / "frigate"
    folder.mkdir(parents=True)
    for name in ("model.onnx", "labelmap.txt", "frigate.yml"):
        (folder / name).write_text(f"the profile's {name}")
    digests = {f"profiles/frigate/{path.name}": atomic.sha256_of(path) for path in folder.iterdir()}
    graph = "profiles/frigate/model.onnx"
    entry = ProfileEntry(
        name="frigate",
        file=graph,
        sha256=digests.pop(graph),
        bytes=(copy / graph).stat().st_size,
        host="Frigate",
        preprocessing="none",
        files=digests,
    )
    write_manifest(copy, read_manifest(copy).model_copy(update={"profiles": [entry]}))
    return copy


def test_the_folder_holds_the_profile_as_it_was_exported(
    profiled: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    done = detheads("deploy", "frigate", profiled, "-o", tmp_path / "out")
    assert done.code == 0
    assert "/config/detheads" in done.out
    assert "unverified" in done.err
    found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert found == {name: f"the profile's {name}" for name in ("model.onnx", "labelmap.txt", "frigate.yml")}


def test_a_profile_that_was_altered_is_not_handed_out(
    profiled: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    (profiled / "profiles" / "frigate" / "labelmap.txt").write_text("someone else's")
    done = detheads("deploy", "frigate", profiled, "-o", tmp_path / "out")
    assert done.code == 1
    assert "labelmap.txt is not the file that bundle.json describes" in done.err
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_the_profile_says_how_to_get_one(
    bundle: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    done = detheads("deploy", "frigate", bundle, "-o", tmp_path / "out")
    assert done.code == 1
    assert "export it with --profile frigate" in done.err
    assert "--worker" in done.err


def test_with_a_worker_any_bundle_has_a_configuration(
    bundle: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    done = detheads("deploy", "frigate", bundle, "-o", tmp_path / "out", "--worker", "tcp://10.0.0.2:5555")
    assert done.code == 0
    config = yaml.safe_load((tmp_path / "out" / "frigate.yml").read_text("utf-8"))
    assert config["detectors"] == {"zmq": {"type": "zmq", "endpoint": "tcp://10.0.0.2:5555"}}
    assert (config["model"]["width"], config["model"]["input_dtype"]) == (SIDE, "int")
    assert (tmp_path / "out" / "labelmap.txt").read_text("utf-8").splitlines() == ["cat", "dog", "größte Eule"]


@pytest.mark.parametrize("address", ["here", "tcp://host", "http://a:1", "tcp://a:5555\nx"])
def test_what_is_no_address_is_refused(
    bundle: Path, tmp_path: Path, detheads: Callable[..., Any], address: str
) -> None:
    done = detheads("deploy", "frigate", bundle, "-o", tmp_path / "out", "--worker", address)
    assert done.code == 1
    assert "is no address" in done.err


# The worker


@pytest.fixture(scope="module")
def detector(bundle: Path) -> Detector:
    return Detector(bundle, threads=1)


@pytest.fixture
def remarks() -> list[str]:
    return []


@pytest.fixture
def address(detector: Detector, remarks: list[str], tmp_path: Path) -> Iterator[str]:
    """Where a worker listens."""
    endpoint = f"ipc://{tmp_path}/worker"
    ready, stop = threading.Event(), threading.Event()
    worker = Worker(detector, remarks.append)
    thread = threading.Thread(target=serve, args=(worker, endpoint, stop, ready.set))
    thread.start()
    assert ready.wait(10)
    yield endpoint
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def ask(address: str) -> Iterator[Ask]:
    """Frigate's side: a REQ socket that sends the parts of a request and returns those of the reply."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.RCVTIMEO, 10_000)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)

        def exchange(*parts: bytes) -> list[bytes]:
            socket.send_multipart(parts)
            return list(socket.recv_multipart())

        yield exchange


def request(pixels: np.ndarray[Any, Any]) -> tuple[bytes, bytes]:
    """As Frigate makes one of ``tensor_input``."""
    header = {"shape": list(pixels.shape), "dtype": str(pixels.dtype.name), "model_type": "yolonas"}
    return json.dumps(header).encode(), pixels.tobytes()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("number", [2, 5])
def test_a_frame_of_any_size_gets_the_detectors_own_boxes_in_shares_of_it(
    detector: Detector, toy: Toy, ask: Ask, layout: str, number: int
) -> None:
    picture = load_image(toy.images / f"bild {number}.png")
    pixels = np.asarray(picture)[None]
    (reply,) = ask(*request(pixels.transpose(0, 3, 1, 2) if layout == "nchw" else pixels))
    table = np.frombuffer(reply, np.float32).reshape(20, 6)
    wanted = detector(picture)
    count = min(20, len(wanted))
    assert count > 5
    np.testing.assert_array_equal(table[:count, 0], wanted.labels[:count])
    np.testing.assert_array_equal(table[:count, 1], wanted.scores[:count])
    sides = np.array([picture.height, picture.width] * 2)
    np.testing.assert_allclose(table[:count, 2:] * sides, wanted.boxes[:count][:, [1, 0, 3, 2]], atol=1e-3)
    assert not table[count:].any()


def test_the_model_is_there_and_no_other_is_taken(ask: Ask, remarks: list[str]) -> None:
    (reply,) = ask(json.dumps({"model_request": True, "model_name": "model.onnx"}).encode())
    assert json.loads(reply) == {"model_available": True, "model_loaded": True}
    (reply,) = ask(json.dumps({"model_data": True, "model_name": "evil.onnx"}).encode(), b"weights")
    assert json.loads(reply) == {"model_saved": False, "model_loaded": False}
    assert "declined" in remarks[0]


GOOD = np.zeros((1, 3, 8, 8), np.uint8)
MALFORMED = {
    "no parts": (b"",),
    "no JSON": (b"\xff{", b""),
    "no object": (b"[1]", b""),
    "nested": (b"[" * 4000, b""),
    "long header": (b" " * 5000, b""),
    "three parts": (*request(GOOD), b"more"),
    "pixels missing": request(GOOD)[:1],
    "too few pixels": (request(GOOD)[0], b"1234"),
    "floats": request(GOOD.astype(np.float32)),
    "two images": request(np.zeros((2, 3, 8, 8), np.uint8)),
    "no colours": request(np.zeros((1, 8, 8, 1), np.uint8)),
    "no area": request(np.zeros((1, 3, 0, 8), np.uint8)),
    "negative": (b'{"shape": [1, 3, -8, -8], "dtype": "uint8"}', bytes(192)),
    "true": (b'{"shape": [1, 3, true, true], "dtype": "uint8"}', bytes(3)),
    "huge": (b'{"shape": [1, 3, 100000, 100000], "dtype": "uint8"}', b""),
    "huge number": (b'{"shape": [1, 3, ' + b"9" * 3000 + b', 8], "dtype": "uint8"}', b""),
}


def test_what_is_no_request_is_answered_with_nothing_and_told(ask: Ask, remarks: list[str]) -> None:
    for name, parts in MALFORMED.items():
        assert ask(*parts) == [NOTHING], name
    assert len(remarks) == 2  # the first and the tenth
    assert "(the 10th)" in remarks[1]
    assert ask(*request(np.zeros((1, 3, SIDE, SIDE), np.uint8)))[0] != b""


def test_a_message_beyond_the_bound_costs_its_sender_the_connection_and_nobody_else(address: str, ask: Ask) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.RCVTIMEO, 500)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        socket.send_multipart([request(GOOD)[0], bytes(frigate_worker.LARGEST_FRAME + 1)])
        with pytest.raises(zmq.Again):
            socket.recv_multipart()
    assert len(ask(*request(GOOD))[0]) == 480


def test_a_frame_that_the_backend_fails_on_does_not_end_the_worker(
    detector: Detector, ask: Ask, remarks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(detector, "run", lambda prepared: [][0])
        assert ask(*request(GOOD)) == [NOTHING]
    assert "could not be run" in remarks[0]
    assert len(ask(*request(GOOD))[0]) == 480


def test_a_model_too_slow_for_frigate_is_told(
    detector: Detector, remarks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frigate_worker, "PATIENCE", 1e-6)
    worker = Worker(detector, remarks.append)
    worker.warm_up()
    worker.answer(request(GOOD))
    assert "request_timeout_ms" in remarks[0]
    assert "a reply took" in remarks[1]
    assert worker.tally.late == 1


def test_a_taken_address_is_told(bundle: Path, address: str, detheads: Callable[..., Any]) -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        done = detheads("deploy", "frigate-worker", bundle, "--bind", f"tcp://127.0.0.1:{port}")
    assert done.code == 1
    assert "cannot be bound (Address already in use)" in done.err


def test_the_command_answers_and_ends_cleanly_on_sigterm(bundle: Path, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/worker"
    command = [sys.executable, "-m", "detheads", "deploy", "frigate-worker", str(bundle), "--bind", endpoint, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            with zmq.Context() as context, context.socket(zmq.REQ) as socket:
                socket.setsockopt(zmq.RCVTIMEO, 30_000)
                socket.setsockopt(zmq.LINGER, 0)
                socket.connect(endpoint)  # which may come before the worker
                picture = Image.new("RGB", (64, 64), "red")
                socket.send_multipart(request(np.asarray(picture)[None]))
                assert len(socket.recv()) == 480
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert json.loads(out)["frames"] == 1
