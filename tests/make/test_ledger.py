"""Decisions outlive the process that made them, and belong to what was asked."""

from pathlib import Path

import pytest

from detheads.foundation.errors import UserError
from detheads.make.ledger import LEDGER_NAME, Ledger

ASKED = {"budget": "10m", "size": None}


def test_a_decision_is_made_once_and_times_of_all_attempts_add_up(tmp_path: Path) -> None:
    first = Ledger(tmp_path, ASKED)
    first.keep()
    with pytest.raises(KeyboardInterrupt), first.step("cache"):
        assert first.decided("epochs", lambda: 12) == 12
        raise KeyboardInterrupt
    again = Ledger(tmp_path, ASKED)
    assert again.decided("epochs", lambda: 99) == 12
    before = again.elapsed
    with again.step("cache"):
        pass
    assert again.elapsed >= before
    assert set(again.seconds) == {"cache"}


def test_another_request_is_decided_anew(tmp_path: Path) -> None:
    first = Ledger(tmp_path, ASKED)
    first.keep()
    first.decided("epochs", lambda: 12)
    assert Ledger(tmp_path, {**ASKED, "budget": "1h"}).decided("epochs", lambda: 60) == 60


def test_nothing_is_written_before_it_is_to_be_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, ASKED)
    with ledger.step("look"):
        ledger.decided("remarks", lambda: ["one"])
    assert not list(tmp_path.iterdir())
    ledger.keep()
    assert Ledger(tmp_path, ASKED).decided("remarks", list) == ["one"]


@pytest.mark.parametrize("text", ["[]", '{"asked": {}, "decisions": 3, "seconds": {}}', '{"asked": {}}'])
def test_a_damaged_ledger_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / LEDGER_NAME).write_text(text)
    with pytest.raises(UserError, match=r"decisions\.json is damaged; delete it"):
        Ledger(tmp_path, ASKED)
