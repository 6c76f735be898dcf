"""TensorRT engines: built from a bundle's graph, recognised before they are loaded, executed; without torch or onnx."""
