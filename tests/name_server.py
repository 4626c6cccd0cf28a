"""A name server for tests: answers over UDP what a table says, and counts what it is asked."""

import asyncio
import ipaddress
import struct

A, AAAA = 1, 28
NXDOMAIN, SERVFAIL = 3, 2


class NameServer(asyncio.DatagramProtocol):
    """``zone`` maps a name to a list of answers, given in turn; the last one stays.

    An answer is a list of addresses, or an error code. A name that is not there does not exist;
    None says nothing at all.
    """

    def __init__(self, ttl_s=0):
        self.ttl_s = ttl_s
        self.zone, self.asked = {}, []
        self._turns = {}

    async def start(self):
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        self.port = self.transport.get_extra_info("sockname")[1]

    def reset(self):
        self.zone.clear()
        self.asked.clear()
        self._turns.clear()

    def datagram_received(self, data, address):
        name, end = _name(data, 12)
        (kind,) = struct.unpack(">H", data[end : end + 2])
        self.asked.append((name, kind))
        turns = self.zone.get(name, [NXDOMAIN])
        number = self._turns.get((name, kind), 0)
        self._turns[name, kind] = number + 1
        answer = turns[min(number, len(turns) - 1)]
        if answer is not None:
            self.transport.sendto(self._reply(data, end + 4, kind, answer), address)

    def _reply(self, query, end, kind, answer):
        code, found = (answer, []) if isinstance(answer, int) else (0, answer)
        packed = [ipaddress.ip_address(each).packed for each in found]
        packed = [each for each in packed if len(each) == (4 if kind == A else 16)]
        head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(packed), 0, 0)
        records = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, self.ttl_s, len(each)) + each
            for each in packed
        )
        return head + query[12:end] + records


def _name(data, start):
    labels = []
    while data[start]:
        length = data[start]
        labels.append(data[start + 1 : start + 1 + length].decode())
        start += 1 + length
    return ".".join(labels).lower(), start + 1
