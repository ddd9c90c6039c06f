"""OpenVINO, which no other room imports: prepares and compiles a model, and runs inferences on it."""
