"""``detheads bundle``: what it prints of a finished bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_inspect_tells_graph_precision_sizes_licence_and_proof(bundle: Path, detheads: Callable[..., Any]) -> None:
    shown = detheads("bundle", "inspect", bundle)
    assert shown.code == 0, shown.err
    for text in (
        "bundle: toy, verified",
        "proof: holds: mAP",
        "licence: apache-2.0 (weights of timm:test_vit)",
        "precision: fp32; weights: 1.5 MB float32",
        "input: images uint8 [batch, 3, 160, 160]",
        "output: labels int32 [batch, 20]",
        "größte Eule",
    ):
        assert text in shown.out
    answer = json.loads(detheads("bundle", "inspect", bundle, "--json").out)
    assert answer["state"] == "verified"
    assert answer["sizes"] == {path.name: path.stat().st_size for path in sorted(bundle.iterdir())}
    assert answer["bytes"] == sum(answer["sizes"].values())
    assert sum(answer["graph"]["operators"].values()) == answer["graph"]["nodes"]
