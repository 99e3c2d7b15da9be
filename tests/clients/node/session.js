// One client session on `ws`: connect, wait for the manifest, exchange frames.

import assert from "node:assert/strict";
import { brotliDecompressSync } from "node:zlib";
import WebSocket from "ws";
import { within } from "./dev_gateway.js";
import { BINARY, CLIENT, COMPRESSED, EVENT, OK, RESPONSE } from "./frames.js";
import { decode, encodeReply, encodeRequest, guidBytes } from "./frames.js";

const PATIENCE_MS = 10_000;

export class Session {
  #frames = new Line("a frame");
  #events = new Line("an event");
  #questions = new Line("an RPC");
  #nextId = 1;

  services = new Map();
  peerGuid = null;

  /** A session that has its manifest. `compress` is what it asks for in X-Connect-Compress. */
  static async open(url, token, { compress } = {}) {
    const session = new Session();
    const headers = { Authorization: `Bearer ${token}` };
    if (compress) headers["X-Connect-Compress"] = compress;
    session.socket = new WebSocket(url, { headers, perMessageDeflate: false });
    session.closed = new Promise((resolve) => {
      session.socket.on("close", (code) => resolve(code));
    });
    session.closed.then((code) => {
      for (const line of [session.#frames, session.#events, session.#questions]) {
        line.end(new Error(`closed with ${code}`));
      }
    });
    session.socket.on("message", (bytes, isBinary) => session.#arrive(bytes, isBinary));
    await within(PATIENCE_MS, "the upgrade", opened(session.socket));
    session.socket.on("error", () => {}); // a close follows, and says more
    await session.event("connect.capability-manifest");
    return session;
  }

  /** The next reply or peer message. */
  receive() {
    return this.#frames.next();
  }

  /** The next event of that name; others that come before are passed over. */
  async event(name) {
    for (;;) {
      const event = await this.#events.next();
      if (event.eventName === name) return event;
    }
  }

  /** What a service has asked; it was answered. */
  rpc() {
    return this.#questions.next();
  }

  /** Sends one request and returns its message id. */
  send(guid, payload, { flags = 0, channel = 0 } = {}) {
    const id = this.#nextId++;
    const messageId = BigInt(id);
    this.socket.send(encodeRequest({ flags, channel, sequence: id, guid, messageId, payload }));
    return id;
  }

  /** Sends one request and returns its reply; only events may come before it. */
  async call(guid, payload, { flags = 0, channel = 0 } = {}) {
    const id = this.send(guid, payload, { flags, channel });
    const reply = await this.receive();
    assert.equal(reply.kind, "reply");
    assert.equal(reply.flags, flags | RESPONSE);
    assert.equal(reply.channel, channel);
    assert.equal(reply.sequence, id);
    assert.equal(reply.messageId, BigInt(id));
    if (reply.code !== OK) assert.equal(reply.payload.length, 0);
    return reply;
  }

  async close() {
    this.socket.close(1000);
    await within(PATIENCE_MS, "the close reply", this.closed);
  }

  #arrive(bytes, isBinary) {
    if (!isBinary) {
      // The only text there is, before a close.
      const { eventName } = JSON.parse(bytes.toString());
      assert.equal(eventName, "connect.disconnect-notification");
      return;
    }
    const frame = inflated(decode(bytes));
    if (frame.kind === "reply" || (frame.flags & CLIENT) !== 0) this.#frames.push(frame);
    else if ((frame.flags & EVENT) !== 0) this.#takeEvent(frame);
    else this.#answer(frame);
  }

  #takeEvent(frame) {
    assert.equal(frame.flags, EVENT);
    assert.deepEqual([frame.channel, frame.sequence], [0, 0]);
    assert.ok(frame.guid.equals(Buffer.alloc(16)));
    const event = JSON.parse(frame.payload.toString());
    if (event.eventName === "connect.capability-manifest") this.#readManifest(event);
    this.#events.push(event);
  }

  #answer({ flags, channel, messageId, payload }) {
    assert.equal(flags, BINARY);
    this.socket.send(encodeReply({ channel, messageId, payload: Buffer.from('{"name":"a test"}') }));
    this.#questions.push(JSON.parse(payload.toString()));
  }

  /** Each replaces the one before. */
  #readManifest(manifest) {
    this.services.clear();
    for (const api of manifest.availableApis) {
      this.services.set(api.endpoint, guidBytes(api.serviceId));
    }
    this.peerGuid = guidBytes(manifest.peerGuid); // Relayed mode only
  }
}

/** What has come and nobody has taken, or who waits for it. */
class Line {
  #arrived = [];
  #waiting = [];
  #what;

  constructor(what) {
    this.#what = what;
  }

  push(item) {
    const waiter = this.#waiting.shift();
    if (waiter) waiter.resolve(item);
    else this.#arrived.push(item);
  }

  next() {
    if (this.#arrived.length > 0) return Promise.resolve(this.#arrived.shift());
    const next = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    return within(PATIENCE_MS, this.#what, next);
  }

  end(error) {
    for (const { reject } of this.#waiting) reject(error);
  }
}

/** The frame without its flag for compression; `compressed` remembers it. */
function inflated(frame) {
  const compressed = (frame.flags & COMPRESSED) !== 0;
  if (!compressed) return { ...frame, compressed };
  const payload = brotliDecompressSync(frame.payload);
  assert.ok(frame.payload.length < payload.length, "compressed for nothing");
  return { ...frame, flags: frame.flags & ~COMPRESSED, payload, compressed };
}

function opened(socket) {
  return new Promise((resolve, reject) => {
    socket.once("open", resolve);
    socket.once("error", reject);
  });
}

/** The HTTP status that refuses an upgrade with these headers. */
export function refusal(url, headers) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, { headers });
    socket.on("unexpected-response", (request, response) => {
      resolve({ status: response.statusCode, headers: response.headers });
      response.resume();
      request.destroy();
    });
    socket.on("open", () => reject(new Error("the upgrade was accepted")));
    socket.on("error", reject);
  });
}
