"""The proof of precision on the GPU: in which types a loaded engine's layers compute, as its inspector tells."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from detheads.deploy.engines.library import Library

NAMES = {"FP32": "FLOAT", "FP16": "HALF"} | {
    name: name for name in ("FLOAT", "HALF", "BF16", "FP8", "FP4", "INT8", "INT4", "INT32", "INT64", "UINT8", "BOOL")
}
"""Types as the inspector spells them, and as the parsed network does."""


def executed_types(engine: Any, library: Library, context: Any = None) -> dict[str, int]:
    """Outputs of the built engine's layers counted by type; empty where the engine was built without details.

    Args:
        context: its execution context with the input shapes set; without one, types that depend on them are not told.
    """
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    document = json.loads(inspector.get_engine_information(library.module.LayerInformationFormat.JSON))
    return dict(Counter(_types(document)).most_common())


def _types(document: Any) -> Iterator[str]:
    layers = document.get("Layers", []) if isinstance(document, dict) else []
    for layer in layers:
        for output in layer.get("Outputs", []) if isinstance(layer, dict) else []:  # else the layer's name alone
            # TensorRT 11 tells "DataType"; in 10 it is a word of "Format/Datatype", as in "Row major linear FP16".
            told = str(output.get("DataType") or output.get("Format/Datatype") or "")
            types = [NAMES[word.upper()] for word in re.findall(r"\w+", told) if word.upper() in NAMES]
            if types:  # else it depends on a shape that is not set
                yield types[-1]
