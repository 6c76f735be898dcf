"""The text of Triton's ``config.pbtxt``: message ``ModelConfig`` of its ``model_config.proto``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from detheads.foundation.errors import UserError
from detheads.foundation.onnx_summary import TensorInfo

ONNX: Final = "onnxruntime_onnx"
TENSORRT: Final = "tensorrt_plan"
FILES: Final = {ONNX: "model.onnx", TENSORRT: "model.plan"}
"""The name that Triton gives the artefact of each platform."""

TYPES: Final = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}
"""Names of ``DataType``."""

MOST_INSTANCES: Final = 1024
"""A slip of the finger asks for more."""


@dataclass(frozen=True)
class Instances:
    """So many copies of the model on each GPU that Triton sees, or on the CPU."""

    kind: str
    count: int

    @classmethod
    def parse(cls, text: str) -> "Instances":
        """``"gpu:2"`` or ``"cpu:1"``.

        Raises:
            UserError: for any other text.
        """
        match = re.fullmatch(r"(cpu|gpu):(\d{1,4})", text.strip().lower())
        if match is None or not 1 <= int(match[2]) <= MOST_INSTANCES:
            raise UserError(f"--instances takes gpu:COUNT or cpu:COUNT such as gpu:2, not {text!r}.")
        return cls(match[1], int(match[2]))


@dataclass(frozen=True)
class Scheduling:
    """How Triton runs a model.

    Attributes:
        largest_batch: images in one run of the graph.
        queue_delay_us: microseconds that a request may wait for others; Triton's own (none) when None.
        preferred: batch sizes that are run as soon as they are full.
        instances: where the model runs; Triton's own choice when empty.
        versions: which are served: ``latest:N``, ``all`` or ``specific:1,3``; the latest one when empty.
        warmup: run the smallest and the largest batch before the model is ready.
    """

    largest_batch: int
    queue_delay_us: int | None = None
    preferred: tuple[int, ...] = ()
    instances: tuple[Instances, ...] = ()
    versions: str = ""
    warmup: bool = False

    def __post_init__(self) -> None:
        if self.preferred and not 1 <= min(self.preferred) <= max(self.preferred) <= self.largest_batch:
            raise UserError(
                f"--preferred-batch takes sizes from 1 to the largest batch, {self.largest_batch}, not "
                f"{', '.join(map(str, self.preferred))}."
            )
        _policy(self.versions)


def model_name(bundle: str) -> str:
    """The bundle's name in letters that addresses of servers take."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", bundle).strip("._-") or "detector"


def configuration(
    name: str, platform: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], scheduling: Scheduling
) -> str:
    """``config.pbtxt`` of a graph whose first axis is the batch everywhere; that axis is left out of ``dims``."""
    return (
        f'name: "{name}"\n'
        f'platform: "{platform}"\n'
        f"max_batch_size: {scheduling.largest_batch}\n"
        + tensors(inputs, outputs)
        + _batching(scheduling)
        + _policy(scheduling.versions)
        + _instances(scheduling.instances)
        + (_warmup(inputs, scheduling.largest_batch) if scheduling.warmup else "")
    )


def tensors(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str:
    """The part of the text that says what a client sends and gets."""

    def listed(entries: Sequence[TensorInfo], further: str) -> str:
        return ",\n".join(
            f'  {{ name: "{entry.name}" data_type: {TYPES[entry.dtype]}{further} dims: [ {_dims(entry)} ] }}'
            for entry in entries
        )

    return f"input [\n{listed(inputs, ' format: FORMAT_NCHW')}\n]\noutput [\n{listed(outputs, '')}\n]\n"


def _dims(entry: TensorInfo) -> str:
    return ", ".join(str(size) for size in entry.shape[1:])


def _batching(scheduling: Scheduling) -> str:
    said = []
    if scheduling.preferred:
        said.append(f"preferred_batch_size: [ {', '.join(map(str, scheduling.preferred))} ]")
    if scheduling.queue_delay_us is not None:
        said.append(f"max_queue_delay_microseconds: {scheduling.queue_delay_us}")
    return f"dynamic_batching {{ {' '.join(said)}{' ' if said else ''}}}\n"


def _policy(versions: str) -> str:
    """``version_policy`` from ``latest:N``, ``all``, ``specific:1,3``."""
    if not versions:
        return ""
    match = re.fullmatch(r"all|latest:([1-9]\d{0,8})|specific:([1-9]\d{0,17}(?:,[1-9]\d{0,17})*)", versions)
    if match is None:
        raise UserError(f"--version-policy takes latest:N, all, or specific:1,3, not {versions!r}.")
    if match[1]:
        return f"version_policy {{ latest {{ num_versions: {match[1]} }} }}\n"
    chosen = f"specific {{ versions: [ {match[2].replace(',', ', ')} ] }}" if match[2] else "all { }"
    return f"version_policy {{ {chosen} }}\n"


def _instances(groups: Sequence[Instances]) -> str:
    if not groups:
        return ""
    listed = ",\n".join(f"  {{ count: {group.count} kind: KIND_{group.kind.upper()} }}" for group in groups)
    return f"instance_group [\n{listed}\n]\n"


def _warmup(inputs: Sequence[TensorInfo], largest: int) -> str:
    """Noise, since a picture without anything in it ends suppression at once."""
    given = " ".join(
        f'inputs {{ key: "{entry.name}" value {{ data_type: {TYPES[entry.dtype]} dims: [ {_dims(entry)} ] '
        "random_data: true } }"
        for entry in inputs
    )
    return "".join(
        f'model_warmup {{ name: "batch of {size}" batch_size: {size} {given} }}\n' for size in sorted({1, largest})
    )
