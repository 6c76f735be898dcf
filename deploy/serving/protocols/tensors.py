"""Tensors in the bodies of the Open Inference Protocol v2: JSON, and raw bytes after it (the binary tensor extension).

Source: KServe's "Open Inference Protocol" and Triton's "Binary Tensor Data Extension"; `tritonclient` is the client of
record. A body is a JSON object and then, for every tensor with ``binary_data_size``, its little-endian bytes, in the
order of the JSON; the header :data:`HEADER_LENGTH` says where the JSON ends.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from detheads.deploy.agreement import INPUT
from detheads.foundation.errors import UserError, suggest

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
DATATYPES: Final = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}
"""The protocol's names of the types that our graphs take and give."""

Tensors = Mapping[str, NDArray[Any]]


class _Lenient(BaseModel):
    """Fields that we do not know are passed over: the protocol lets every client add parameters of its own."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _InputParameters(_Lenient):
    binary_data_size: Annotated[StrictInt, Field(ge=0)] | None = None
    shared_memory_region: str | None = None


class _Input(_Lenient):
    name: str
    shape: list[Annotated[StrictInt, Field(ge=0)]] = Field(max_length=8)
    datatype: str
    parameters: _InputParameters = _InputParameters()
    data: list[Any] | None = None


class _OutputParameters(_Lenient):
    binary_data: StrictBool | None = None
    classification: StrictInt = 0
    shared_memory_region: str | None = None


class _Output(_Lenient):
    name: str
    parameters: _OutputParameters = _OutputParameters()


class _RequestParameters(_Lenient):
    binary_data_output: StrictBool = False
    sequence_id: StrictInt | str = 0


class _Header(_Lenient):
    id: str = ""
    inputs: list[_Input] = Field(max_length=16)
    outputs: list[_Output] = Field(default=[], max_length=64)
    parameters: _RequestParameters = _RequestParameters()


@dataclass(frozen=True)
class InferRequest:
    """What a client asks for.

    Attributes:
        id: its own name for the request, given back to it.
        images: uint8 ``[B, 3, H, W]``, RGB, letterboxed.
        outputs: names of the tensors it wants, in its order, and whether each is to be binary.
    """

    id: str
    images: NDArray[np.uint8]
    outputs: dict[str, bool]


def parse_request(body: bytes, header_length: str | None, size: tuple[int, int], known: Sequence[str]) -> InferRequest:
    """Read the body of an inference request.

    Args:
        body: as it was sent, decompressed.
        header_length: value of :data:`HEADER_LENGTH`; None where all of the body is JSON.
        size: height and width of the graph's input.
        known: names of the graph's outputs.

    Raises:
        UserError: when it is not a request that this graph can answer.
    """
    length = _json_length(body, header_length)
    try:
        header = _Header.model_validate_json(body[:length])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"the request is not one of the Open Inference Protocol: {where or 'JSON'}: {first['msg']}."
        ) from None
    if header.parameters.sequence_id not in (0, ""):
        raise UserError("the model keeps no state between requests; leave sequence_id out.")
    images = _images(header.inputs, body[length:], size)
    return InferRequest(header.id, images, _outputs(header, known))


def encode_response(said: Mapping[str, Any], found: Tensors, outputs: Mapping[str, bool]) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where tensors follow it.

    Args:
        said: what else the JSON says: ``model_name``, ``model_version``, ``id``.
        found: the graph's outputs.
        outputs: names of those to give, in this order, and whether each is to be binary.
    """
    described, tail = [], []
    for name, binary in outputs.items():
        array = found[name]
        entry: dict[str, Any] = {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}
        if binary:
            raw = _little_endian(array).tobytes()
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            entry["data"] = array.ravel().tolist()  # a float32 as the float64 equal to it: read back to the bit
        described.append(entry)
    head = json.dumps({**said, "outputs": described}, ensure_ascii=False, separators=(",", ":")).encode()
    return (b"".join([head, *tail]), len(head)) if tail else (head, None)


def _json_length(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 12:
        raise UserError(f"{HEADER_LENGTH} is a number of bytes, not {header_length[:40]!r}.")
    if int(header_length) > len(body):
        raise UserError(f"{HEADER_LENGTH} says {int(header_length):,} bytes, and the body has {len(body):,}.")
    return int(header_length)


def _images(inputs: Sequence[_Input], tail: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The one input of the graph, uint8 ``[B, 3, H, W]``."""
    if [tensor.name for tensor in inputs] != [INPUT]:
        names = ", ".join(repr(tensor.name[:64]) for tensor in inputs) or "nothing"
        raise UserError(f"the model takes one input, {INPUT!r}, and {names} was given.")
    tensor = inputs[0]
    wanted = [3, *size]
    if tensor.datatype != DATATYPES["uint8"]:
        raise UserError(f"{INPUT} are {DATATYPES['uint8']} (0..255, RGB), not {tensor.datatype[:40]!r}.")
    if len(tensor.shape) != 4 or tensor.shape[1:] != wanted or tensor.shape[0] < 1:
        raise UserError(f"{INPUT} have the shape [B, 3, {size[0]}, {size[1]}], not {tensor.shape}.")
    if tensor.parameters.shared_memory_region is not None:
        raise UserError(f"shared memory is not offered here; send {INPUT} in the request.")
    given, count = tensor.parameters.binary_data_size, math.prod(tensor.shape)
    if (given is None) == (tensor.data is None):
        both = "both were" if tensor.data is not None else "neither was"
        raise UserError(f"{INPUT} are sent as 'data' or as binary_data_size bytes after the JSON; {both} given.")
    if tensor.data is not None:
        if tail:
            raise UserError(f"{len(tail):,} bytes follow the JSON, which speaks of none.")
        return _from_json(tensor.data, tensor.shape)
    if given != count or len(tail) != count:
        raise UserError(
            f"{INPUT} of shape {tensor.shape} are {count:,} bytes; binary_data_size says {given:,}, and {len(tail):,} "
            "follow the JSON."
        )
    return np.frombuffer(tail, np.uint8).reshape(tensor.shape)


def _from_json(data: list[Any], shape: list[int]) -> NDArray[np.uint8]:
    """Numbers, flat in row-major order or nested as the shape says."""
    try:
        array = np.array(data)
    except (ValueError, OverflowError):  # lists of different lengths
        raise UserError(f"the data of {INPUT} are neither flat nor nested as their shape {shape} says.") from None
    if array.shape not in ((math.prod(shape),), tuple(shape)):
        raise UserError(f"the data of {INPUT} are {list(array.shape)}, their shape says {shape}.")
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise UserError(f"the data of {INPUT} are whole numbers from 0 to 255.")
    return array.astype(np.uint8).reshape(shape)


def _outputs(header: _Header, known: Sequence[str]) -> dict[str, bool]:
    """Names of the wanted outputs, all where none is named, and whether each is to be binary."""
    binary = header.parameters.binary_data_output
    if not header.outputs:
        return dict.fromkeys(known, binary)
    wanted: dict[str, bool] = {}
    for output in header.outputs:
        if output.name not in known:
            near = suggest(output.name[:64], known)
            raise UserError(f"the model has no output {output.name[:64]!r}, but {', '.join(known)}.{near}")
        if output.name in wanted:
            raise UserError(f"the output {output.name} is asked for twice.")
        if output.parameters.classification:
            raise UserError("classification of outputs is not offered: labels are an output of this model.")
        if output.parameters.shared_memory_region is not None:
            raise UserError("shared memory is not offered here; outputs are sent in the answer.")
        asked = output.parameters.binary_data
        wanted[output.name] = binary if asked is None else asked
    return wanted


def _little_endian(array: NDArray[Any]) -> NDArray[Any]:
    return array.byteswap() if sys.byteorder == "big" else array
