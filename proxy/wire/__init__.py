"""What the bytes mean. Pure: no asyncio, no clock, no store."""
