"""Every control of every head can be built, and says what it is compared for."""

from typing import get_args

import pytest

from detheads.headkit import registry
from detheads.headkit.controls import Metric

CONTROLS = [(name, idea) for name, found in registry.entries().items() for idea in found.head.controls]


@pytest.mark.parametrize(("head", "idea"), CONTROLS)
def test_a_control_is_another_setting_of_options_the_head_has(head: str, idea: str) -> None:
    found = registry.entry(head)
    control = found.head.controls[idea]
    assert registry.config_dict(found, control.options) != registry.config_dict(found, {})
    assert control.metric in get_args(Metric)
    assert control.claim.endswith(".")
    assert idea.isidentifier()
