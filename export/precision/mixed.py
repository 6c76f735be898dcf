"""FP16 where the measured range leaves headroom, BF16 where it does not, FP32 where the policy asks for it."""

from onnx import ModelProto, TensorProto

from detheads.export.precision.lower import lower
from detheads.export.precision.plan import Converted, Judge, Plan
from detheads.foundation.progress import Progress


def convert(dense: ModelProto, plan: Plan, judge: Judge | None, on_progress: Progress) -> Converted:
    """See :class:`detheads.export.precision.convert.Method`."""
    return lower(dense, plan, TensorProto.FLOAT16, TensorProto.BFLOAT16, on_progress)
