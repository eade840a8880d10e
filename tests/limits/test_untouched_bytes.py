"""With limits that never bite, what comes out is what went in, byte for byte, both ways at once, however it was cut on the way."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator

import pytest

from proxy.wire.frames import FIN, MASK_BIT, MASK_SIZE, RSV1, RSV_BITS, Opcode, build_close
from tests.support.pair import pair

SIZES = (0, 1, 125, 126, 127, 65535, 65536)  # bytes: both sides of each border of the length's spelling
CONTROL_SIZES = (0, 1, 125)
HUGE = 16 << 20  # bytes
TINY_PIECES = (1, 2, 3, 5, 14)  # bytes that are written at once: no header is safe
SMALL_PIECES = (*TINY_PIECES, 60, 1448, 20_000)
LARGE_PIECES = (1, 3, 1448, 65_536, 1 << 20)
PATIENCE = 30.0  # seconds

NEVER = """
rules:
  - {name: connections, per: user, connections: 1000}
  - {name: members, per: room, members: 1000}
  - {name: upgrades, per: ip, upgrades: 1000/s}
  - {name: all-messages, per: global, messages: 1000000000/s}
  - {name: messages, per: [user, ip], messages: 1000000000/s, on_excess: close}
  - {name: size, per: connection, message_size: 1GiB, on_excess: drop}
  - {name: shadow, per: connection, message_size: 1, mode: shadow}
routes: [{name: game, path: "/{room*}", upstream: game, room: "{room}"}]
"""


def frame(chance: random.Random, first: int, size: int, mask_bit: int) -> bytes:
    """One frame with a payload of chance; what is under the mask does not matter."""
    if size < 126:
        length = bytes((mask_bit | size,))
    elif size < 1 << 16:
        length = bytes((mask_bit | 126,)) + size.to_bytes(2, "big")
    else:
        length = bytes((mask_bit | 127,)) + size.to_bytes(8, "big")
    return bytes((first,)) + length + chance.randbytes(size + (MASK_SIZE if mask_bit else 0))


class Writer:
    """Writes frames of one direction. `rsv1`: also compressed messages. `extended`: also frames that only an extension defines."""

    def __init__(self, chance: random.Random, *, masked: bool, rsv1: bool = False, extended: bool = False) -> None:
        self._chance = chance
        self._mask_bit = MASK_BIT if masked else 0
        self._rsv1 = rsv1
        self._extended = extended

    def message(self, opcode: Opcode, sizes: tuple[int, ...], controls: int) -> Iterator[bytes]:
        """A message of so many fragments, with up to so many control frames between any two."""
        first = opcode | (RSV1 if self._rsv1 and self._chance.random() < 0.5 else 0)
        for number, size in enumerate(sizes):
            last = FIN if number == len(sizes) - 1 else 0
            yield self._frame((first if number == 0 else Opcode.CONTINUATION) | last, size)
            for _ in range(self._chance.randint(0, controls)):
                yield self.control()

    def control(self) -> bytes:
        return self._frame(FIN | self._chance.choice((Opcode.PING, Opcode.PONG)), self._chance.choice(CONTROL_SIZES))

    def close(self) -> bytes:
        return build_close(4321, "that is all", mask=self._chance.randbytes(MASK_SIZE) if self._mask_bit else None)

    def _frame(self, first: int, size: int) -> bytes:
        if self._extended:
            first |= self._chance.randrange(0, RSV_BITS + 1, 0x10)
        return frame(self._chance, first, size, self._mask_bit)


def all_shapes(writer: Writer, chance: random.Random, most: int = SIZES[-1]) -> bytes:
    """Each opcode with each size up to `most`, alone and in fragments, in an order of chance; a Close behind them all."""
    patterns: list[tuple[int, ...]] = [(size,) for size in SIZES]
    patterns += itertools.product(SIZES[:4], repeat=2)
    patterns += [(0, 0, 0), (1, 0, 1), (0, 65536, 0), (125, 126, 125, 126), (65535, 1, 65536), tuple(range(20))]
    patterns = [pattern for pattern in patterns if max(pattern) <= most]
    shapes = [(opcode, sizes, controls) for opcode in (Opcode.TEXT, Opcode.BINARY) for sizes in patterns for controls in (0, 2)]
    chance.shuffle(shapes)
    return b"".join(one for shape in shapes for one in writer.message(*shape)) + writer.close()


def huge_shapes(writer: Writer) -> bytes:
    """Messages of 16 MiB, whole and in fragments."""
    whole = writer.message(Opcode.BINARY, (HUGE,), 1)
    fragments = writer.message(Opcode.TEXT, (HUGE // 2, 0, HUGE // 4, 1, HUGE // 4 - 1), 2)
    return b"".join((*whole, *fragments, writer.close()))


async def send(writer: asyncio.StreamWriter, data: bytes, chance: random.Random, pieces: tuple[int, ...]) -> None:
    """In pieces of chance; each has a turn of the event loop of its own."""
    position = 0
    view = memoryview(data)
    while position < len(data):
        size = chance.choice(pieces)
        writer.write(view[position : position + size])
        position += size
        await writer.drain()
        await asyncio.sleep(0)


async def assert_untouched(
    rules: str, extension: str, streams: tuple[bytes, bytes], chance: random.Random, pieces: tuple[int, ...]
) -> None:
    """Send both streams through one tunnel at the same time, the client's and the backend's."""
    upward, downward = streams
    agreed = (f"Sec-WebSocket-Extensions: {extension}",) if extension else ()
    async with pair(rules, *agreed, offers=agreed) as tunnel, asyncio.timeout(PATIENCE):
        _, _, at_backend, at_client = await asyncio.gather(
            send(tunnel.client.writer, upward, chance, pieces),
            send(tunnel.backend.writer, downward, chance, pieces),
            tunnel.backend.reader.readexactly(len(upward)),
            tunnel.client.reader.readexactly(len(downward)),
        )
        assert at_backend == upward
        assert at_client == downward
        assert await tunnel.client.rest() == b""
        assert await tunnel.backend.reader.read() == b""


@pytest.mark.parametrize("extension", ["", "permessage-deflate"])
@pytest.mark.parametrize("rules", ["", NEVER], ids=["no-rules", "rules"])
@pytest.mark.parametrize(("most", "pieces"), [(127, TINY_PIECES), (65536, SMALL_PIECES)], ids=["tiny-pieces", "pieces"])
@pytest.mark.parametrize("seed", range(5))
async def test_every_shape_of_frame_comes_out_as_it_went_in(
    seed: int, most: int, pieces: tuple[int, ...], rules: str, extension: str
) -> None:
    chance = random.Random(seed)
    up, down = (Writer(chance, masked=masked, rsv1=bool(extension)) for masked in (True, False))
    streams = all_shapes(up, chance, most), all_shapes(down, chance, most)
    await assert_untouched(rules, extension, streams, chance, pieces)


async def test_frames_of_an_unknown_extension_come_out_as_they_went_in() -> None:
    chance = random.Random(3)
    up, down = (Writer(chance, masked=masked, extended=True) for masked in (True, False))
    streams = all_shapes(up, chance), all_shapes(down, chance)
    await assert_untouched("", "x-of-tomorrow", streams, chance, SMALL_PIECES)


@pytest.mark.parametrize("rules", ["", NEVER], ids=["no-rules", "rules"])
async def test_messages_of_sixteen_mebibytes_come_out_as_they_went_in(rules: str) -> None:
    chance = random.Random(4)
    up, down = (Writer(chance, masked=masked) for masked in (True, False))
    await assert_untouched(rules, "", (huge_shapes(up), huge_shapes(down)), chance, LARGE_PIECES)
