"""How much memory a process may use: the machine's, or its container's."""

from pathlib import Path

import pytest

from detheads.foundation.memory import available_memory

MEMINFO = (
    "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    800 kB\nSwapTotal:       50 kB\nnonsense\n"
)
KILO = 1024
LIMITS = {
    "version 2": ("0::/\n", {"memory.max": "512000\n", "memory.current": "112000\n"}, 512_000, 400_000),
    "version 2, the outer group is tighter": (
        "0::/pods/one\n",
        {"pods/one/memory.max": "900000\n", "pods/memory.max": "300000\n", "pods/memory.current": "299000\n"},
        300_000,
        1000,
    ),
    "version 1": (
        "9:memory:/docker/0123\n",
        {"memory/memory.limit_in_bytes": "204800\n", "memory/memory.usage_in_bytes": "4800\n"},
        204_800,
        200_000,
    ),
    "more is used than is allowed": ("0::/\n", {"memory.max": "1000\n", "memory.current": "2000\n"}, 1000, 0),
    "no limit in version 2": ("0::/\n", {"memory.max": "max\n", "memory.current": "112000\n"}, 1000 * KILO, 800 * KILO),
    "no limit in version 1": (
        "9:memory:/\n",
        {"memory/memory.limit_in_bytes": "9223372036854771712\n"},
        1000 * KILO,
        800 * KILO,
    ),
    "another controller's group": ("3:cpu:/\n", {"cpu/memory.max": "5\n"}, 1000 * KILO, 800 * KILO),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_tightest_limit_counts(name: str, tmp_path: Path) -> None:
    said, files, allowed, free = LIMITS[name]
    planted = {"proc/meminfo": MEMINFO, "proc/self/cgroup": said}
    planted |= {f"sys/fs/cgroup/{key}": content for key, content in files.items()}
    for file, content in planted.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    found = available_memory(tmp_path)
    assert (found.total, found.allowed, found.free, found.swap) == (1000 * KILO, allowed, free, 50 * KILO)
