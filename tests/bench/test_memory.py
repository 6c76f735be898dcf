"""Peak memory of the process, as the kernel counts it."""

from detheads.bench.memory import peak_memory_mb


def test_peak_memory_keeps_what_was_given_back() -> None:
    held = bytearray(b"x") * 300_000_000
    during = peak_memory_mb()
    assert during > len(held) / 1e6
    del held
    assert peak_memory_mb() > during - 100  # the kernel counts in batches
