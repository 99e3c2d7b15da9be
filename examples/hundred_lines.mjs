// A client of corelane in a hundred lines, to read and to port: manifest, calls, events, peers, RPCs and
// resume, in browsers and, with `ws`, in Node.js. examples/client.mjs does more and comes back by itself.
//   const player = new Player("wss://game.example/connect", jwt); // player.on.event = …
//   await player.connect(); // again when the connection has ended: the session goes on
//   const answer = await player.call("/demo/echo", { hello: "world" });
const IN_NODE = typeof process === "object" && process.versions?.node !== undefined;
const Socket = IN_NODE ? (await import("ws")).WebSocket : WebSocket;
const [NOT_JSON, EVENT, CLIENT, RESPONSE] = [0x01, 0x10, 0x20, 0x40];
const [NOBODY, EVERYBODY] = ["00".repeat(16), "ff".repeat(16)];

export class Player {
  on = { event() {}, peer() {}, rpc: () => ({}), closed() {} }; // yours to set
  services = new Map(); // of the newest manifest: endpoint, or name of a shortcut, to GUID
  peerGuid = null;
  #reconnectToken = null;
  #lastId = 0n;
  #waiting = new Map(); // by message id: what becomes of the answer
  #seen = new Set(); // ids of events; a longer life than a sample's needs a bound

  constructor(url, jwt) { Object.assign(this, { url, jwt }); }

  /** Resolves with the first manifest of this connection. */
  connect() {
    return new Promise((resolve, reject) => {
      this.socket = this.#open();
      this.socket.binaryType = "arraybuffer";
      this.socket.onopen = () => this.#acknowledge(0n); // this code confirms events, not the stack
      this.socket.onmessage = ({ data }) => typeof data === "string" || this.#arrived(new DataView(data), resolve);
      this.socket.onerror = () => {}; // a close follows
      this.socket.onclose = ({ code }) => {
        for (const call of [...this.#waiting.values(), { reject }]) call.reject(new Error(`ended with ${code}`));
        this.#waiting.clear();
        this.on.closed(code);
      };
    });
  }

  #open() {
    if (!IN_NODE) return new Socket(`${this.url}?token=${this.jwt}`); // finds the session, too
    const Authorization = this.#reconnectToken ? `Reconnect ${this.#reconnectToken}` : `Bearer ${this.jwt}`;
    return new Socket(this.url, { headers: { Authorization } });
  }

  call = (endpoint, body = {}, channel = 0) => this.#ask(0, this.services.get(endpoint), body, channel);
  sendToPeer = (guid, body) => this.#ask(CLIENT, guid, body);
  broadcast = (body) => this.#send(CLIENT | EVENT, EVERYBODY, body);
  leave = () => this.socket.close(1000);
  #acknowledge = (sequence) => this.#send(EVENT, NOBODY, { eventName: "connect.ack", sequence: `${sequence}` });

  #ask(...request) {
    const id = this.#send(...request);
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  #send(flags, guid, body, channel = 0) {
    const payload = new TextEncoder().encode(JSON.stringify(body));
    const message = new DataView(new ArrayBuffer(31 + payload.length));
    message.setUint8(0, flags);
    message.setUint16(1, channel);
    const digits = guid.replaceAll("-", "");
    for (let at = 0; at < 16; at += 1) message.setUint8(7 + at, parseInt(digits.slice(2 * at, 2 * at + 2), 16));
    message.setBigUint64(23, (this.#lastId += 1n));
    new Uint8Array(message.buffer).set(payload, 31);
    this.socket.send(message.buffer);
    return this.#lastId;
  }

  #arrived(message, welcome) {
    const flags = message.getUint8(0);
    const payload = new TextDecoder().decode(message.buffer.slice(flags & RESPONSE ? 16 : 31));
    if (flags & RESPONSE) {
      const [id, code] = [message.getBigUint64(7), message.getUint8(15)];
      const { resolve, reject } = this.#waiting.get(id) ?? {};
      this.#waiting.delete(id);
      if (code === 0) resolve?.(flags & NOT_JSON || payload === "" ? payload : JSON.parse(payload));
      else reject?.(Object.assign(new Error(`refused with ${code}`), { code }));
    } else if (flags & CLIENT) this.on.peer(payload);
    else if (!(flags & EVENT)) this.#answer(message, payload);
    else if (!(flags & NOT_JSON)) this.#happened(JSON.parse(payload), message.getBigUint64(23), welcome);
  }

  #happened(event, id, welcome) {
    if (event.eventName === "connect.session-token") this.#reconnectToken = event.token;
    if (event.eventName === "connect.capability-manifest") {
      this.services = new Map(event.availableApis.map((api) => [api.endpoint, api.serviceId]));
      this.peerGuid = event.peerGuid;
      welcome(event);
    }
    if (!this.#seen.has(event.eventId)) this.on.event(event);
    this.#seen.add(event.eventId);
    if (!event.eventName.startsWith("connect.")) this.#acknowledge(id);
  }

  async #answer(question, payload) {
    const answer = new TextEncoder().encode(JSON.stringify(await this.on.rpc(payload)));
    const asked = new Uint8Array(question.buffer);
    const [channelAndSequence, messageId, success] = [asked.slice(1, 7), asked.slice(23, 31), 0];
    this.socket.send(Uint8Array.of(RESPONSE, ...channelAndSequence, ...messageId, success, ...answer));
  }
}
