"""Every trainable head on the features of a transformer and of a hierarchical network."""

from collections.abc import Callable

import pytest

from detheads.backbones.features import FeatureSpec
from detheads.headkit import registry
from detheads.headkit.contract import Head
from tests.heads.worlds import SPECS, small_config, small_head, with_blocks


@pytest.fixture(params=sorted(registry.trainable()))
def entry(request: pytest.FixtureRequest) -> registry.Entry:
    return registry.entry(request.param)


@pytest.fixture(params=sorted(SPECS))
def spec(request: pytest.FixtureRequest, entry: registry.Entry) -> FeatureSpec:
    features = SPECS[request.param]
    if entry.head.blocks and len(features.main) > 1:
        pytest.skip(f"{entry.name} reads transformer blocks, which a hierarchical network has not")
    return with_blocks(entry, features)


@pytest.fixture
def head(entry: registry.Entry, spec: FeatureSpec) -> Head:
    """A narrow head of seeded random weights, in evaluation mode."""
    return small_head(entry, spec)


@pytest.fixture
def build(entry: registry.Entry) -> Callable[..., Head]:
    """Build the head with its narrow configuration and further options."""

    def make(spec: FeatureSpec, classes: int, **options: object) -> Head:
        return registry.build(entry.name, with_blocks(entry, spec), classes, small_config(entry) | options)

    return make
