"""KServe's server as its users write it: ``kserve_server.py PORT FOLDER``; needs kserve and onnxruntime."""

import socket
import sys
from pathlib import Path

from common import INPUT, OUTPUT, end_with_parent, foreign_models
from kserve import InferOutput, InferResponse, Model, ModelServer


class Served(Model):
    def __init__(self, name, shape, compute):
        super().__init__(name)
        self.shape, self.compute, self.ready = shape, compute, True

    async def get_input_types(self):
        return [{"name": INPUT, "datatype": "FP32", "shape": [-1, *self.shape]}]

    async def get_output_types(self):
        return [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, 10]}]

    def predict(self, payload, headers=None, response_headers=None):
        logits = self.compute(payload.inputs[0].as_numpy())
        output = InferOutput(OUTPUT, list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


if __name__ == "__main__":
    end_with_parent()
    served = [Served(name, *found) for name, found in foreign_models(Path(sys.argv[2])).items()]
    ModelServer(http_port=free_port(), grpc_port=int(sys.argv[1]), enable_grpc=True, workers=1).start(served)
