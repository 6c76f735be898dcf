"""Threads that work beside a computation."""

import torch
from threadpoolctl import threadpool_limits


def compute_alone() -> None:
    """Let torch compute in the calling thread alone from now on; the other threads stay as they are.

    Otherwise each thread that calls torch gets a team of OpenMP threads of its own. Once there are more of them than
    cores, libgomp lets those that wait sleep instead of spin, in every team: a step of training beside a single reader
    took 1.2 times as long, with a sixth of the processors idle (``detheads bench train``, two cores).
    """
    torch.get_num_threads()  # a thread's first use of torch sets its number, which would undo the next line
    threadpool_limits(1, user_api="openmp")
