"""The only place with sockets: heads in, decisions of `policy` carried out, bytes relayed."""
