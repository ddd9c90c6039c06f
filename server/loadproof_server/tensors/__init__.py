"""Tensors without a model: KServe's datatypes, their codec, and the memory that tensors are kept in."""
