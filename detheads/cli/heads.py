"""``detheads heads``: what heads there are and what they cost."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from detheads.backbones.spec import BackboneSpec, spec_of
from detheads.cli.checks import require_heads
from detheads.cli.options import BackboneFile, BackboneOption, HeadFiles, SizeOption, parse_size
from detheads.cli.output import JsonFlag, emit, remark, table
from detheads.cli.train import HeadOptions, parse_options
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import nearest_sides, sides

if TYPE_CHECKING:
    from detheads.headkit.checks import Finding

app = typer.Typer(help="List detection heads with parameters and FLOPs.", no_args_is_help=True)

ClassesOption = Annotated[int, typer.Option(min=1, help="Number of classes.")]


@app.command("list")
def list_heads(
    head_file: HeadFiles = None,
    backbone: BackboneOption = "eupe_vitb16",
    backbone_file: BackboneFile = None,
    size: SizeOption = None,
    classes: ClassesOption = 80,
    as_json: JsonFlag = False,
) -> None:
    """All heads with parameters and FLOPs for a backbone's features (by default 768 channels, 768 px, 80 classes)."""
    from detheads.headkit import registry
    from detheads.headkit.cost import measure

    features = _features(backbone, size)
    rows: list[dict[str, Any]] = []
    for entry in registry.entries().values():
        spec = _with_blocks(features, entry.head.blocks)
        try:
            head = registry.build(entry.name, spec, classes)
        except UserError as error:
            remark(f"left out: {error}")
            continue
        cost = measure(head, spec)
        rows.append(
            {
                "name": entry.name,
                "parameters": cost.parameters,
                "gflops": round(cost.flops / 1e9, 3),
                "nms_free": entry.head.nms_free,
                "summary": entry.summary,
            }
        )

    def render(console: Console) -> None:
        cells = [
            (row["name"], f"{row['parameters']:,}", row["gflops"], "yes" if row["nms_free"] else "no", row["summary"])
            for row in rows
        ]
        console.print(table(("head", "parameters", "GFLOPs", "NMS-free", ""), cells))
        console.print(f"for {backbone} at {sides(features.height, features.width)}, {classes} classes, one image")

    emit(rows, as_json, render)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name of 'detheads heads list'.")],
    option: HeadOptions = None,
    head_file: HeadFiles = None,
    backbone: BackboneOption = "eupe_vitb16",
    backbone_file: BackboneFile = None,
    size: SizeOption = None,
    classes: ClassesOption = 80,
    as_json: JsonFlag = False,
) -> None:
    """One head: its idea, its options, its parts with their parameters, and how its ideas are turned off."""
    require_heads([name], head_file)

    import sys

    from detheads.headkit import registry
    from detheads.headkit.cost import measure, parameters_of
    from detheads.headkit.options import to_text

    entry = registry.entry(name)
    spec = _with_blocks(_features(backbone, size), entry.head.blocks)
    options = parse_options(option or [])
    head = registry.build(name, spec, classes, options)
    cost = measure(head, spec)
    parts = {part: parameters_of(module) for part, module in head.named_children()}
    about = (sys.modules[entry.head.__module__].__doc__ or "").strip()
    config, allowed = registry.config_dict(entry, options), registry.bounds(entry)
    answer = {
        "name": name,
        "about": about,
        "config": config,
        "allowed": allowed,
        "parameters": cost.parameters,
        "gflops": round(cost.flops / 1e9, 3),
        "nms_free": head.nms_free,
        "candidates": cost.candidates,
        "parts": parts,
        "controls": {
            idea: {
                "claim": control.claim,
                "options": dict(control.options),
                "metric": control.metric,
                "allowance": control.allowance,
            }
            for idea, control in entry.head.controls.items()
        },
    }

    def render(console: Console) -> None:
        console.print(*about.splitlines(), "", sep="\n")
        console.print(
            table(("option", "value", "may be"), [(key, to_text(value), allowed[key]) for key, value in config.items()])
        )
        console.print(table(("part", "parameters"), [(part, f"{count:,}") for part, count in parts.items()]))
        if entry.head.controls:
            ideas = [(idea, str(it), it.metric, it.claim) for idea, it in entry.head.controls.items()]
            console.print(table(("idea", "without it", "judged by", "claim"), ideas))
        console.print(
            f"{cost.parameters:,} parameters, {cost.flops / 1e9:.2f} GFLOPs and {cost.candidates:,} candidate boxes an "
            f"image of {sides(spec.height, spec.width)} ({backbone}, {classes} classes)"
        )

    emit(answer, as_json, render)


@app.command()
def check(
    head: Annotated[str, typer.Argument(help="File with a head of your own (it is executed), or a name.")],
    option: HeadOptions = None,
    head_file: HeadFiles = None,
    export: Annotated[bool, typer.Option(help="Also export it on a small random backbone and compare.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Hold a head to what every head promises; the smallest configuration that fails is named."""
    from pathlib import Path

    from detheads.headkit import registry
    from detheads.headkit.checks import Finding, check_head
    from detheads.headkit.head_file import load_head_file

    named = registry.entry(head) if head in registry.entries() else load_head_file(Path(head))
    if not named.head.trainable:
        raise UserError(f"{named.name} is solved, not trained; the checks train.")
    options = registry.config_dict(named, parse_options(option or []))

    def on_check(finding: Finding) -> None:
        remark(f"broken  {finding.check}: {finding.fault}" if finding.fault else f"holds   {finding.check}")

    findings = check_head(named, options, on_check)
    if export and not any(finding.fault for finding in findings):
        findings.append(_exported(named.name, options))
        on_check(findings[-1])
    failed = sum(finding.fault is not None for finding in findings)
    answer = {
        "head": named.name,
        "holds": not failed,
        "checks": [{"check": finding.check, "fault": finding.fault} for finding in findings],
    }
    verdict = f"{failed} of {len(findings)} promises are broken" if failed else f"all {len(findings)} promises hold"
    emit(answer, as_json, lambda console: console.print(f"{named.name}: {verdict}"))
    if failed:
        raise typer.Exit(1)


def _exported(name: str, options: dict[str, Any]) -> "Finding":
    """The head behind the smallest backbone that feeds it, in ONNX Runtime against PyTorch."""
    import torch

    from detheads.backbones.backbone import load_backbone
    from detheads.export.graph import DetectorGraph
    from detheads.export.onnx_export import check_parity
    from detheads.export.trace import trace_dense
    from detheads.headkit import registry
    from detheads.headkit.checks import Finding

    promise = "the exported graph gives in ONNX Runtime what the head gives in PyTorch"
    blocks = registry.entry(name).head.blocks
    backbone = "timm:vit_tiny_patch16_224" if blocks else "timm:test_convnext"
    try:
        encoder = load_backbone(backbone, (64, 96), random_weights=True, blocks=blocks)
        torch.manual_seed(0)
        head = registry.build(name, encoder.feature_spec, 3, options).eval()
        graph = DetectorGraph(encoder, head, encoder.feature_spec)
        check_parity(graph, trace_dense(graph))
    except Exception as error:  # whatever a head of one's own may do that no graph can
        line = next(iter(str(error).splitlines()), type(error).__name__)
        return Finding(promise, f"{line} (3 classes, features of {backbone})")
    return Finding(promise, None)


def _with_blocks(features: Any, blocks: Sequence[int]) -> Any:
    """A plain transformer's features with intermediate blocks besides; a hierarchical network's as they are."""
    from detheads.backbones.features import FeatureLayer

    if len(features.main) > 1:
        return features
    (main,) = features.main_layers
    layers = tuple(FeatureLayer(f"block{block}", main.channels, main.stride) for block in blocks)
    return replace(features, layers=layers + features.layers)


def _features(backbone: str, size: str | None) -> Any:
    """The feature spec of a known backbone without building it."""
    from detheads.backbones.features import FeatureLayer, FeatureSpec

    spec: BackboneSpec | None = spec_of(backbone)
    if spec is None:
        raise UserError(f"{backbone} has to be built to know its features; name one of 'detheads cache backbones'.")
    height, width = parse_size(size) or (spec.default_size, spec.default_size)
    if height % spec.multiple or width % spec.multiple:
        raise UserError(
            f"{backbone} needs input sides that are multiples of {spec.multiple}, not "
            f"{sides(height, width)}; the nearest is --size {nearest_sides(height, width, spec.multiple)}."
        )
    names = ["last"] if len(spec.strides) == 1 else [f"stride{stride}" for stride in spec.strides]
    layers = zip(names, spec.channels, spec.strides, strict=True)
    return FeatureSpec(tuple(FeatureLayer(*layer) for layer in layers), tuple(names), height, width)
