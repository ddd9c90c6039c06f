"""The network side: listening sockets, TLS, HTTP/1.1, and gRPC over HTTP/2."""
