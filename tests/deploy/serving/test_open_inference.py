"""The Open Inference Protocol through tritonclient, against a server process and the bare graph."""

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from detheads.deploy import Detector
from detheads.foundation.images import load_image
from tests.export.toy import Toy

OUTPUTS = ["boxes", "scores", "labels"]


@pytest.fixture(scope="module")
def images(detector: Detector, toy: Toy) -> NDArray[np.uint8]:
    """Two letterboxed pictures in which something is found."""
    prepared = [detector.prepare(load_image(toy.images / f"bild {number}.png"))[0] for number in (4, 5)]
    return np.ascontiguousarray(np.stack(prepared).transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def expected(bundle: Path, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """What the graph gives, without any code of ours."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
    found = dict(zip(OUTPUTS, session.run(OUTPUTS, {"images": images}), strict=True))
    assert (found["scores"] > 0).any()
    return found


@pytest.fixture(scope="module")
def triton(triton_http: Any, address: str) -> Iterator[Any]:
    with triton_http.InferenceServerClient(address, concurrency=4) as client:
        yield client


@pytest.fixture
def tensor(triton_http: Any, images: NDArray[np.uint8]) -> Callable[..., Any]:
    def made(binary: bool = True) -> Any:
        return triton_http.InferInput("images", list(images.shape), "UINT8").set_data_from_numpy(images, binary)

    return made


def assert_equal(result: Any, expected: dict[str, NDArray[Any]]) -> None:
    for name, array in expected.items():
        found = result.as_numpy(name)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_a_client_gets_the_outputs_of_the_graph_to_the_bit(
    binary: bool, coding: str | None, triton: Any, tensor: Any, expected: dict[str, NDArray[Any]]
) -> None:
    codings = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
    result = triton.infer("toy", [tensor(binary)], request_id="über 7", model_version="1", **codings)
    assert_equal(result, expected)
    said = result.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("toy", "1", "über 7")
    assert [output["name"] for output in said["outputs"]] == OUTPUTS


def test_outputs_come_as_they_were_asked_for(
    triton_http: Any, triton: Any, tensor: Any, expected: dict[str, NDArray[Any]]
) -> None:
    wanted = [triton_http.InferRequestedOutput("labels", False), triton_http.InferRequestedOutput("boxes", True)]
    result = triton.infer("second", [tensor()], outputs=wanted)
    labels, boxes = result.get_response()["outputs"]
    assert labels["data"] == expected["labels"].ravel().tolist()
    assert boxes["parameters"] == {"binary_data_size": expected["boxes"].nbytes}
    assert "id" not in result.get_response()
    assert_equal(result, {name: expected[name] for name in ("labels", "boxes")})


def test_requests_that_are_under_way_together_get_their_own_outputs(
    triton: Any, tensor: Any, expected: dict[str, NDArray[Any]]
) -> None:
    pending = [triton.async_infer("toy", [tensor()], request_id=str(number)) for number in range(8)]
    for number, request in enumerate(pending):
        result = request.get_result()
        assert result.get_response()["id"] == str(number)
        np.testing.assert_array_equal(result.as_numpy("labels"), expected["labels"])
        np.testing.assert_allclose(result.as_numpy("boxes"), expected["boxes"], atol=1e-3)  # of a larger batch


def test_the_asyncio_client_works_too(
    triton_http: Any, address: str, tensor: Any, expected: dict[str, NDArray[Any]]
) -> None:
    aio = pytest.importorskip("tritonclient.http.aio")

    async def ask() -> Any:
        async with aio.InferenceServerClient(address) as client:
            return await client.infer("toy", [tensor()], response_compression_algorithm="gzip")

    assert_equal(asyncio.run(ask()), expected)


def test_server_and_models_say_what_they_are(triton: Any, bundle: Path) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("toy") and triton.is_model_ready("toy", "1")
    assert not triton.is_model_ready("toy", "2") and not triton.is_model_ready("nobody")
    assert triton.get_server_metadata()["name"] == "detheads"
    index = [(entry["name"], entry["state"]) for entry in triton.get_model_repository_index()]
    assert index == [("toy", "READY"), ("second", "READY")]
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = triton.get_model_metadata("toy")
    types = {"tensor(uint8)": "UINT8", "tensor(float)": "FP32", "tensor(int32)": "INT32"}
    for said, tensors in ((metadata["inputs"], session.get_inputs()), (metadata["outputs"], session.get_outputs())):
        assert [entry["name"] for entry in said] == [tensor.name for tensor in tensors]
        assert [entry["datatype"] for entry in said] == [types[tensor.type] for tensor in tensors]
        assert [entry["shape"] for entry in said] == [[-1, *tensor.shape[1:]] for tensor in tensors]
    config = triton.get_model_config("toy", "1")
    assert config["max_batch_size"] == 8
    assert [entry["dims"] for entry in config["output"]] == [entry["shape"][1:] for entry in metadata["outputs"]]


def test_requests_and_pictures_are_counted(triton_http: Any, triton: Any, tensor: Any) -> None:
    from tritonclient.utils import InferenceServerException

    def counts() -> tuple[int, int, int]:
        (stats,) = triton.get_inference_statistics("second")["model_stats"]
        outcomes = stats["inference_stats"]
        return stats["inference_count"], outcomes["success"]["count"], outcomes["fail"]["count"]

    pictures, answered, refused = counts()
    triton.infer("second", [tensor()])
    with pytest.raises(InferenceServerException, match="have the shape"):
        triton.infer(
            "second", [triton_http.InferInput("images", [1], "UINT8").set_data_from_numpy(np.zeros(1, np.uint8))]
        )
    assert counts() == (pictures + 2, answered + 1, refused + 1)
    assert len(triton.get_inference_statistics()["model_stats"]) == 2


WRONG: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "no model 'toys' is served here.*Did you mean 'toy'": ("404", lambda client: client.get_model_metadata("toys")),
    "has no version '3', only 1": ("404", lambda client: client.get_model_config("toy", "3")),
    "bundles are not loaded by clients": ("400", lambda client: client.load_model("toy")),
    "bundles are not unloaded": ("400", lambda client: client.unload_model("toy")),
    "shared memory is not offered": ("400", lambda client: client.get_system_shared_memory_status()),
    "not offered here": ("400", lambda client: client.register_system_shared_memory("a", "/a", 4)),
    "send tensors in the request": ("400", lambda client: client.unregister_cuda_shared_memory()),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_not_there_is_said_in_a_sentence(sentence: str, triton: Any) -> None:
    from tritonclient.utils import InferenceServerException

    status, call = WRONG[sentence]
    with pytest.raises(InferenceServerException, match=sentence) as refused:
        call(triton)
    assert refused.value.status() == status


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (b"{}", {}, 400, "inputs: Field required"),
        (b"{}", {"Inference-Header-Content-Length": "9"}, 400, "says 9 bytes"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "is not gzip"),
        (gzip.compress(b"{}", mtime=0)[:-2], {"Content-Encoding": "gzip"}, 400, "cut off"),
        (b"{}", {"Content-Encoding": "br"}, 415, "gzip or deflate, not 'br'"),
        (gzip.compress(bytes(5 << 20), mtime=0), {"Content-Encoding": "gzip"}, 413, "more than 4,000,000 bytes once"),
        (bytes(5 << 20), {}, 413, "more than 4,000,000 bytes"),
    ],
)
def test_broken_bodies_and_bombs_are_refused(
    content: bytes, headers: dict[str, str], status: int, words: str, address: str
) -> None:
    answer = httpx.post(f"http://{address}/v2/models/toy/infer", content=content, headers=headers)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_more_pictures_than_a_batch_are_refused(address: str) -> None:
    head = {
        "name": "images",
        "shape": [9, 3, 160, 160],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": 691200},
    }
    content = json.dumps({"inputs": [head]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(content))}
    answer = httpx.post(f"http://{address}/v2/models/toy/infer", content=content + bytes(691200), headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "toy takes 1 to 8 pictures at once, not 9.")


def test_a_token_goes_in_the_headers_of_the_client(serve: Callable[..., Any], bundle: Path, triton_http: Any) -> None:
    with (
        serve({"toy": bundle}, token="geheim") as (client, _),
        triton_http.InferenceServerClient(f"127.0.0.1:{client.base_url.port}") as triton,
    ):
        assert triton.is_server_ready()
        assert not triton.is_model_ready("toy")
        assert triton.is_model_ready("toy", headers={"Authorization": "Bearer geheim"})
