"""Whether pictures of several requests run together is measured, unless it was said."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detheads.deploy.serving.settings import Settings
from detheads.deploy.serving.warm import warm_up
from detheads.foundation.errors import UserError


class Model:
    """Takes so many seconds for a run, and for each picture of it."""

    def __init__(self, run: float, picture: float, most: int = 100) -> None:
        self.seconds, self.most, self.sizes = (run, picture), most, list[int]()
        self.session = self
        self.manifest = SimpleNamespace(input=SimpleNamespace(height=4, width=6))

    def run(self, images: np.ndarray[Any, Any]) -> None:
        assert images.shape[1:] == (3, 4, 6)
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise RuntimeError("the engine takes\nfewer")
        time.sleep(self.seconds[0] + len(images) * self.seconds[1])


@pytest.mark.parametrize(
    ("model", "settings", "together"),
    [
        (Model(0.02, 0.0), Settings(), 8),
        (Model(0.0, 0.02), Settings(), 1),
        (Model(0.0, 0.01), Settings(max_batch=4, gather=True), 4),
        (Model(0.01, 0.0), Settings(max_batch=1), 1),
    ],
)
def test_batches_are_formed_where_they_pay_or_were_asked_for(model: Any, settings: Settings, together: int) -> None:
    assert warm_up("toy", model, settings) == together
    assert {1, settings.max_batch} <= set(model.sizes)


def test_a_batch_that_cannot_be_run_is_told_with_the_option() -> None:
    with pytest.raises(UserError, match=r"toy does not run 8 pictures at once \(the engine takes fewer\); lower"):
        warm_up("toy", Model(0, 0, most=4), Settings())  # type: ignore[arg-type]
