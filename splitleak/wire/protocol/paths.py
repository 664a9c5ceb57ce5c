"""The gRPC method paths of the Open Inference Protocol, as they stand on the wire and in captures."""

SERVICE = "inference.GRPCInferenceService"


def method_path(method: str) -> str:
    """The full path of one of the service's methods, as ``grpc.Channel`` takes it."""
    return f"/{SERVICE}/{method}"


MODEL_INFER = method_path("ModelInfer")
MODEL_STREAM_INFER = method_path("ModelStreamInfer")
INFERENCE = frozenset({MODEL_INFER, MODEL_STREAM_INFER})  # the methods whose requests carry tensors
