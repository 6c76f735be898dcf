"""How many cores a process may use: those it is bound to, and no more than its container's share of time keeps busy."""

import os
from pathlib import Path

import pytest

from detheads.foundation import cores
from detheads.foundation.cores import available_cores, fitting_threads

QUOTAS = {
    "version 2, in a container": ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    "version 2, a group inside groups": (
        "0::/pods/one\n",
        {"cpu.max": "max 100000\n", "pods/cpu.max": "200000 100000\n", "pods/one/cpu.max": "300000 100000\n"},
        2,
    ),
    "version 2, beside version 1": ("3:memory:/m\n0::/a\n", {"unified/a/cpu.max": "50000 100000\n"}, 1),
    "version 1": (
        "7:memory:/\n4:cpu,cpuacct:/docker/0123\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    "version 1, its own group": (
        "4:cpu:/docker/0123\n",
        {"cpu/docker/0123/cpu.cfs_quota_us": "25000\n", "cpu/docker/0123/cpu.cfs_period_us": "50000\n"},
        1,
    ),
    "no limit in version 2": ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
    "no limit in version 1": ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    "more than the machine has": ("0::/\n", {"cpu.max": "9900000 100000\n"}, 64),
    "another controller's group": ("4:cpuset:/\n", {"cpuset/cpu.max": "100000 100000\n"}, 64),
    "nonsense": ("0::/\nx\n4:cpu\n", {"cpu.max": "many\n", "cpu/cpu.cfs_quota_us": "100000\n"}, 64),
    "no control groups at all": ("", {}, 64),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_a_share_of_time_is_a_number_of_cores(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, files, expected = QUOTAS[name]
    for file, content in {"proc/self/cgroup": said, **{f"sys/fs/cgroup/{key}": files[key] for key in files}}.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert available_cores(tmp_path) == expected


def test_a_process_bound_to_few_cores_has_those(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert available_cores(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores(tmp_path) == os.cpu_count()


@pytest.mark.parametrize(
    ("available", "asked", "given"), [(2, None, 2), (2, 3, 3), (4, None, None), (4, 1, 1)], ids=str
)
def test_a_library_is_told_the_limit_unless_there_is_none_or_the_user_said_otherwise(
    available: int, asked: int | None, given: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(cores, "available_cores", lambda: available)
    assert fitting_threads(asked) == given
