"""wsgate: an edge enforcer for WebSockets. The map of the package.

    cli.py        run, check, version
    app.py        composition root: the only file that sees the whole Config
    config/       YAML -> frozen Config, all errors with line and column
    metrics.py    totals as plain ints, made into Prometheus families at scrape time
    wire/         what the bytes mean      pure: no asyncio, no clock
    policy/       what is allowed          pure
    ledger/       who holds what           seats and tokens, shared state
    server/       the only place with sockets

Imports point inwards only: cli -> app -> server -> policy -> wire, ledger; `tests/test_architecture.py` enforces it.

The words: an *upgrade* is the HTTP request that asks for a WebSocket. A *principal* is who asks (user, ip, room, route). A *rule*
is one YAML limit. A *claim* is what an upgrade asks for under one rule; a granted one is a *seat*, held until the connection ends.
A *meter* holds the buckets that one connection's frames are charged to; its *verdict* on a frame is pass, drop, close or hold.
*Downstream* is the client's side, *upstream* the backend's.

The errors (each carries its own answer; being over a limit is a value, not an error):

    Exception
     +-- wire.frames.ProtocolError        a peer broke RFC 6455 §5          .close_code
     +-- wire.handshake.HandshakeError    a head that is refused            .status, .headers
     +-- policy.routes.PathError          a path that is refused            .status
     +-- policy.identity.IdentityError    a token or address that cannot be told for sure
     +-- server.upstream.UpstreamError    the backend did not answer as a WebSocket server    .status
     +-- config.ConfigError               every mistake in a configuration  .problems
"""

__version__ = "0.1.0"
