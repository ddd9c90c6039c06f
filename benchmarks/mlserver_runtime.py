"""MLServer's side of `benchmarks.serving`: OpenVINO as a custom runtime, in MLServer's own environment.

As quick as such a runtime can be: the model is compiled as our server compiles it, tensors go by numpy's codec,
and inferences run on the event loop, where MLServer itself runs those of the models that it brings.
"""

from __future__ import annotations

import openvino as ov
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OpenVinoRuntime(MLModel):  # type: ignore[misc]
    """`parameters.uri` of model-settings.json is the model file."""

    async def load(self) -> bool:
        compiled = ov.Core().compile_model(self.settings.parameters.uri, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        self._request = compiled.create_infer_request()
        self._outputs = [port.get_any_name() for port in compiled.outputs]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        found = self._request.infer(inputs, share_inputs=True)
        outputs = [NumpyCodec.encode_output(name, found[name]) for name in self._outputs]
        return InferenceResponse(model_name=self.name, outputs=outputs)
