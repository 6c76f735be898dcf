"""From a trained run to a verified bundle: the deployable graph, ONNX, TensorRT engines, the proof.

This package imports no torch by itself; :mod:`detheads.export.pipeline` is the way in.
"""
