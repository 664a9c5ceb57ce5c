"""The models of the comparison as runtimes of MLServer; see `mlserver_server.py`."""

from pathlib import Path

from common import OUTPUT, foreign_models
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Served(MLModel):
    async def load(self):
        _, self._compute = foreign_models(Path(self.settings.parameters.uri))[self.name]
        return True

    async def predict(self, payload):
        logits = self._compute(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output(OUTPUT, logits)]
        )
