"""Text embeddings of class names: read from a file, or computed with open_clip."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detheads.foundation import atomic
from detheads.foundation.arrays import read_arrays
from detheads.foundation.errors import UserError

TEMPLATES = (
    "a {}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "there is a {} in the scene.",
)
"""Eight prompts; their normalised embeddings are averaged (Radford et al. 2021, section 3.1.4, prompt ensembling)."""

COCO_NAMES = (
    """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
""".replace("\n", " ")
    .strip()
    .split(", ")
)
"""COCO's classes in the order of their ids, which files of 80 nameless embeddings follow."""


def load_class_embeddings(path: Path, class_names: Sequence[str]) -> Tensor:
    """Embeddings for a dataset's classes, ``[K, D]`` float32, unit length.

    Args:
        path: ``.npz`` with ``names`` and ``embeddings``, matched by name; or ``.npy`` ``[K, D]`` in the order of the
            classes; or ``.npy`` ``[80, D]`` in COCO's order when every class is one of COCO's.

    Raises:
        UserError: when the file is damaged, lacks a class, or has another number of rows.
    """
    names, values = _read(path)
    if names is None and len(values) == len(COCO_NAMES) and set(class_names) <= set(COCO_NAMES):
        names = COCO_NAMES
    if names is None:
        if len(values) != len(class_names):
            raise UserError(
                f"{path} holds {len(values)} embeddings for {len(class_names)} classes; one each is needed."
            )
        rows = list(range(len(values)))
    else:
        lacking = [name for name in class_names if name not in names]
        if lacking:
            raise UserError(f"{path} has no embedding for {', '.join(lacking[:5])}; add it or leave --text out.")
        rows = [names.index(name) for name in class_names]
    embeddings = torch.from_numpy(values[rows].astype(np.float32))
    lengths = embeddings.norm(dim=1, keepdim=True)
    if not torch.isfinite(embeddings).all() or (lengths == 0).any():
        raise UserError(f"{path} holds embeddings that are zero or not finite.")
    return embeddings / lengths


def compute_class_embeddings(class_names: Sequence[str], model: str, weights: Path) -> Tensor:
    """Prompt-averaged CLIP text embeddings ``[K, D]``, unit length.

    Args:
        model: an open_clip architecture such as ``ViT-L-14``.
        weights: local weight file of it; nothing is downloaded.

    Raises:
        UserError: unknown architecture, or a weight file that does not fit.
    """
    import open_clip
    from safetensors import SafetensorError

    if model not in open_clip.list_models():
        raise UserError(f"open_clip has no architecture {model!r}; 'ViT-L-14' and 'ViT-B-32' are two it has.")
    if not weights.is_file():
        raise UserError(f"the CLIP weight file {weights} does not exist.")
    try:
        clip = open_clip.create_model(model, pretrained=str(weights), weights_only=True).eval()
    # open_clip checks nothing itself: what a damaged or foreign file raises depends on where it fails.
    except (
        AssertionError,
        EOFError,
        KeyError,
        OSError,
        RuntimeError,
        ValueError,
        SafetensorError,
        UnpicklingError,
    ) as e:
        reason = str(e).partition("\n")[0] or type(e).__name__
        raise UserError(f"{weights} is damaged or does not fit open_clip's {model} ({reason}).") from None
    tokenize = open_clip.get_tokenizer(model)
    result = []
    with torch.inference_mode():
        for name in class_names:
            prompts = clip.encode_text(tokenize([template.format(name) for template in TEMPLATES]), normalize=True)
            result.append(torch.nn.functional.normalize(prompts.mean(dim=0), dim=0))
    return torch.stack(result)


def save_class_embeddings(path: Path, class_names: Sequence[str], embeddings: Tensor) -> None:
    """Write names and embeddings as ``.npz``, atomically."""
    with atomic.replacing(path) as partial:
        np.savez(partial, names=np.array(list(class_names)), embeddings=embeddings.numpy())


def _read(path: Path) -> tuple[list[str] | None, NDArray[np.floating]]:
    loaded = read_arrays(path)
    if isinstance(loaded, np.ndarray):
        names, values = None, loaded
    elif {"names", "embeddings"} <= loaded.keys():
        names, values = [str(name) for name in loaded["names"].reshape(-1)], loaded["embeddings"]
    else:
        raise UserError(f"{path} is not an embedding file; give .npy, or .npz with names and embeddings.")
    if values.ndim != 2 or values.dtype.kind != "f" or (names is not None and len(names) != len(values)):
        raise UserError(f"{path} must hold a table of embeddings, one row a class; its shape is {values.shape}.")
    return names, values
