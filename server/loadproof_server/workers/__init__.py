"""A server of several processes: their supervisor, the worker's side, and the resources of each worker."""
