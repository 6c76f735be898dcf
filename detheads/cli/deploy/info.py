"""``detheads deploy info``: what a bundle is."""

from typing import TYPE_CHECKING

from rich.console import Console

from detheads.cli.options import BundleArgument
from detheads.cli.output import JsonFlag, emit, table
from detheads.foundation.geometry import sides

if TYPE_CHECKING:
    from detheads.foundation.manifest import BundleManifest


def info(bundle: BundleArgument, as_json: JsonFlag = False) -> None:
    """What a bundle is: its classes, its graph, and what was proven of it."""
    from detheads.foundation.bundle import onnx_file, read_manifest

    manifest = read_manifest(bundle)
    onnx_file(bundle, manifest)
    answer = manifest.model_dump(mode="json") | {"state": manifest.state}
    emit(answer, as_json, lambda console: _print_info(console, manifest))


def _print_info(console: Console, manifest: "BundleManifest") -> None:
    from detheads.foundation.summary import class_rows, head_lines, machines

    lines = [
        ("bundle", f"{manifest.name}, {manifest.state}"),
        *head_lines(manifest),
        ("backbone", f"{manifest.backbone.name}, licence {manifest.backbone.licence}"),
        ("input", f"{sides(manifest.input.height, manifest.input.width)} pixels, RGB, letterboxed"),
        *machines(manifest),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.tools.items())),
    ]
    console.print(*(f"{title}: {text}" for title, text in lines), sep="\n")
    several = ["head"] if len(manifest.heads) > 1 else []
    console.print(table((*several, "id", "class", "best score"), class_rows(manifest)))
    for rule in {head.best_scores_rule for head in manifest.heads} - {""}:
        console.print(f"best score: {rule}")
