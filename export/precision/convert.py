"""The FP32 dense graph in the precision that was asked for."""

import importlib
import pkgutil
from typing import Protocol, cast

import onnx

from detheads.export import precision
from detheads.export.precision.plan import Converted, Judge, Plan
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent


class Method(Protocol):
    """What a file of this package defines that converts to the precision it is called after."""

    def convert(self, dense: onnx.ModelProto, plan: Plan, judge: Judge | None, on_progress: Progress) -> Converted:
        """The graph in another precision; ``dense`` stays as it is."""
        ...


def convert(
    dense: onnx.ModelProto, plan: Plan, judge: Judge | None = None, on_progress: Progress = silent
) -> Converted:
    """Convert a dense graph.

    Args:
        dense: ``images`` uint8 ``[B, 3, H, W]`` to float32 boxes and scores, without subgraphs.
        judge: what candidates are held against, for precisions that search; None: nothing is known of the accuracy.

    Raises:
        UserError: when the precision needs calibration pictures, or a library, that are not there.
    """
    if plan.precision == "fp32":
        return Converted(dense)
    offered = {module.name for module in pkgutil.iter_modules(precision.__path__)}
    if plan.precision not in offered:
        raise UserError(f"this version of detheads does not convert to {plan.precision}; export in fp32.")
    method = cast(Method, importlib.import_module(f"{precision.__name__}.{plan.precision}"))
    return method.convert(dense, plan, judge, on_progress)
