"""The numbers that a graph computes in: decided on the dense graph, by one file a precision.

A file ``NAME.py`` with ``convert(dense, plan, judge, on_progress)`` (:class:`detheads.export.precision.convert.Method`)
makes ``--precision NAME``. Suppression is joined afterwards and stays FP32.
"""
