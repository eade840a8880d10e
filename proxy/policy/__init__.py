"""What is allowed. Pure: no asyncio, no clock, no sockets."""
