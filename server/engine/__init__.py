"""The one room that knows OpenVINO: prepares and compiles a model, and runs inferences on a pool of infer requests."""

from server.engine.compiling import version
from server.engine.requests import Answer, Engine, OutputTensor
from server.engine.specs import TensorSpec

__all__ = ["Answer", "Engine", "OutputTensor", "TensorSpec", "version"]
