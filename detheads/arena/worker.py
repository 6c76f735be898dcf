"""A process of its own for one head: ``python -m detheads.arena.worker JOB.json``.

What kills it kills no other head. It prints one JSON line a step; its row is in its file before it exits with 0.
Exit code 3 means that the disk is full, which is no fault of the head.
"""

import errno
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from detheads.arena.contest import Job, compete, describe, failed
from detheads.arena.records import write_row
from detheads.training.status import Status

DISK_FULL = 3
GONE = 1
"""Exit code when nobody listens any more."""
REPORT_SECONDS = 0.5


def run(job: Job, parent: int) -> int:
    """Train the head and write its row. Ends when the process ``parent`` is gone."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    last = 0.0

    def on_step(status: Status) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_SECONDS or status.step == status.total_steps:
            last = time.monotonic()
            try:
                sys.stdout.write(json.dumps({"step": status.step, "total": status.total_steps}) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:  # the arena was killed, which is no fault of the head: no row
                os._exit(GONE)

    try:
        try:
            row = compete(job, on_step)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise
            traceback.print_exc()
            row = failed(job, describe(error))
        write_row(job.arena, row)
    except OSError as error:
        traceback.print_exc()
        return DISK_FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else 1
    return 0


def _end_with(parent: int) -> None:
    """Waiting for the next step instead would take as long as an evaluation, and the run folder is locked meanwhile."""
    while os.getppid() == parent:
        time.sleep(REPORT_SECONDS)
    os._exit(GONE)


if __name__ == "__main__":
    sys.exit(run(Job.model_validate_json(Path(sys.argv[1]).read_text("utf-8")), os.getppid()))
