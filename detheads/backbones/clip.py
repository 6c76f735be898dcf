"""Text embeddings of class names, computed with open_clip.

OpenAI's CLIP was trained with a cheaper GELU than open_clip's architectures have unless their names end in
``-quickgelu``. The weights load into either, and the wrong one gives embeddings that are wrong without a word: so the
architecture is chosen from the weights, and weights that do not tell are refused.
"""

import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import Tensor

from detheads.backbones.text import Encoder, read_embeddings, save_class_embeddings
from detheads.foundation import atomic
from detheads.foundation.errors import UserError, suggest
from detheads.foundation.progress import Progress, silent
from detheads.foundation.reading import read_json

Activation = Literal["gelu", "quickgelu"]

SINGLE = ("a {}",)
"""What Detic's embeddings of COCO's names and LVIS's were made with (Zhou et al. 2022)."""

TEMPLATES = (
    *SINGLE,
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "there is a {} in the scene.",
)
"""Eight prompts; their normalised embeddings are averaged (Radford et al. 2021, section 3.1.4, prompt ensembling)."""

QUICK = "-quickgelu"
MOST_PROMPTS = 1000
CONFIG_NAME = "open_clip_config.json"
"""Lies beside the weights in a folder that open_clip wrote."""
OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}
"""Only OpenAI's own files have them among their weights."""


@dataclass(frozen=True)
class TextEncoder:
    """A CLIP text encoder; its weights are loaded when they are first needed.

    Attributes:
        architecture: open_clip's name of it, with the activation that the weights were trained with.
    """

    architecture: str
    weights: Path
    weights_sha256: str

    @cached_property
    def model(self) -> torch.nn.Module:
        return _loaded(self.architecture, self.weights)

    def with_prompts(self, prompts: Sequence[str]) -> Encoder:
        """What embeddings of these prompts are made by."""
        return Encoder(self.architecture, self.weights_sha256, tuple(prompts))

    @torch.inference_mode()
    def embed(self, class_names: Sequence[str], prompts: Sequence[str], on_progress: Progress = silent) -> Tensor:
        """The mean of the normalised embeddings of each name's prompts, ``[K, D]``, unit length.

        Raises:
            UserError: when the weights are damaged or do not fit the architecture.
        """
        import open_clip

        tokenize = open_clip.get_tokenizer(self.architecture)
        encode: Any = self.model.encode_text
        rows = []
        for done, name in enumerate(class_names, start=1):
            embedded = encode(tokenize([prompt.replace("{}", name) for prompt in prompts]), normalize=True)
            rows.append(torch.nn.functional.normalize(embedded.mean(dim=0), dim=0))
            on_progress("text", done, len(class_names))
        return torch.stack(rows)


def find_encoder(
    model: str, weights: Path | None = None, pretrained: str | None = None, activation: Activation | None = None
) -> TextEncoder:
    """A text encoder from a local weight file, or from the hub.

    Args:
        model: an open_clip architecture such as ``ViT-L-14``.
        weights: local weight file of it: open_clip's, or OpenAI's own.
        pretrained: else the name of weights that open_clip downloads, such as ``openai``.
        activation: what weights were trained with that do not tell it themselves.

    Raises:
        UserError: an unknown architecture, weights that are missing or cannot be downloaded, or an activation that is
            unknown or another than the weights'.
    """
    import open_clip

    if model not in open_clip.list_models():
        near = suggest(model, open_clip.list_models())
        raise UserError(f"open_clip has no architecture {model!r}; 'ViT-L-14' and 'ViT-B-32' are two it has.{near}")
    if weights is None:
        weights, known = _downloaded(model, pretrained or "")
    else:
        if not weights.is_file():
            raise UserError(f"the CLIP weight file {weights} does not exist.")
        known = None
    sha256 = atomic.sha256_of(weights)
    architecture = chosen_architecture(model, weights, known or activation_of(weights, sha256), activation)
    return TextEncoder(architecture, weights, sha256)


@dataclass(frozen=True)
class Made:
    """A file of embeddings: how many were computed (the others were in it), and how many numbers each has."""

    computed: int
    dimension: int


def embed_classes(
    path: Path, class_names: Sequence[str], encoder: TextEncoder, prompts: Sequence[str], on_progress: Progress = silent
) -> Made:
    """Write the embeddings of classes to ``path``; those that the file has by the same encoder and prompts stay.

    Raises:
        UserError: when the weights are damaged or do not fit the architecture.
    """
    made_by = encoder.with_prompts(prompts)
    kept = _rows_by_name(path, made_by)
    new = [name for name in class_names if name not in kept]
    if new:
        kept |= dict(zip(new, encoder.embed(new, prompts, on_progress), strict=True))
    rows = torch.stack([kept[name] for name in class_names])
    save_class_embeddings(path, class_names, rows, made_by)
    return Made(len(new), rows.shape[1])


def _rows_by_name(path: Path, made_by: Encoder) -> dict[str, Tensor]:
    """What a file holds already; nothing where there is none, or it was made by something else."""
    try:
        found = read_embeddings(path)
    except UserError:
        return {}
    return dict(zip(found.names or (), found.rows, strict=True)) if found.encoder == made_by else {}


def chosen_architecture(model: str, weights: Path, known: Activation | None, said: Activation | None) -> str:
    """The architecture with the activation of the weights.

    Args:
        model: as asked for, with or without ``-quickgelu``.
        known: what the weights tell.
        said: what the user says.

    Raises:
        UserError: when the two contradict each other, or nothing tells.
    """
    import open_clip

    plain = model.removesuffix(QUICK)
    has_both = {plain, plain + QUICK} <= set(open_clip.list_models())
    asked: Activation | None = said or ("quickgelu" if model.endswith(QUICK) else None)
    if known and asked and known != asked:
        raise UserError(
            f"{weights} was trained with {known}, and {asked} is asked for; its embeddings would be wrong: give "
            f"--model {plain} without --activation."
        )
    if not has_both:
        return model
    if known is None and asked is None:
        raise UserError(
            f"nothing tells whether {weights} was trained with QuickGELU, as OpenAI's weights were, and with the wrong "
            "one the embeddings are wrong; say it with --activation quickgelu or --activation gelu."
        )
    return plain + QUICK if (known or asked) == "quickgelu" else plain


def activation_of(weights: Path, sha256: str) -> Activation | None:
    """What a local weight file was trained with; None where neither it nor its folder tells.

    Told by open_clip's own table of weights (by digest), the configuration beside the file, or OpenAI's format.
    """
    for config in _pretrained():
        stated = _stated_digest(config.get("url", ""))
        if stated and sha256.startswith(stated):
            return "quickgelu" if config.get("quick_gelu") else "gelu"
    beside = weights.parent / CONFIG_NAME
    if beside.is_file():
        written = read_json(beside)
        model = written.get("model_cfg") if isinstance(written, dict) else None
        if isinstance(model, dict):
            return "quickgelu" if model.get("quick_gelu") else "gelu"
    return "quickgelu" if _is_archive(weights) else None


def parse_prompts(text: str) -> tuple[str, ...]:
    """``8``, ``1``, or a text file with one prompt a line, ``{}`` where the name of the class goes.

    Raises:
        UserError: when it is none of them, or a prompt has no place for the name.
    """
    if text in ("1", "8"):
        return SINGLE if text == "1" else TEMPLATES
    path = Path(text)
    if not path.is_file():
        raise UserError(f"--prompts is 8, 1 or a text file with one prompt a line, not {text!r}.")
    try:
        prompts = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8.") from None
    if not 0 < len(prompts) <= MOST_PROMPTS:
        raise UserError(f"{path} holds {len(prompts)} prompts; from 1 to {MOST_PROMPTS} may be averaged.")
    for prompt in prompts:
        if "{}" not in prompt:
            raise UserError(f"{path} has the prompt {prompt!r} without {{}}, the place of the name.")
    return prompts


def _downloaded(model: str, tag: str) -> tuple[Path, Activation]:
    """Weights from the hub, and what they were trained with."""
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

    config = get_pretrained_cfg(model, tag) or get_pretrained_cfg(model.removesuffix(QUICK), tag)
    if not config:
        tags = list_pretrained_tags_by_model(model)
        raise UserError(f"open_clip has no weights {tag!r} of {model}, but {', '.join(tags) or 'none'}.")
    try:
        path = Path(download_pretrained(config))
    except Exception as error:  # the hub's and urllib's own errors, which share no base class
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"the weights {tag} of {model} could not be downloaded ({reason}); give a local file with --weights."
        ) from None
    return path, "quickgelu" if config.get("quick_gelu") else "gelu"


def _loaded(architecture: str, weights: Path) -> torch.nn.Module:
    import open_clip
    from safetensors import SafetensorError

    try:
        if not _is_archive(weights):
            return open_clip.create_model(architecture, pretrained=str(weights), weights_only=True).eval()
        model = open_clip.create_model(architecture, load_weights=False, pretrained_text=False)
        state = torch.jit.load(str(weights), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        model.load_state_dict({name: value for name, value in state.items() if name not in OPENAI_KEYS})
        return model.eval()
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
        raise UserError(f"{weights} is damaged or does not fit open_clip's {architecture} ({reason}).") from None


def _is_archive(weights: Path) -> bool:
    """Whether a file is a TorchScript archive, the format of OpenAI's own weights."""
    try:
        with zipfile.ZipFile(weights) as archive:
            return any(re.search(r"/code/.*\.py$", name) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _pretrained() -> Iterator[dict[str, Any]]:
    """What open_clip says of each of the weights that it knows."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    for model, tag in open_clip.list_pretrained():
        yield get_pretrained_cfg(model, tag)


def _stated_digest(url: str) -> str:
    """The SHA-256, or its beginning, that the address of a weight file holds, as open_clip itself reads it."""
    if "openaipublic" in url:
        return url.split("/")[-2]
    found = re.search(r"-([0-9a-f]{8})\.pth?$", url) if "mlfoundations" in url else None
    return found[1] if found else ""
