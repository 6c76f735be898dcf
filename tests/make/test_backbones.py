"""Which backbones are compared, and that the better one is taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from timm.models import get_pretrained_cfg

from detheads.backbones.spec import SPECS
from detheads.backbones.weights import at_hand
from detheads.cli.make import named_backbones
from detheads.foundation.errors import UserError
from detheads.make.backbones import candidates_at_hand
from detheads.make.budget import parse_budget
from detheads.make.request import BACKBONE, Candidate, Request


def _download(folder: Path, name: str) -> None:
    """A file where the hub's client would have put the weights of a backbone."""
    repository = get_pretrained_cfg(SPECS[name].timm_name).hf_hub_id
    place = folder / f"models--{repository.replace('/', '--')}"
    (place / "snapshots" / "1234").mkdir(parents=True)
    (place / "snapshots" / "1234" / "model.safetensors").touch()
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("1234")


def test_backbones_whose_weights_are_here_for_all_use_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert candidates_at_hand() == [Candidate(BACKBONE)]
    _download(tmp_path, "dinov2_vits14")
    _download(tmp_path, "eupe_vitb16")  # for research only
    assert at_hand(SPECS["eupe_vitb16"])
    assert candidates_at_hand() == [Candidate(BACKBONE), Candidate("dinov2_vits14")]


def test_each_backbone_comes_with_its_own_weights() -> None:
    named = named_backbones(["effnet_lite0", "timm:vit=a=b.safetensors"], None)
    assert named == [Candidate("effnet_lite0"), Candidate("timm:vit", Path("a=b.safetensors"))]
    assert named_backbones(["dinov2_vits14"], Path("w.pth")) == [Candidate("dinov2_vits14", Path("w.pth"))]


@pytest.mark.parametrize(
    ("named", "weights", "sentence"),
    [
        (["effnet_lite0", "effnet_lite0=x.pth"], None, "names effnet_lite0 twice"),
        (["effnet_lite0", "dinov2_vits14"], Path("x.pth"), "write --backbone NAME=WEIGHTS for each of several"),
    ],
)
def test_backbones_that_cannot_be_told_apart_are_refused(named: list[str], weights: Path, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        named_backbones(named, weights)


@pytest.mark.slow
def test_the_better_of_two_backbones_is_used_and_its_features_once_more(
    scenes: Path, tmp_path: Path, request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from timm import create_model

    from detheads.make import backbones, run

    torch.manual_seed(0)
    blank = tmp_path / "blank.pth"  # a backbone that sees nothing
    torch.save({name: torch.zeros_like(value) for name, value in create_model("test_vit").state_dict().items()}, blank)
    monkeypatch.setattr(backbones, "FEWEST_STEPS", 1)
    monkeypatch.setattr(backbones, "MOST_STEPS", 12)
    request = request_for(
        scenes,
        budget=parse_budget("best"),
        backbone="timm:test_vit",
        weights=blank,
        rivals=(Candidate(BACKBONE),),
        size=(96, 96),
        head="slim_fcos",
        options={"width": 32},
        epochs=3,
        precision="fp32",
    )
    made: Any = run.make(request)
    assert made.backbone == BACKBONE
    assert [sentence.partition(" reaches AP ")[0] for sentence in made.why["backbone"][1:]] == [
        "timm:test_vit",
        BACKBONE,
    ]
    again = run.make(request)
    assert (again.backbone, again.AP) == (made.backbone, made.AP)
