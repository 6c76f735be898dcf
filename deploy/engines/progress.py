"""A build that can be watched and interrupted."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from detheads.foundation.progress import Progress

STEP = "TensorRT engine"
HUNDRED = 100


def watched_build(trt: Any, builder: Any, network: Any, config: Any, on_progress: Progress) -> Any:
    """``build_serialized_network``, told in hundredths; Ctrl+C ends it at the library's next step.

    The library works in a thread of its own: an interruption is raised here, in the caller's thread, and not inside a
    callback of the library, which would print it and go on.
    """
    monitor = _new_monitor(trt, on_progress)
    config.progress_monitor = monitor
    with ThreadPoolExecutor(1, thread_name_prefix="engine") as pool:
        building = pool.submit(builder.build_serialized_network, network, config)
        try:
            serialised = building.result()
        except BaseException:
            while not building.done():
                with suppress(KeyboardInterrupt):  # pressed again: the thread cannot be left behind alive
                    monitor.stopped.set()
                    wait([building])
            raise
    if serialised is not None:
        on_progress(STEP, HUNDRED, HUNDRED)
    return serialised


def _new_monitor(trt: Any, on_progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        """Called from several threads of the library, inside nested phases of a known number of steps."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = threading.Event()
            self._fraction = Fraction()
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._fraction.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                self._fraction.done(phase_name, step + 1)
                done = int(HUNDRED * self._fraction.value)
            if not self.stopped.is_set():
                on_progress(STEP, done, HUNDRED)
            return not self.stopped.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._fraction.finish(phase_name)

    return Monitor()


class Fraction:
    """How much of nested phases is done, from 0 to 1; it never falls."""

    def __init__(self) -> None:
        self._value = 0.0
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps done, steps in all

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self._phases[phase] = parent, 0, max(1, steps)

    def done(self, phase: str, count: int) -> None:
        if phase in self._phases:
            parent, _, steps = self._phases[phase]
            self._phases[phase] = parent, min(count, steps), steps

    def finish(self, phase: str) -> None:
        self._phases.pop(phase, None)

    @property
    def value(self) -> float:
        roots = [phase for phase, (parent, _, _) in self._phases.items() if parent not in self._phases]
        self._value = max(self._value, min(1.0, sum(map(self._of, roots)) / max(1, len(roots))))
        return self._value

    def _of(self, phase: str) -> float:
        _, done, steps = self._phases[phase]
        inner = [child for child, (parent, _, _) in self._phases.items() if parent == phase]
        share = sum(map(self._of, inner)) / len(inner) if inner else 0.0
        return min(1.0, (done + share) / steps)
