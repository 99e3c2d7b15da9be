// The other side of a gateway: what services say on its internal listener, and operators on its admin
// listener.

import assert from "node:assert/strict";

export class Services {
  #gateway;

  constructor(gateway) {
    this.#gateway = gateway;
  }

  /** Publishes an event for a session; resolves with the status. */
  async publish(session, event) {
    const stamp = { eventId: crypto.randomUUID(), timestamp: new Date().toISOString() };
    const { status } = await this.#post(`/bus/bannou-client-events?session=${session}`, { ...stamp, ...event });
    return status;
  }

  publishShortcut(session, { name, service, path, payload }) {
    const routeGuid = crypto.randomUUID();
    const metadata = {
      name, sourceService: service, targetService: service, targetMethod: "POST", targetEndpoint: path,
    };
    const shortcut = { routeGuid, targetGuid: crypto.randomUUID(), boundPayload: payload, metadata };
    return this.publish(session, { eventName: "session.shortcut-published", sessionId: session, shortcut });
  }

  revokeShortcuts(session, service) {
    return this.publish(session, {
      eventName: "session.shortcut-revoked", sessionId: session, revokeByService: service,
    });
  }

  /** Sends an RPC and resolves with what is published as its answer. */
  async callClient(session, messageId, payload) {
    const topic = `answers.${messageId}`;
    const records = await this.#get(`/bus?topic=${topic}`);
    const rpc = {
      clientId: session, serviceName: "test", serviceGuid: crypto.randomUUID(), messageId, channel: 3,
      payload: Buffer.from(payload).toString("base64"), responseChannel: topic, timeoutSeconds: 5,
      timestamp: new Date().toISOString(),
    };
    assert.equal((await this.#post("/events/client-rpc", rpc)).status, 200);
    const answer = JSON.parse(await firstRecord(records));
    assert.equal(answer.clientId, session);
    assert.equal(answer.messageId, messageId);
    return { code: answer.responseCode, payload: Buffer.from(answer.payload, "base64").toString() };
  }

  /** Ends a session for good, as an operator. */
  async end(session, reason) {
    const url = `${this.#gateway.admin_url}/sessions/${session}?reason=${reason}`;
    const { ok, status } = await fetch(url, { method: "DELETE" });
    assert.ok(ok, `DELETE was answered ${status}`);
  }

  #post(path, body) {
    return fetch(this.#gateway.internal_url + path, {
      method: "POST", headers: this.#headers, body: JSON.stringify(body),
    });
  }

  #get(path) {
    return fetch(this.#gateway.internal_url + path, { headers: this.#headers });
  }

  get #headers() {
    return { "X-Service-Token": this.#gateway.service_token, "Content-Type": "application/json" };
  }
}

/** The data of the first Server-Sent Event. */
async function firstRecord(response) {
  assert.equal(response.status, 200);
  let text = "";
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const data = /^data: ?(.*)$/m.exec(text.slice(0, text.lastIndexOf("\n")));
    if (data) return data[1];
  }
  throw new Error("the bus has ended");
}
