"""KServe v2: how a payload is encoded, an answer read, and how readiness and shapes are asked; a module a client."""
