"""The one room that knows OpenVINO: prepares and compiles a model, and runs inferences on a pool of infer requests."""

from loadproof_server.engine.compiling import version
from loadproof_server.engine.requests import Answer, Engine, OutputTensor
from loadproof_server.engine.specs import TensorSpec

__all__ = ["Answer", "Engine", "OutputTensor", "TensorSpec", "version"]
