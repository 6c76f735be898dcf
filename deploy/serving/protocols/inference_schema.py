"""Documents of the Open Inference Protocol besides tensors: what a server and its models say of themselves."""

from typing import Any, Final

from pydantic import BaseModel

from detheads.deploy.agreement import INPUT, OUTPUTS
from detheads.deploy.serving.models import Served
from detheads.deploy.serving.protocols.tensors import DATATYPES, HEADER_LENGTH


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(BaseModel):
    name: str
    ready: bool


class IndexEntry(BaseModel):
    name: str
    version: str
    state: str
    reason: str


class TensorConfig(BaseModel):
    name: str
    data_type: str
    dims: list[int]


class ModelConfig(BaseModel):
    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class Duration(BaseModel):
    count: int
    ns: int


class InferStatistics(BaseModel):
    success: Duration
    fail: Duration


class OneModelStatistics(BaseModel):
    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics


class ModelStatistics(BaseModel):
    model_stats: list[OneModelStatistics]


def output_shapes(served: Served) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of each output of the graph by its name, without the batch, in the graph's order."""
    manifest = served.detector.manifest
    return {
        manifest.prefix(head) + name: (kind, [head.thresholds.max_detections, *([4] if name == "boxes" else [])])
        for head in manifest.heads
        for name, kind in OUTPUTS.items()
    }


def model_metadata(served: Served, version: str) -> ModelMetadata:
    outputs = output_shapes(served)
    return ModelMetadata(
        name=served.name,
        versions=[version],
        platform=served.detector.session.runtime,
        inputs=[TensorMetadata(name=INPUT, datatype=DATATYPES["uint8"], shape=[-1, *_input_shape(served)])],
        outputs=[
            TensorMetadata(name=name, datatype=DATATYPES[kind], shape=[-1, *shape])
            for name, (kind, shape) in outputs.items()
        ],
    )


def model_config(served: Served, max_batch: int) -> ModelConfig:
    return ModelConfig(
        name=served.name,
        platform=served.detector.session.runtime,
        backend="detheads",
        max_batch_size=max_batch,
        input=[TensorConfig(name=INPUT, data_type=f"TYPE_{DATATYPES['uint8']}", dims=_input_shape(served))],
        output=[
            TensorConfig(name=name, data_type=f"TYPE_{DATATYPES[kind]}", dims=shape)
            for name, (kind, shape) in output_shapes(served).items()
        ],
    )


def _input_shape(served: Served) -> list[int]:
    size = served.detector.manifest.input
    return [3, size.height, size.width]


_BINARY: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


_PARAMETERS: Final = {"type": "object", "additionalProperties": {"type": ["boolean", "integer", "number", "string"]}}
_WHOLE: Final = {"type": "integer", "minimum": 0}
_TENSOR: Final = {
    "name": {"type": "string"},
    "shape": {"type": "array", "items": _WHOLE},
    "datatype": {"type": "string"},
    "parameters": _PARAMETERS,
    "data": {"type": "array"},
}

INFER_BODY: Final = {
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "description": "Bytes of the JSON, where binary tensors follow it.",
            "schema": _WHOLE,
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _object(
                    ["inputs"],
                    id={"type": "string"},
                    inputs={"type": "array", "items": _object(["name", "shape", "datatype"], **_TENSOR)},
                    outputs={
                        "type": "array",
                        "items": _object(["name"], name={"type": "string"}, parameters=_PARAMETERS),
                    },
                    parameters=_PARAMETERS,
                )
            },
            **_BINARY,
        },
    },
}
"""How the interface's schema describes what :func:`detheads.deploy.serving.protocols.tensors.parse_request` reads."""

INFER_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The outputs that were asked for.",
        "content": {
            "application/json": {
                "schema": _object(
                    ["model_name", "model_version", "outputs"],
                    model_name={"type": "string"},
                    model_version={"type": "string"},
                    id={"type": "string"},
                    outputs={"type": "array", "items": _object(["name", "shape", "datatype"], **_TENSOR)},
                )
            },
            **_BINARY,
        },
    }
}
