// A client of corelane in one file: no dependency in browsers, `ws` in Node.js. docs/CLIENTS.md
// explains what happens here.
//
//   const client = new Client("wss://game.example/connect", { token: (fresh) => logIn(fresh) });
//   client.on("chat.message.received", (event) => show(event));
//   const answer = await client.call("/demo/echo", { hello: "world" });

const IN_NODE = typeof process === "object" && process.versions?.node !== undefined;
const Socket = IN_NODE ? (await import("ws")).WebSocket : globalThis.WebSocket;

export const FLAGS = {
  BINARY: 0x01, COMPRESSED: 0x04, PRIORITY: 0x08, EVENT: 0x10, CLIENT: 0x20, RESPONSE: 0x40, META: 0x80,
};
export const META = { INFO: 0, REQUEST: 1, RESPONSE: 2, ALL: 3 };
const NOBODY = "00000000-0000-0000-0000-000000000000";
const EVERYBODY = "ffffffff-ffff-ffff-ffff-ffffffffffff";
/** The gateway answers each call within 25 s, so who waits longer has lost it. */
const CALL_TIMEOUT_MS = 30_000;
const REMEMBERED_EVENTS = 1024;

/** What to do after a close; whatever is not listed ends the client. */
const AFTER_CLOSE = {
  1001: "soon", 1005: "soon", 1006: "soon", 4004: "soon", 4005: "soon", // drain, network, idle
  1011: "later", 1013: "later", 4003: "later", // too slow, too much
  4001: "login", // this session is over
};
const PAUSE_MS = { soon: 500, login: 500, later: 5000, longest: 30_000 };

/** A call was answered with another code than 0. */
export class Refused extends Error {
  constructor(code) {
    super(`the call was answered with code ${code}`);
    this.code = code;
  }
}

export class Client {
  sessionId = null;
  peerGuid = null;
  services = new Map(); // by endpoint, or name of a shortcut: the GUID
  #options;
  #handlers = new Map();
  #socket = null;
  #dropped = null; // ends the connection as if the network had
  #welcomed = null; // settles `ready`
  #calls = new Map(); // by message id: what waits for the answer
  #lastId = 0n;
  #reconnectToken = null;
  #seen = new Set(); // ids of events
  #handling = Promise.resolve();
  #unhandled = 0;
  #left = false;

  /** `token(fresh)` returns the JWT, or a promise of it; `fresh` asks for a new login. Options:
   * `via`: "header" (Node.js only), "query", "subprotocol" or "cookie";
   * `inflate`: a function that undoes Brotli; with it the client asks for compression;
   * `rpc`: a function that answers RPCs, from `{ guid, channel, payload }` to bytes or JSON. */
  constructor(url, { token, via = IN_NODE ? "header" : "query", inflate, rpc } = {}) {
    this.#options = { url, token, via, inflate, rpc };
    this.#awaitManifest();
    /** The last close, `{ code, reason }`, or the last refusal, `{ status }`. */
    this.ended = this.#live().finally(() => this.#welcomed.reject(new Error("the client has ended")));
  }

  /** `name` is an event's name, or one of: "peer" (`{ payload, isBroadcast }`), "push" (an event of a
   * backend with a GUID of its own), "lost" (a close after which the client connects again), "refused"
   * (`{ code }`: something that awaits no answer was refused). */
  on(name, handler) {
    this.#handlers.set(name, [...(this.#handlers.get(name) ?? []), handler]);
    return this;
  }

  /** Calls an endpoint, or a shortcut by its name. `body` is bytes, or anything that JSON can say. */
  async call(endpoint, body = {}, { channel = 0, flags = 0, timeoutMs = CALL_TIMEOUT_MS } = {}) {
    await this.ready;
    const guid = this.services.get(endpoint);
    if (guid === undefined) throw new Error(`the manifest has no ${endpoint}`);
    return this.#ask({ flags, channel, guid, payload: bytesOf(body) }, timeoutMs);
  }

  /** What an endpoint takes and gives: `kind` is one of META. */
  meta(endpoint, kind = META.INFO) {
    return this.call(endpoint, new Uint8Array(), { flags: FLAGS.META, channel: kind });
  }

  /** Resolves once the other player's outbox has it. */
  async sendToPeer(guid, body) {
    await this.ready;
    return this.#ask({ flags: FLAGS.CLIENT, guid, payload: bytesOf(body) }, CALL_TIMEOUT_MS);
  }

  /** To everybody else; not acknowledged. */
  async broadcast(body) {
    await this.ready;
    this.#send({ flags: FLAGS.CLIENT | FLAGS.EVENT, guid: EVERYBODY, payload: bytesOf(body) });
  }

  leave() {
    this.#left = true;
    this.#socket?.close(1000);
    return this.ended;
  }

  // ---- one connection after the other

  async #live() {
    let fresh = false;
    for (let failures = 0; ; failures += 1) {
      const end = await this.#connect(fresh);
      // Whether the gateway did what was asked is unknown: only the caller knows what to do.
      for (const { reject } of this.#calls.values()) reject(new Error("the connection was lost"));
      if (end.welcomed) failures = 0;
      const next = this.#left ? "stop" : afterEnd(end, fresh);
      if (next === "stop") return end;
      if (next === "login" || end.status === 401) this.#reconnectToken = null;
      fresh = next === "login";
      this.#emit("lost", end);
      await new Promise((done) => setTimeout(done, pauseMs(next, failures, end.retryAfter)));
      if (this.#left) return end;
    }
  }

  async #connect(fresh) {
    const { via, inflate } = this.#options;
    const resumed = via === "header" && this.#reconnectToken !== null;
    const jwt = resumed || via === "cookie" ? null : await this.#options.token(fresh);
    const url = new URL(this.#options.url);
    if (inflate) url.searchParams.set("compress", "br");
    if (via === "query") url.searchParams.set("token", jwt);
    const offers = via === "subprotocol" ? ["corelane", `bearer.${jwt}`] : [];
    const Authorization = resumed ? `Reconnect ${this.#reconnectToken}` : `Bearer ${jwt}`;
    const headers = via === "header" ? { Authorization } : {};
    const socket = IN_NODE ? new Socket(url, offers, { headers }) : new Socket(url, offers);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    const end = await new Promise((resolve) => {
      this.#dropped = () => resolve({ code: 1006, reason: "no answer" });
      // From now on this application confirms events, not its WebSocket stack.
      socket.onopen = () => this.#acknowledge(0n);
      socket.onmessage = ({ data }) => typeof data === "string" || this.#arrive(new Uint8Array(data));
      socket.onerror = () => {}; // a close follows
      socket.onclose = ({ code, reason }) => resolve({ code, reason });
      if (IN_NODE) {
        socket.on("unexpected-response", (request, { statusCode: status, headers: fields }) => {
          resolve({ status, retryAfter: Number(fields["retry-after"] ?? 0) });
          request.destroy();
        });
      }
    });
    socket.onmessage = null;
    socket.close();
    const welcomed = this.#welcomed === null;
    if (welcomed) this.#awaitManifest();
    return { ...end, resumed, welcomed };
  }

  #awaitManifest() {
    this.ready = new Promise((resolve, reject) => (this.#welcomed = { resolve, reject }));
    this.ready.catch(() => {}); // who calls is told
  }

  // ---- messages

  #send({ flags, channel = 0, guid, payload }) {
    if (this.#socket.readyState !== Socket.OPEN) throw new Error("the connection was lost");
    const id = (this.#lastId += 1n);
    this.#socket.send(encodeRequest({ flags, channel, sequence: Number(id), guid, id, payload }));
    return id;
  }

  #ask(request, timeoutMs) {
    return new Promise((resolve, reject) => {
      const id = this.#send(request);
      const drop = this.#dropped;
      const timer = setTimeout(() => {
        settle(reject)(new Error(`no answer within ${timeoutMs} ms`));
        if (timeoutMs >= CALL_TIMEOUT_MS) drop();
      }, timeoutMs);
      const settle = (how) => (value) => {
        clearTimeout(timer);
        this.#calls.delete(id);
        how(value);
      };
      this.#calls.set(id, { resolve: settle(resolve), reject: settle(reject) });
    });
  }

  #arrive(bytes) {
    const message = decode(bytes);
    const { flags, guid } = message;
    if (flags & FLAGS.COMPRESSED && this.#options.inflate) {
      message.payload = this.#options.inflate(message.payload);
    }
    if (flags & FLAGS.RESPONSE) this.#answered(message);
    else if (flags & FLAGS.CLIENT) this.#emit("peer", { ...message, isBroadcast: guid === EVERYBODY });
    else if (!(flags & FLAGS.EVENT)) this.#answerRpc(message);
    else if (guid !== NOBODY) this.#emit("push", message);
    else this.#take(JSON.parse(textOf(message.payload)), message.id);
  }

  #answered({ id, code, flags, payload }) {
    const call = this.#calls.get(id);
    if (call === undefined) this.#emit("refused", { id, code });
    else if (code !== 0) call.reject(new Refused(code));
    else if (flags & FLAGS.BINARY) call.resolve(payload);
    else call.resolve(payload.length === 0 ? undefined : JSON.parse(textOf(payload)));
  }

  async #answerRpc({ channel, sequence, guid, id, payload }) {
    const socket = this.#socket;
    const answer = { channel, sequence, id, code: 30, payload: new Uint8Array() };
    try {
      if (this.#options.rpc) {
        answer.payload = bytesOf(await this.#options.rpc({ guid, channel, payload }));
        answer.code = 0;
      }
    } catch (error) {
      answer.code = 60;
      console.error("an RPC has failed", error);
    }
    if (socket.readyState === Socket.OPEN) socket.send(encodeAnswer(answer));
  }

  // ---- events

  /** The gateway's own count at once; handlers get all of them in order, each once. */
  #take(event, id) {
    if (event.eventName === "connect.capability-manifest") this.#adopt(event);
    if (event.eventName === "connect.session-token") this.#reconnectToken = event.token;
    const socket = this.#socket;
    const isOfService = !event.eventName.startsWith("connect.");
    if (isOfService) this.#unhandled += 1;
    this.#handling = this.#handling.then(async () => {
      if (!this.#seen.has(event.eventId)) await this.#emit(event.eventName, event);
      this.#seen.add(event.eventId);
      if (this.#seen.size > REMEMBERED_EVENTS) this.#seen.delete(this.#seen.values().next().value);
      if (!isOfService) return;
      this.#unhandled -= 1;
      if (this.#unhandled === 0 && socket === this.#socket) this.#acknowledge(id);
    });
  }

  /** A manifest replaces the one before. */
  #adopt(manifest) {
    this.sessionId = manifest.sessionId;
    this.peerGuid = manifest.peerGuid ?? null;
    this.services = new Map(manifest.availableApis.map((api) => [api.endpoint, api.serviceId]));
    this.#welcomed?.resolve(manifest);
    this.#welcomed = null;
  }

  /** All events up to the message with this id have been handled. */
  #acknowledge(id) {
    if (this.#socket.readyState !== Socket.OPEN) return;
    const payload = bytesOf({ eventName: "connect.ack", sequence: String(id) });
    this.#send({ flags: FLAGS.EVENT, guid: NOBODY, payload });
  }

  async #emit(name, value) {
    for (const handler of this.#handlers.get(name) ?? []) {
      try {
        await handler(value);
      } catch (error) {
        console.error(`a handler of ${name} has failed`, error);
      }
    }
  }
}

/** "soon", "later", "login" (with a fresh token) or "stop". */
function afterEnd({ status, code, resumed }, wasFresh) {
  if (status === undefined) return AFTER_CLOSE[code] ?? "stop";
  if (status === 401) return resumed ? "soon" : wasFresh ? "stop" : "login";
  return status === 429 || status === 503 ? "later" : "stop";
}

/** Random, so that clients that were cut off together do not come back together. */
function pauseMs(next, failures, retryAfterSeconds = 0) {
  const least = Math.max(next === "later" ? PAUSE_MS.later : 0, retryAfterSeconds * 1000);
  return least + Math.random() * Math.min(PAUSE_MS[next] * 2 ** failures, PAUSE_MS.longest);
}

// ---- the two layouts; DataView is big-endian by itself

function encodeRequest({ flags, channel, sequence, guid, id, payload }) {
  const message = new Uint8Array(31 + payload.length);
  const view = new DataView(message.buffer);
  view.setUint8(0, flags);
  view.setUint16(1, channel);
  view.setUint32(3, sequence);
  message.set(guidBytes(guid), 7);
  view.setBigUint64(23, id);
  message.set(payload, 31);
  return message;
}

function encodeAnswer({ channel, sequence, id, code, payload }) {
  const message = new Uint8Array(16 + payload.length);
  const view = new DataView(message.buffer);
  view.setUint8(0, FLAGS.RESPONSE);
  view.setUint16(1, channel);
  view.setUint32(3, sequence);
  view.setBigUint64(7, id);
  view.setUint8(15, code);
  message.set(payload, 16);
  return message;
}

function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const [flags, channel, sequence] = [view.getUint8(0), view.getUint16(1), view.getUint32(3)];
  if (flags & FLAGS.RESPONSE) {
    return { flags, channel, sequence, id: view.getBigUint64(7), code: bytes[15], payload: bytes.subarray(16) };
  }
  const guid = guidText(bytes.subarray(7, 23));
  return { flags, channel, sequence, guid, id: view.getBigUint64(23), payload: bytes.subarray(31) };
}

function bytesOf(body) {
  return body instanceof Uint8Array ? body : new TextEncoder().encode(JSON.stringify(body));
}

function textOf(bytes) {
  return new TextDecoder().decode(bytes);
}

/** The wire carries a GUID in the order of its text. */
function guidBytes(text) {
  return Uint8Array.from(text.replaceAll("-", "").match(/../g), (pair) => Number.parseInt(pair, 16));
}

function guidText(bytes) {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
