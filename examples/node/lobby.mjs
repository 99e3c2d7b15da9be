// A backend that does everything a backend can do: a lobby that players join and leave.
//
// It answers calls over HTTP and, over the gateway's internal listener, hears of sessions, says what
// one may call, pushes events, publishes a shortcut and asks the client a question. Node 20, no
// packages; docs/BACKENDS.md explains each step. Run it beside a gateway with examples/corelane.toml:
//
//     CONNECT_INTERNAL_SERVICE_TOKEN=secret node lobby.mjs [GATEWAY [PORT]]

import { randomInt, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";

const [gateway = "http://127.0.0.1:8090", port = "9300"] = process.argv.slice(2);
const serviceToken = process.env.CONNECT_INTERNAL_SERVICE_TOKEN;
const ANSWERS = "lobby.answers"; // the topic for what clients answer to our questions
const LOBBY_GUID = "10bb1e00-0000-4000-8000-000000000001"; // tells clients whose question it is

const accounts = new Map(); // of all sessions
const players = new Map(); // of those in the lobby

/** Asks something of the internal listener; a status other than 2xx is an error that carries it. */
async function ask(path, body) {
  const response = await fetch(gateway + path, {
    method: body === undefined ? "GET" : "POST",
    headers: { "X-Service-Token": serviceToken, "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (response.ok) return response;
  throw Object.assign(new Error(`${path}: ${await response.text()}`), { status: response.status });
}

/** Publishes an event for one `session` or for every session of an `account`; false if there is
 * none. It waits for a client that is away for a moment. */
async function publish(eventName, fields, to) {
  const event = { eventName, eventId: randomUUID(), timestamp: new Date().toISOString(), ...fields };
  try {
    await ask(`/bus/bannou-client-events?${new URLSearchParams(to)}`, event);
    return true;
  } catch (error) {
    if (error.status === 404) return false;
    throw error;
  }
}

/** Replaces what the session may call; its client is sent a new manifest. */
function allow(session, paths, reason) {
  const grant = { permissions: { lobby: paths }, reason };
  return publish("permission.session-capabilities", grant, { session });
}

/** Asks the client something; the answer comes as a record of the topic ANSWERS. */
function callClient(session, question) {
  return ask("/events/client-rpc", {
    clientId: session,
    serviceName: "lobby",
    serviceGuid: LOBBY_GUID,
    messageId: randomInt(2 ** 48 - 1), // the answer has the same
    payload: Buffer.from(JSON.stringify(question)).toString("base64"),
    responseChannel: ANSWERS,
    timeoutSeconds: 10,
  });
}

/** Topic and record of everything published from now on; for ever. */
async function* follow(...topics) {
  const query = new URLSearchParams(topics.map((topic) => ["topic", topic]));
  for (;;) {
    try {
      const { body } = await ask(`/bus?${query}`);
      console.log("following the bus");
      yield* records(createInterface({ input: Readable.fromWeb(body) }));
    } catch (error) {
      console.log(`the bus is out of reach: ${error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

/** Server-Sent Events: lines of fields, ended by an empty one. */
async function* records(lines) {
  let topic, data = [];
  for await (const line of lines) {
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (field === "event") topic = value;
    else if (field === "data") data.push(value);
    else if (line === "" && data.length > 0) {
      yield [topic, JSON.parse(data.join("\n"))];
      data = [];
    }
  }
}

async function onRecord(topic, record) {
  const { sessionId: session } = record;
  if (topic === "session.connected") {
    accounts.set(session, record.accountId);
  } else if (topic === "session.disconnected") {
    accounts.delete(session);
    players.delete(session);
  } else if (topic === ANSWERS) {
    // 0 and a payload, or why there is none: 60 no answer in time, 31 the client has gone.
    const { clientId, responseCode: code, payload } = record;
    const text = Buffer.from(payload, "base64").toString() || "null";
    console.log(`${accounts.get(clientId)} answers ${code}: ${text}`);
    if (code === 0) await publish("lobby.ready", { answer: JSON.parse(text) }, { session: clientId });
  } else if (topic === "lagged") {
    console.log(`${record} records were missed`);
  }
}

/** What players call: each gives status and answer. The status becomes the code of the answer. */
const calls = {
  async "/lobby/join"(session) {
    players.set(session, accounts.get(session) ?? "somebody");
    await allow(session, ["/lobby/join", "/lobby/invite"], "joined");
    // A route of this session alone: the payload is bound, the client sends none.
    const shortcut = {
      routeGuid: randomUUID(),
      targetGuid: LOBBY_GUID,
      boundPayload: JSON.stringify({ why: "the shortcut" }),
      metadata: {
        name: "lobby_leave",
        description: "Leave the lobby",
        sourceService: "lobby",
        targetService: "lobby",
        targetMethod: "POST",
        targetEndpoint: "/lobby/leave",
      },
    };
    await publish("session.shortcut-published", { shortcut }, { session });
    await callClient(session, { question: "ready?" });
    return [200, { players: players.size }];
  },

  async "/lobby/leave"(session, bound) {
    if (!players.delete(session)) return [409]; // 53
    await allow(session, ["/lobby/join"], "left");
    await publish("session.shortcut-revoked", { revokeByService: "lobby" }, { session });
    return [200, { left: bound.why }];
  },

  async "/lobby/invite"(session, { account }) {
    if (typeof account !== "string") return [400]; // 50
    const told = await publish("lobby.invited", { by: accounts.get(session) }, { account });
    return told ? [200, { invited: account }] : [404]; // 51
  },
};

async function answer(request) {
  // Set by the gateway. Only the gateway may reach this port, or anybody could write it.
  const session = request.headers["x-bannou-session-id"];
  const wish = parsed((await request.toArray()).join(""));
  if (wish === null) return [400]; // 50
  try {
    return await calls[request.url](session, wish);
  } catch (error) {
    console.log(`${request.url} failed: ${error.message}`);
    return [500]; // 60
  }
}

/** The object that `text` is in JSON; null if it is none. */
function parsed(text) {
  try {
    return Object(JSON.parse(text));
  } catch {
    return null;
  }
}

createServer(async (request, response) => {
  const [status, body] = await answer(request);
  response.writeHead(status).end(body && JSON.stringify(body));
}).listen(Number(port), "127.0.0.1");

for await (const [topic, record] of follow("session.connected", "session.disconnected", ANSWERS)) {
  await onRecord(topic, record).catch((error) => console.log(`${topic}: ${error.message}`));
}
