"""Lines about a bundle for a reader: on which machines it runs, and what its proof says. Torch-free."""

from typing import Final

from detheads.foundation.atomic import sized
from detheads.foundation.gpus import build_command, served
from detheads.foundation.manifest import BundledHead, BundleManifest

UNDEFINED: Final = "undefined"
NOT_ENOUGH: Final = "the images are not enough to prove the tolerance for others like them"
AGREEMENT: Final = "the pictures have no labels of these classes, so mAP tells how far both sides agree, not how well"
LIBRARIES: Final = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""How libraries are called in a sentence."""
BATCH: Final = (1, 4, 8)
"""Batch sizes of an engine that is still to be built."""
HOSTS: Final = (
    "wherever ONNX Runtime does (pip install 'detheads[cpu]'): Linux, macOS and Windows on x86-64, and 64-bit ARM such "
    "as Raspberry Pi 4 and 5, NVIDIA Jetson and Apple's"
)


def machines(manifest: BundleManifest) -> list[tuple[str, str]]:
    """Which machines each file of a bundle serves, and how to build an engine for another GPU: title and text."""
    graph = manifest.onnx
    lines = [(graph.file, f"{sized(graph.bytes)}, runs {HOSTS}")]
    for engine in manifest.engines:
        batch = ":".join(map(str, engine.batch))
        serves = served(engine.compute_capabilities)
        lines.append(
            (engine.file, f"{sized(engine.bytes)}, {engine.builder}, batch {batch}, {engine.status}; for {serves}")
        )
    command = build_command(graph.file, manifest.input.height, manifest.input.width, BATCH)
    advice = f"build an engine on the machine itself (a Jetson, an H100): detheads bundle build BUNDLE, or {command}"
    lines.append(("other GPUs", advice))
    return lines


def head_lines(manifest: BundleManifest) -> list[tuple[str, str]]:
    """What each head of a bundle is and what was proven of it: title and text."""
    lines = []
    for head in manifest.heads:
        name = manifest.prefix(head).replace(".", " ")
        limits = head.thresholds
        found = f"score over {limits.score:g}, IoU up to {limits.nms_iou:g}, {limits.max_detections} an image at most"
        lines += [
            (f"{name}head", f"{head.head.name}, {head.head.parameters:,} parameters, {len(head.classes)} classes"),
            (f"{name}detections", found),
            (f"{name}proof", proof_line(manifest, head)),
            *((f"{name}not proven", reason) for reason in (head.verification.reasons if head.verification else ())),
        ]
    return lines


def class_rows(manifest: BundleManifest) -> list[tuple[str | int, ...]]:
    """The head where there are several, id, name and best score of each class."""
    return [
        (
            *([head.name] if len(manifest.heads) > 1 else []),
            entry.id,
            entry.name,
            f"{best:.2f}" if (best := (head.best_scores or {}).get(entry.name)) is not None else "not measured",
        )
        for head in manifest.heads
        for entry in head.classes
    ]


def proof_line(manifest: BundleManifest, head: BundledHead | None = None) -> str:
    """What the last proof of a head, the first by default, says."""
    proof = (head or manifest.first).verification
    if proof is None:
        return "none: nobody compared the bundle with the model it was made from"
    if proof.onnx_sha256 != manifest.onnx.sha256:
        return "of another graph; verify the bundle again"
    live, shipped = (UNDEFINED if ap is None else f"{ap:.4f}" for ap in (proof.map_live, proof.artefacts[0].map))
    about = caveat(proof.own_labels, proof.training_pictures, proof.images)
    doubt = NOT_ENOUGH if proof.passed and proof.shortcomings else ""
    notes = "".join(f"; {note}" for note in (doubt, about) if note)
    library = proof.artefacts[0].runtime.partition(" ")[0]
    return (
        f"{'holds' if proof.passed else 'FAILED'}: mAP {live} in PyTorch, {shipped} in "
        f"{LIBRARIES.get(library, library)} on {proof.images} pictures of {proof.dataset} {proof.split}"
        f"{notes}"
    )


def caveat(own_labels: bool, training: int | None, images: int) -> str:
    """Why the figures of a proof say nothing of how well a model detects; empty where they do.

    Args:
        own_labels: what the model finds stood for objects.
        training: pictures of the proof that the model is known to have learned from.
        images: pictures of the proof.
    """
    seen = f"{'these' if (training or 0) >= images else f'{training} of these'} are training pictures"
    return "; ".join([*([AGREEMENT] if own_labels else []), *([seen] if training else [])])
