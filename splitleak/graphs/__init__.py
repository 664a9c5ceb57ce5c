"""Networks as ONNX graphs: read, cut in two, computed with gradients. No code of a file is run."""
