"""A bundle's README.md is a model card as the hub's own library reads it."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from detheads.export.model_card import model_card
from detheads.foundation.bundle import read_manifest
from detheads.foundation.manifest import BundleManifest


def with_licence(manifest: BundleManifest, licence: str) -> BundleManifest:
    return manifest.model_copy(update={"backbone": manifest.backbone.model_copy(update={"licence": licence})})


def test_the_hubs_library_reads_the_measured_figure_and_how_to_use_it(bundle: Path) -> None:
    card = ModelCard.load(bundle / "README.md")
    manifest = read_manifest(bundle)
    assert manifest.verification is not None
    assert (card.data.license, card.data.pipeline_tag) == ("apache-2.0", "object-detection")
    assert card.data.library_name == "detheads"
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(manifest.verification.artefacts[0].map, abs=1e-6)
    assert (result.dataset_name, result.dataset_split) == ("pictures of it", "val")
    assert "detheads deploy run" in card.text
    assert "größte Eule" in card.text


def test_a_bundle_that_is_not_proven_claims_no_figure(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    unproven = manifest.with_head(manifest.first.model_copy(update={"verification": None}))
    card = ModelCard(model_card(unproven))
    assert card.data.eval_results is None
    assert "state: unverified" in card.text


@pytest.mark.parametrize(
    ("licence", "name"),
    [
        ("FAIR Noncommercial Research License", "fair-noncommercial-research-license"),
        ("DINOv3 License", "dinov3-license"),
        ("House rules: ask", "House rules: ask"),
    ],
)
def test_a_licence_that_the_hub_has_no_word_for_is_other_with_its_name(bundle: Path, licence: str, name: str) -> None:
    data = ModelCard(model_card(with_licence(read_manifest(bundle), licence))).data
    assert (data.license, data.license_name) == ("other", name)
