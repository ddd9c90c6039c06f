"""The wire transport: requests encoded once, sent over plain sockets inside gevent's loop (client says why)."""
