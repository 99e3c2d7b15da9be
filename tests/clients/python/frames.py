"""The binary frames of the connect protocol: one WebSocket message is one frame, big-endian.

Requests and pushed events have a 31-byte header, replies (flag RESPONSE) a 16-byte one.
"""

import struct
from dataclasses import dataclass

BINARY = 0x01
EVENT = 0x10
CLIENT = 0x20
RESPONSE = 0x40

OK = 0
REQUEST_TOO_LARGE = 11
TEXT_NOT_SUPPORTED = 14
SERVICE_NOT_FOUND = 30
CLIENT_NOT_FOUND = 31

ZERO_GUID = bytes(16)

_REQUEST = struct.Struct(">BHI16sQ")
_REPLY = struct.Struct(">BHIQB")


@dataclass
class Request:
    flags: int
    channel: int
    sequence: int
    guid: bytes
    message_id: int
    payload: bytes

    def encode(self) -> bytes:
        header = _REQUEST.pack(self.flags, self.channel, self.sequence, self.guid, self.message_id)
        return header + self.payload


@dataclass
class Reply:
    flags: int
    channel: int
    sequence: int
    message_id: int
    code: int
    payload: bytes

    def encode(self) -> bytes:
        header = _REPLY.pack(self.flags, self.channel, self.sequence, self.message_id, self.code)
        return header + self.payload


def decode(message: bytes) -> Request | Reply:
    """The frame in one binary message; ValueError if it is shorter than its header."""
    layout, kind = _REQUEST, Request
    if message and message[0] & RESPONSE:
        layout, kind = _REPLY, Reply
    if len(message) < layout.size:
        raise ValueError(f"a frame of {len(message)} bytes is shorter than its header")
    return kind(*layout.unpack_from(message), message[layout.size :])
