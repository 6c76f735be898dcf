"""Bodies of the Open Inference Protocol, built and read by the client of record where it can be asked."""

import json
from typing import Any

import numpy as np
import pytest

from detheads.deploy.serving.protocols.tensors import encode_response, parse_request
from detheads.foundation.errors import UserError

SIZE = (4, 6)
"""Height and width; different, so that a swap shows."""
KNOWN = ("boxes", "scores", "labels")
IMAGES = np.arange(2 * 3 * 4 * 6, dtype=np.uint8).reshape(2, 3, 4, 6)


def body(images: object = None, /, *, tail: bytes = b"", **changed: Any) -> tuple[bytes, str]:
    """A request with other fields than the right ones, and the length of its JSON."""
    tensor = {"name": "images", "shape": [2, 3, 4, 6], "datatype": "UINT8", "data": IMAGES.ravel().tolist()}
    tensor |= images if isinstance(images, dict) else {}
    head = json.dumps({"inputs": [tensor], **changed}).encode()
    return head + tail, str(len(head))


def parsed(content: bytes, length: str | None = None) -> Any:
    return parse_request(content, length, SIZE, KNOWN)


@pytest.mark.parametrize("binary", [False, True], ids=["JSON", "binary"])
def test_what_tritonclient_packs_is_read_back_to_the_byte(binary: bool, triton_http: Any) -> None:
    tensor = triton_http.InferInput("images", list(IMAGES.shape), "UINT8").set_data_from_numpy(
        IMAGES, binary_data=binary
    )
    wanted = [
        triton_http.InferRequestedOutput("scores", binary_data=True),
        triton_http.InferRequestedOutput("boxes", binary_data=False),
    ]
    content, length = triton_http.InferenceServerClient.generate_request_body(
        [tensor], outputs=wanted, request_id="seven"
    )
    request = parsed(content, None if length is None else str(length))
    np.testing.assert_array_equal(request.images, IMAGES)
    assert request.id == "seven"
    assert list(request.outputs.items()) == [("scores", True), ("boxes", False)]


@pytest.mark.parametrize("binary", [False, True], ids=["JSON", "binary"])
def test_tritonclient_reads_every_bit_of_an_answer(binary: bool, triton_http: Any) -> None:
    random = np.random.default_rng(0)
    found = {
        "boxes": random.normal(size=(2, 5, 4)).astype(np.float32) * np.float32(1e-3),
        "labels": random.integers(-(2**31), 2**31, (2, 5)).astype(np.int32),
        "scores": random.random((2, 5), dtype=np.float32),
    }
    content, length = encode_response({"model_name": "größe", "id": "x"}, found, dict.fromkeys(found, binary))
    result = triton_http.InferenceServerClient.parse_response_body(content, header_length=length)
    for name, array in found.items():
        read = result.as_numpy(name)
        assert read.dtype == array.dtype
        assert read.tobytes() == array.tobytes()
    assert result.get_response()["model_name"] == "größe"


def test_json_data_may_be_nested() -> None:
    np.testing.assert_array_equal(parsed(body({"data": IMAGES.tolist()})[0]).images, IMAGES)


def test_without_outputs_all_are_meant_and_one_parameter_makes_binary_what_says_nothing() -> None:
    assert parsed(body()[0]).outputs == dict.fromkeys(KNOWN, False)
    assert parsed(body(parameters={"binary_data_output": True})[0]).outputs == dict.fromkeys(KNOWN, True)
    named = [{"name": "labels"}, {"name": "boxes", "parameters": {"binary_data": False}}]
    assert parsed(body(parameters={"binary_data_output": True}, outputs=named)[0]).outputs == {
        "labels": True,
        "boxes": False,
    }


RAW = {"data": None, "parameters": {"binary_data_size": IMAGES.size}}
WRONG: dict[str, tuple[tuple[bytes, str | None], str]] = {
    "no JSON": ((b"\xff\xd8", None), "not one of the Open Inference Protocol: JSON"),
    "nested without end": ((b'{"inputs":' + b"[" * 100_000, None), "recursion limit"),
    "no inputs": ((b"{}", None), "inputs: Field required"),
    "another name": (body({"name": "input"}), "takes one input, 'images', and 'input' was given"),
    "no input": (body(inputs=[]), "and nothing was given"),
    "another type": (body({"datatype": "FP32"}), "are UINT8"),
    "another size": (body({"shape": [2, 3, 6, 4]}), r"shape \[B, 3, 4, 6\], not \[2, 3, 6, 4\]"),
    "an empty batch": (body({"shape": [0, 3, 4, 6], "data": []}), "have the shape"),
    "a negative shape": (body({"shape": [-2, 3, 4, 6]}), "greater than or equal to 0"),
    "too few numbers": (body({"data": [1, 2, 3]}), r"are \[3\], their shape says"),
    "ragged": (body({"data": [[1], [1, 2]]}), "neither flat nor nested"),
    "too large": (body({"data": [256] * IMAGES.size}), "whole numbers from 0 to 255"),
    "negative": (body({"data": [-1] * IMAGES.size}), "whole numbers from 0 to 255"),
    "larger than any integer": (body({"data": [10**40] * IMAGES.size}), "whole numbers from 0 to 255"),
    "fractions": (body({"data": [0.5] * IMAGES.size}), "whole numbers from 0 to 255"),
    "words": (body({"data": ["1"] * IMAGES.size}), "whole numbers from 0 to 255"),
    "shared memory": (
        body({"data": None, "parameters": {"shared_memory_region": "a"}}),
        "shared memory is not offered",
    ),
    "neither": (body({"data": None}), "neither was given"),
    "both": (body({"parameters": {"binary_data_size": IMAGES.size}}), "both were given"),
    "more bytes than are spoken of": (body(tail=b"12"), "2 bytes follow the JSON"),
    "fewer bytes than the shape": (body(RAW, tail=IMAGES.tobytes()[:-1]), "143 follow"),
    "a length that is no number": ((body()[0], "-5"), "is a number of bytes, not '-5'"),
    "a length beyond the end": ((b"{}", "3"), "says 3 bytes, and the body has 2"),
    "an unknown output": (body(outputs=[{"name": "score"}]), "no output 'score'.*Did you mean 'scores'"),
    "an output twice": (body(outputs=[{"name": "boxes"}] * 2), "asked for twice"),
    "classification": (body(outputs=[{"name": "boxes", "parameters": {"classification": 3}}]), "classification"),
    "shared output": (body(outputs=[{"name": "boxes", "parameters": {"shared_memory_region": "a"}}]), "shared memory"),
    "a sequence": (body(parameters={"sequence_id": 5}), "keeps no state"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence(case: str) -> None:
    given, sentence = WRONG[case]
    with pytest.raises(UserError, match=sentence):
        parsed(*given)
