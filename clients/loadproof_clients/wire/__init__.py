"""The wire transport: HTTP/1.1 and HTTP/2 over plain sockets, for any API; it moves bytes and times them."""
