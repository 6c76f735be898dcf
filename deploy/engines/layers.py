"""The proof of precision before anything runs: in which types the layers of a parsed network compute.

Networks are strongly typed, so the parsed types are those that are built. A loop's layers count once each, however
often they run; what only bounds a loop has no output and is not counted.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Final

PRODUCTS: Final = frozenset({"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM"})
"""Layers in which nearly all arithmetic is done."""
FORWARDING: Final = frozenset({"SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE"})
"""Layers between a dequantisation and its product that change no number, such as a weight's transposition."""
EXPECTED: Final = {
    "fp32": frozenset({"FLOAT"}),
    "fp16": frozenset({"HALF"}),
    "bf16": frozenset({"BF16"}),
    "int8": frozenset({"INT8"}),
    "mixed": frozenset({"HALF", "BF16", "INT8"}),
}
"""Types of which a network of that precision has products, where it has any products."""
QUANTISED: Final = "INT8"


@dataclass(frozen=True)
class LayerTypes:
    """What a parsed network computes in.

    Attributes:
        outputs: type of a layer's output -> how many outputs.
        kinds: kind of layer -> type -> how many outputs.
        products: type -> how many convolutions and matrix products compute in it. INT8 ones are those whose inputs
            both come from a dequantisation: the builder fuses them, the parsed output stays a float.
    """

    outputs: dict[str, int]
    kinds: dict[str, dict[str, int]]
    products: dict[str, int]

    def contradicts(self, precision: str) -> str:
        """What is wrong about calling this network by that precision: part of a sentence, empty when it is right."""
        counts = self.products or self.outputs
        expected = EXPECTED.get(precision)
        if expected is None or not counts:
            return ""
        found = ", ".join(f"{count} in {kind}" for kind, count in counts.items())
        what = "convolutions and matrix products are" if self.products else "layer outputs are"
        if not expected & counts.keys():
            return f"none of its {what} in {' or '.join(sorted(expected))} ({found})"
        lower = EXPECTED["mixed"] & counts.keys()
        if precision == "fp32" and lower:
            return f"some of its {what} in {', '.join(sorted(lower))} ({found})"
        return ""


def read_layers(network: Any) -> LayerTypes:
    """Count the outputs of a parsed network's layers by type and kind, and its products by the type they compute in."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(port).name: layer for layer in layers for port in range(layer.num_outputs)}
    outputs: Counter[str] = Counter()
    kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
    products: Counter[str] = Counter()
    for layer in layers:
        kind = layer.type.name
        types = [layer.get_output(port).dtype.name for port in range(layer.num_outputs)]
        outputs.update(types)
        kinds[kind].update(types)
        if kind in PRODUCTS and types:
            products[QUANTISED if _quantised(layer, makers) else types[0]] += 1
    return LayerTypes(
        dict(outputs.most_common()),
        {kind: dict(counts.most_common()) for kind, counts in sorted(kinds.items()) if counts},
        dict(products.most_common()),
    )


def _quantised(layer: Any, makers: dict[str, Any]) -> bool:
    """Whether both factors of a product come from a dequantisation."""
    return layer.num_inputs > 1 and all(_dequantised(layer.get_input(port), makers) for port in (0, 1))


def _dequantised(tensor: Any, makers: dict[str, Any]) -> bool:
    while tensor is not None and tensor.name in makers:
        maker = makers[tensor.name]
        if maker.type.name not in FORWARDING:
            return bool(maker.type.name == "DEQUANTIZE")
        tensor = maker.get_input(0)
    return False
