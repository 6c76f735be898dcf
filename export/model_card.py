"""The ``README.md`` that makes a bundle's folder a model repository of the Hugging Face hub.

Its front matter is written by ``huggingface_hub``, which ``timm`` brings.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData

from detheads.foundation import atomic
from detheads.foundation.geometry import sides
from detheads.foundation.manifest import BundledHead, BundleManifest
from detheads.foundation.summary import proof_line
from detheads.report.markdown import plain

CARD_NAME: Final = "README.md"
LICENCES: Final[Mapping[str, Mapping[str, str]]] = {
    "apache-2.0": {"license": "apache-2.0"},
    "mit": {"license": "mit"},
    "dinov3 license": {
        "license": "other",
        "license_name": "dinov3-license",
        "license_link": "https://ai.meta.com/resources/models-and-libraries/dinov3-license",
    },
    "fair noncommercial research license": {
        "license": "other",
        "license_name": "fair-noncommercial-research-license",
        "license_link": "https://huggingface.co/facebook/fair_noncommercial_research_license/blob/main/LICENSE",
    },
}
"""The hub's words for the licences of backbones, in lower case; any other is ``other`` under its own name."""


def write_card(folder: Path, manifest: BundleManifest) -> None:
    """Write the card of a bundle into its folder."""
    atomic.write_text(folder / CARD_NAME, model_card(manifest))


def model_card(manifest: BundleManifest) -> str:
    """Front matter and text of a bundle's card. Only a proof that holds, of this graph, gives figures."""
    data = ModelCardData(
        **_licence(manifest.backbone.licence),
        library_name="detheads",
        pipeline_tag="object-detection",
        tags=["object-detection", "onnx", manifest.precision, *_named(manifest)],
        model_name=manifest.name,
        eval_results=[result for head in manifest.heads for result in _results(manifest, head)] or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(_text(manifest)) + "\n"


def _licence(licence: str) -> dict[str, Any]:
    known = LICENCES.get(licence.lower())
    return dict(known) if known else {"license": "other", "license_name": licence}


def _named(manifest: BundleManifest) -> list[str]:
    return list(dict.fromkeys([manifest.backbone.name, *(head.head.name for head in manifest.heads)]))


def _results(manifest: BundleManifest, head: BundledHead) -> list[EvalResult]:
    proof = head.verification
    if proof is None or manifest.state_of(head) != "verified":
        return []
    artefact = proof.artefacts[0]
    if artefact.map is None or proof.own_labels:
        return []
    return [
        EvalResult(
            task_type="object-detection",
            dataset_type=proof.dataset,
            dataset_name=proof.dataset,
            dataset_split=proof.split,
            metric_type="mean_average_precision",
            metric_name=f"AP at IoU 0.50:0.95 ({artefact.file}{f', {head.name}' if len(manifest.heads) > 1 else ''})",
            metric_value=round(artefact.map, 6),
        )
    ]


def _text(manifest: BundleManifest) -> list[str]:
    size = sides(manifest.input.height, manifest.input.width)
    lines = [
        f"# {plain(manifest.name)}",
        "",
        f"An object detector in one graph, from raw pixels to final boxes: backbone {plain(manifest.backbone.name)}, "
        f"{size} px, {manifest.precision}. Made with detheads; state: {manifest.state}.",
        "",
        f"Licence of the backbone's weights, which the graph contains: {plain(manifest.backbone.licence)}.",
        "",
        "## Use",
        "",
        "```console",
        "$ pip install 'detheads[cpu]'",
        "$ detheads deploy run FOLDER photos/ -o results",
        "$ detheads bundle inspect FOLDER",
        "```",
        "",
        "```python",
        "from detheads import Detector",
        "",
        'found = Detector("FOLDER")("photo.jpg")',
        "print(found.names, found.scores, found.boxes)",
        "```",
    ]
    for head in manifest.heads:
        names = ", ".join(plain(entry.name) for entry in head.classes)
        which = f"{plain(head.name)}: " if len(manifest.heads) > 1 else ""
        lines += ["", f"## {which}{plain(head.head.name)}", "", f"Classes: {names}.", ""]
        lines.append(f"Proof: {plain(proof_line(manifest, head))}.")
    return [*lines, "", "All figures of the proof are in `report.md` and `report.json`, where it was made."]
