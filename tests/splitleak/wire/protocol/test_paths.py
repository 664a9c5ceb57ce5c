"""The paths are those of the protocol's own description."""

from splitleak.wire.protocol import paths
from splitleak.wire.protocol.pb import open_inference_pb2 as pb


def test_the_service_and_its_methods_are_those_of_the_protocol_file():
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == paths.SERVICE
    known = {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert {paths.MODEL_INFER, paths.MODEL_STREAM_INFER, paths.method_path("ServerLive")} < known
