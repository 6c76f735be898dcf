"""BF16 where the policy allows it; its range is that of FP32, so that nothing overflows."""

from onnx import ModelProto, TensorProto

from detheads.export.precision.lower import lower
from detheads.export.precision.plan import Converted, Judge, Plan
from detheads.foundation.progress import Progress


def convert(dense: ModelProto, plan: Plan, judge: Judge | None, on_progress: Progress) -> Converted:
    """See :class:`detheads.export.precision.convert.Method`."""
    return lower(dense, plan, TensorProto.BFLOAT16, TensorProto.FLOAT, on_progress)
