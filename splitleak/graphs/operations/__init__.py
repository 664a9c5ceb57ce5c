"""ONNX's operations as functions of torch tensors, one file a family; `table` holds them by name."""
