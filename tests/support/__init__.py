"""What the tests over real sockets share: a gate in this process, backends, and a client that writes raw bytes."""
