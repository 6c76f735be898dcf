"""``detheads bundle``: look at finished bundles and work on them, without torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.cli import bundle_build, bundle_prove, bundle_sign
from detheads.cli.output import JsonFlag, emit, table
from detheads.foundation.atomic import sized

if TYPE_CHECKING:
    from collections import Counter

    from detheads.foundation.manifest import BundleManifest
    from detheads.foundation.onnx_summary import GraphSummary

app = typer.Typer(help="Look at bundles and work on them, without torch.", no_args_is_help=True)
app.command()(bundle_build.build)
app.command()(bundle_prove.prove)
app.command()(bundle_sign.keygen)
app.command()(bundle_sign.sign)

Bundle = Annotated[Path, typer.Argument(help="Folder NAME.detheads.")]


@app.command()
def inspect(bundle: Bundle, as_json: JsonFlag = False) -> None:
    """What is inside: graph, precision, sizes, licence, heads and classes, engines, and what was proven."""
    from detheads.deploy.prove import read_verdicts
    from detheads.foundation.bundle import onnx_file, read_manifest
    from detheads.foundation.contents import file_sizes
    from detheads.foundation.onnx_summary import summarise

    manifest = read_manifest(bundle)
    graph = summarise(onnx_file(bundle, manifest))
    sizes = file_sizes(bundle)
    devices = read_verdicts(bundle)
    answer = manifest.model_dump(mode="json") | {
        "state": manifest.state,
        "graph": graph.to_dict(),
        "sizes": sizes,
        "bytes": sum(sizes.values()),
        "devices": [verdict.model_dump(mode="json") for verdict in devices],
    }

    def render(console: Console) -> None:
        _print_inspection(console, manifest, graph, sizes)
        for verdict in devices:
            console.print("proven by a device:", *bundle_prove.told(verdict), sep="\n  ")

    emit(answer, as_json, render)


def _print_inspection(
    console: Console, manifest: "BundleManifest", graph: "GraphSummary", sizes: dict[str, int]
) -> None:
    from detheads.foundation.summary import class_rows, head_lines, machines

    inner = f", and {sum(graph.inner_nodes.values())} inside loops" if graph.inner_nodes else ""
    weights = ", ".join(f"{sized(size)} {dtype}" for dtype, size in graph.weights.most_common() if size)
    lines = [
        ("bundle", f"{manifest.name}, {manifest.state}"),
        *head_lines(manifest),
        ("licence", f"{manifest.backbone.licence} (weights of {manifest.backbone.name})"),
        ("precision", f"{manifest.precision}; weights: {weights}"),
        ("graph", f"{manifest.onnx.file}, opset {graph.opset}, {sum(graph.nodes.values())} nodes{inner}"),
        ("operators", _counted(graph.nodes)),
        *([("inside loops", _counted(graph.inner_nodes))] if graph.inner_nodes else []),
        *(("input", str(tensor)) for tensor in graph.inputs),
        *(("output", str(tensor)) for tensor in graph.outputs),
        *machines(manifest),
    ]
    console.print(*(f"{title}: {text}" for title, text in lines), sep="\n")
    console.print(table(("file", "size"), [*((name, sized(size)) for name, size in sizes.items())]))
    several = ["head"] if len(manifest.heads) > 1 else []
    console.print(table((*several, "id", "class", "best score"), class_rows(manifest)))


def _counted(operators: "Counter[str]") -> str:
    return ", ".join(f"{count} {name}" for name, count in operators.most_common())


@app.command()
def check(bundle: Bundle, as_json: JsonFlag = False) -> None:
    """Which operators edge runtimes would refuse: XNNPACK, CoreML, QNN by their lists, OpenVINO and TensorRT by asking.

    What a runtime refuses another one computes, usually the CPU, and the data travels in between.
    """
    from detheads.deploy.edge import check as check_edges

    graph, verdicts = check_edges(bundle)
    nodes = sum(graph.nodes.values())

    def render(console: Console) -> None:
        for verdict in verdicts:
            console.print(f"{verdict.runtime}: {verdict.told(nodes)}")
            console.print(*(f"  {note}" for note in (*verdict.notes, *filter(None, [verdict.asked]))), sep="\n")

    answer = {"nodes": nodes, "operators": dict(graph.nodes.most_common()), "runtimes": [v.to_dict() for v in verdicts]}
    emit(answer, as_json, render)
