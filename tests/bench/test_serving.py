"""A server under load, beside the bare session."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.bench.load import put_load
from detheads.deploy.serving.settings import Settings
from detheads.foundation.errors import UserError
from tests.deploy.serving.conftest import running
from tests.export.toy import Toy


def test_the_load_is_what_the_server_counts(bundle: Path, toy: Toy) -> None:
    content = (toy.images / "bild 4.png").read_bytes()
    with running({"toy": bundle}, Settings(threads=1)) as (client, models):
        address = str(client.base_url)
        load = put_load(address, content, clients=3, seconds=0.3)
        assert load.failed == 0
        assert len(load.latencies) == models.traffic.accepted == models.traffic.answered > 3
        assert 0 < load.rate <= len(load.latencies) / 0.3
        with pytest.raises(UserError, match="answered none of"):
            put_load(address, b"no picture", clients=1, seconds=0.1)


@pytest.mark.slow
def test_the_benchmark_relates_servers_to_the_bare_session(bundle: Path, detheads: Callable[..., Any]) -> None:
    done = detheads("bench", "serve", bundle, "--seconds", 0.5, "--rounds", 1, "--clients", 4, "--threads", 1, "--json")
    answer = json.loads(done.out)
    for name, batch in (("alone", 8), ("single", 1), ("batched", 8)):
        assert answer[name]["max_batch"] == batch
        assert answer[name]["failed"] == 0
        assert answer[name]["ratio"] == pytest.approx(answer[name]["rate"] / answer[name]["bare"])
        assert 0 < answer[name]["p50"] <= answer[name]["p99"]
    assert answer["gain"] == pytest.approx(answer["batched"]["rate"] / answer["single"]["rate"])
    assert "turns" in done.err
