"""A head sees the first batch once before it is trained, and never again."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from detheads.heads.fcos import FCOS
from detheads.training.status import Status
from detheads.training.trainer import Trainer


def test_a_head_starts_from_the_first_batch_and_a_resumed_one_does_not(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Mapping[str, Tensor]] = []
    trained: list[Mapping[str, Tensor]] = []
    forward = FCOS.forward

    def recorded(self: FCOS, features: Mapping[str, Tensor]) -> object:
        trained.append(features)
        return forward(self, features)

    def interrupt(status: Status) -> None:
        if status.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(FCOS, "start_from", lambda self, features: started.append(features))
    monkeypatch.setattr(FCOS, "forward", recorded)
    with pytest.raises(KeyboardInterrupt):
        trainer("fcos", epochs=3, eval_every=3).fit(interrupt)
    assert len(started) == 1
    assert all(torch.equal(values, trained[0][name]) for name, values in started[0].items())
    trainer("fcos", epochs=3, eval_every=3).fit()
    assert len(started) == 1
