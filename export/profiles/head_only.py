"""Features in, boxes out: for those who run the backbone anyway, and an artefact without a weight of it.

The graph is the part of the bundle's own behind the backbone, in the same precision.
"""

import json

from detheads.deploy.hosts.labels import label_file
from detheads.export.names import feature_name
from detheads.export.profiles.profile import Built, Profile, Request
from detheads.export.profiles.surgery import Shape, without_beginning
from detheads.export.tail import with_suppression


class HeadOnly(Profile):
    name = "head-only"
    host = "programs that run the backbone themselves"
    preprocessing = "the program's, best as ours: aspect kept, antialiased bilinear, centred, grey 114; the backbone"
    features = True

    def build(self, request: Request) -> Built:
        """``model.onnx``, ``features.json`` and ``labels.txt``."""
        spec, backbone = request.spec, request.trained.backbone
        shapes: dict[str, Shape] = {
            layer.name: ["batch", layer.channels, spec.height // layer.stride, spec.width // layer.stride]
            for layer in spec.layers
        }
        dense = without_beginning(request.dense, {feature_name(name): name for name in shapes}, shapes)
        graph = with_suppression(dense, request.thresholds, spec.height, spec.width)
        read = {entry.name for entry in graph.graph.input}
        inside = f"of the head alone, trained on features of {backbone.spec.name}"
        absent = f"those of {backbone.spec.name}, licensed under: {backbone.spec.licence}"
        description = {
            "backbone": backbone.spec.name,
            "timm_name": backbone.spec.timm_name,
            "weights_sha256": backbone.weights_sha256,
            "weights_inside": inside,
            "weights_not_inside": absent,
            "picture": {"width": spec.width, "height": spec.height, "letterbox": "centred, grey 114, bilinear"},
            "normalisation": {"divide_by": 255, "mean": backbone.spec.mean, "std": backbone.spec.std},
            "inputs": {name: shape for name, shape in shapes.items() if name in read},
        }
        texts = {
            "features.json": json.dumps(description, indent=2, ensure_ascii=False) + "\n",
            "labels.txt": label_file(request.classes),
        }
        metadata = {
            "detheads.licence": f"the weights inside are {inside}; not inside are {absent}",
            "detheads.normalisation": "outside the graph, before the backbone",
        }
        return Built(graph, "model.onnx", texts, metadata)


PROFILE = HeadOnly()
