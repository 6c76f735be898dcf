"""``detheads bundle``: what it prints of a finished bundle."""

import json
import shutil
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
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert answer["sizes"] == {path.relative_to(bundle).as_posix(): path.stat().st_size for path in files}
    assert answer["bytes"] == sum(answer["sizes"].values())
    assert sum(answer["graph"]["operators"].values()) == answer["graph"]["nodes"]


def test_integrity_and_signature_by_command(bundle: Path, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))
    key, public = tmp_path / "k.pem", tmp_path / "k.pub.pem"
    assert "not signed" in detheads("verify", copy, "--integrity").out
    assert detheads("bundle", "keygen", key).code == 0
    assert detheads("bundle", "sign", copy, "--key", key).code == 0
    whole = detheads("verify", copy, "--integrity", "--public-key", public)
    assert (whole.code, "signature holds: SHA256:" in whole.out) == (0, True)
    (copy / "report.md").write_text("other")
    altered = detheads("verify", copy, "--integrity", "--json")
    assert altered.code == 1
    assert json.loads(altered.out)["altered"] == ["report.md"]


def test_verify_asks_for_what_it_needs(bundle: Path, detheads: Callable[..., Any]) -> None:
    refused = detheads("verify", bundle)
    assert refused.code == 1
    assert "give --run RUN and --data DATASET" in refused.err
