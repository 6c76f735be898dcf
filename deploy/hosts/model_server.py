"""``config.json`` of OpenVINO Model Server, which serves the model repository that Triton serves."""

from pathlib import Path
from typing import Any, Final

from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.reading import LARGEST_MANIFEST, read_json

NAME: Final = "config.json"
LIST: Final = "model_config_list"
EXACT: Final = {"INFERENCE_PRECISION_HINT": "f32"}
"""Left to itself, OpenVINO computes an FP32 graph in bfloat16 on CPUs that have it."""


def add_model(repository: Path, name: str) -> Path:
    """List a model in the repository's ``config.json``, in place of an earlier entry of that name.

    Paths are relative to the file, so that the repository may be mounted anywhere.

    Raises:
        UserError: when there is a file of that name that lists no models.
    """
    path = repository / NAME
    document: Any = read_json(path, LARGEST_MANIFEST) if path.is_file() else {LIST: []}
    listed = document.get(LIST) if isinstance(document, dict) else None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise UserError(f"{path} is no configuration of OpenVINO Model Server: it has no list {LIST!r}; move it away.")
    entry = {"config": {"name": name, "base_path": name, "plugin_config": EXACT}}
    others = [each for each in listed if not _is_of(each, name)]
    atomic.write_json(path, document | {LIST: [*others, entry]})
    return path


def _is_of(entry: dict[str, Any], name: str) -> bool:
    config = entry.get("config")
    return isinstance(config, dict) and config.get("name") == name
