// The binary frames of the connect protocol: one WebSocket message is one frame, big-endian.
// Requests and pushed events have a 31-byte header, replies (flag RESPONSE) a 16-byte one.

export const BINARY = 0x01;
export const COMPRESSED = 0x04;
export const EVENT = 0x10;
export const CLIENT = 0x20;
export const RESPONSE = 0x40;

export const OK = 0;
export const REQUEST_TOO_LARGE = 11;
export const TEXT_NOT_SUPPORTED = 14;
export const SERVICE_NOT_FOUND = 30;
export const CLIENT_NOT_FOUND = 31;

const REQUEST_HEADER = 31;
const REPLY_HEADER = 16;

/** `payload` is a Buffer, `guid` 16 bytes, `messageId` a BigInt. */
export function encodeRequest({ flags = 0, channel = 0, sequence = 0, guid, messageId, payload }) {
  const frame = Buffer.allocUnsafe(REQUEST_HEADER + payload.length);
  frame.writeUInt8(flags, 0);
  frame.writeUInt16BE(channel, 1);
  frame.writeUInt32BE(sequence, 3);
  guid.copy(frame, 7);
  frame.writeBigUInt64BE(messageId, 23);
  payload.copy(frame, REQUEST_HEADER);
  return frame;
}

/** An answer with code 0. */
export function encodeReply({ channel, messageId, payload }) {
  const frame = Buffer.alloc(REPLY_HEADER + payload.length);
  frame.writeUInt8(RESPONSE, 0);
  frame.writeUInt16BE(channel, 1);
  frame.writeBigUInt64BE(messageId, 7);
  payload.copy(frame, REPLY_HEADER);
  return frame;
}

/** The frame in one binary message, `kind` being "request" or "reply". */
export function decode(message) {
  const kind = message.length > 0 && (message[0] & RESPONSE) !== 0 ? "reply" : "request";
  const header = kind === "reply" ? REPLY_HEADER : REQUEST_HEADER;
  if (message.length < header) {
    throw new Error(`a frame of ${message.length} bytes is shorter than its header`);
  }
  const frame = {
    kind,
    flags: message.readUInt8(0),
    channel: message.readUInt16BE(1),
    sequence: message.readUInt32BE(3),
    payload: message.subarray(header),
  };
  if (kind === "reply") {
    return { ...frame, messageId: message.readBigUInt64BE(7), code: message.readUInt8(15) };
  }
  return { ...frame, guid: message.subarray(7, 23), messageId: message.readBigUInt64BE(23) };
}

/** The wire carries a GUID in the order of its text. */
export function guidBytes(text) {
  const raw = Buffer.from(text.replaceAll("-", ""), "hex");
  if (raw.length !== 16) throw new Error(`${text} is no GUID`);
  return raw;
}
