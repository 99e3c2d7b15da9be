// The example client against the real program: everything that docs/CLIENTS.md promises.
// Usage: node end_to_end.js PATH_TO_CORELANE

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { brotliDecompressSync } from "node:zlib";
import WebSocket from "ws";
import { BrokenWire } from "./broken_wire.js";
import { Client, META, Refused } from "./client.mjs";
import { within, withDevGateway } from "./dev_gateway.js";
import { Player } from "./hundred_lines.mjs";
import { Services } from "./services.js";

const PATIENCE_MS = 15_000;
const COUNTED = "test.counted";
const binary = process.argv[2];

const variables = {
  CONNECT_COMPRESSION_ENABLED: "true",
  CORELANE_AUTH_COOKIE: "session",
  CORELANE_AUTH_SUBPROTOCOL: "true",
  CORELANE_EVENTS_CLIENT_EVENT_NAMES: COUNTED,
};

async function opened(url, token, options = {}) {
  const client = new Client(url, { token: () => token, ...options });
  await within(PATIENCE_MS, "the manifest", client.ready);
  return client;
}

/** Values that a handler is given, to be awaited one by one. */
function inbox(client, name) {
  const [arrived, waiting] = [[], []];
  client.on(name, (value) => (waiting.length > 0 ? waiting.shift()(value) : arrived.push(value)));
  return {
    arrived,
    next: () => {
      const next = arrived.length > 0 ? arrived.shift() : new Promise((resolve) => waiting.push(resolve));
      return within(PATIENCE_MS, name, Promise.resolve(next));
    },
  };
}

async function eachRouteOfATokenOpensASession({ url, tokens }) {
  for (const via of ["header", "query", "subprotocol"]) {
    const client = await opened(url, tokens[0], { via });
    assert.deepEqual(await client.call("/demo/echo", { via }), { via });
    await client.leave();
  }
  const socket = new WebSocket(url, ["corelane"], { headers: { Cookie: `session=${tokens[0]}` } });
  await within(PATIENCE_MS, "the upgrade by cookie", once(socket, "open"));
  assert.equal(socket.protocol, "corelane", "the token must not come back");
  socket.close();
  const forged = new Client(url, { token: () => `${tokens[0]}x` });
  assert.equal((await within(PATIENCE_MS, "the refusal", forged.ended)).status, 401);
  await assert.rejects(forged.call("/demo/echo"), /has ended/);
}

async function callsAndQuestionsAreAnswered({ url, tokens }) {
  const client = await opened(url, tokens[0], { inflate: brotliDecompressSync });
  const long = "long ".repeat(1000);
  const answers = Array.from({ length: 20 }, (_, at) => client.call("/demo/echo", { at }, { channel: at % 3 }));
  for (const [at, answer] of answers.entries()) assert.deepEqual(await answer, { at });
  for (const endpoint of ["/demo/echo", "/demo/link-echo"]) assert.equal(await client.call(endpoint, long), long);
  const schema = await client.meta("/demo/time", META.ALL);
  assert.equal(schema.metaType, "full-schema");
  assert.equal((await client.meta("/demo/time")).metaType, "endpoint-info");
  await assert.rejects(client.call("/no/such", {}), /the manifest has no/);
  await assert.rejects(client.call("/demo/echo", {}, { channel: 5000 }), new Refused(13));
  await client.leave();
}

async function peersAreReachedOneByOneAndAllAtOnce({ url, tokens }) {
  const clients = await Promise.all(tokens.slice(0, 3).map((token) => opened(url, token)));
  const inboxes = clients.map((client) => inbox(client, "peer"));
  const receipt = await clients[0].sendToPeer(clients[1].peerGuid, { hello: "bob" });
  assert.equal(receipt.Status, "delivered");
  const arrived = await inboxes[1].next();
  assert.deepEqual([JSON.parse(new TextDecoder().decode(arrived.payload)), arrived.isBroadcast], [{ hello: "bob" }, false]);
  await clients[2].broadcast(new TextEncoder().encode("to all"));
  for (const at of [0, 1]) {
    const { payload, isBroadcast } = await inboxes[at].next();
    assert.deepEqual([new TextDecoder().decode(payload), isBroadcast], ["to all", true]);
  }
  await assert.rejects(clients[0].sendToPeer(crypto.randomUUID(), "?"), new Refused(31));
  await Promise.all(clients.map((client) => client.leave()));
  assert.deepEqual(inboxes[2].arrived, [], "a broadcast does not come back");
}

async function eventsOfServicesArriveInOrder({ url, tokens }, services) {
  const client = await opened(url, tokens[0]);
  const events = inbox(client, COUNTED);
  for (const count of [1, 2, 3]) {
    assert.equal(await services.publish(client.sessionId, { eventName: COUNTED, count }), 202);
  }
  for (const count of [1, 2, 3]) assert.equal((await events.next()).count, count);
  assert.equal(await services.publish(client.sessionId, { eventName: "not.allowed" }), 422);
  await client.leave();
}

async function shortcutsAreCalledByTheirName({ url, tokens }, services) {
  const client = await opened(url, tokens[0]);
  const manifests = inbox(client, "connect.capability-manifest");
  const bound = JSON.stringify({ bound: true });
  const shortcut = { name: "greet", service: "demo", path: "/demo/echo", payload: bound };
  assert.equal(await services.publishShortcut(client.sessionId, shortcut), 202);
  await within(PATIENCE_MS, "the shortcut", until(manifests, () => client.services.has("greet")));
  assert.deepEqual(await client.call("greet", { ignored: true }), { bound: true });
  assert.deepEqual(await client.call("/demo/echo", 1), 1, "endpoints are still there");
  assert.equal(await services.revokeShortcuts(client.sessionId, "demo"), 202);
  await within(PATIENCE_MS, "the revocation", until(manifests, () => !client.services.has("greet")));
  await client.leave();
}

async function until(manifests, isTrue) {
  while (!isTrue()) await manifests.next();
}

async function rpcsAreAnswered({ url, tokens }, services) {
  const rpc = ({ channel, payload }) => {
    const question = new TextDecoder().decode(payload);
    if (question === "fail") throw new Error("as it was told");
    return { channel, question };
  };
  const client = await opened(url, tokens[0], { rpc });
  const answer = await within(PATIENCE_MS, "an answer", services.callClient(client.sessionId, 77, "well?"));
  assert.deepEqual([answer.code, JSON.parse(answer.payload)], [0, { channel: 3, question: "well?" }]);
  const error = console.error;
  console.error = () => {};
  const failed = await within(PATIENCE_MS, "an answer", services.callClient(client.sessionId, 78, "fail"));
  console.error = error;
  assert.equal(failed.code, 60);
  await client.leave();
}

/** Events that came while the wire was cut are there afterwards, each once. */
async function survivesACut({ url, tokens }, services, options, authorization) {
  const wire = await BrokenWire.before(url);
  const client = await opened(wire.url, tokens[0], options);
  const { sessionId, peerGuid } = client;
  const [events, losses] = [inbox(client, COUNTED), inbox(client, "lost")];
  await services.publish(sessionId, { eventName: COUNTED, count: 1 });
  assert.equal((await events.next()).count, 1);
  const stuck = client.call("/demo/echo", { before: "the cut" });
  wire.cut();
  await assert.rejects(stuck, /connection was lost/);
  assert.equal((await losses.next()).code, 1006);
  for (const count of [2, 3]) await services.publish(sessionId, { eventName: COUNTED, count });
  wire.mend();
  for (const count of [2, 3]) assert.equal((await events.next()).count, count);
  await within(PATIENCE_MS, "the manifest", client.ready);
  assert.equal(client.sessionId, sessionId);
  assert.notEqual(client.peerGuid, peerGuid, "a connection has its own peer GUID");
  assert.deepEqual(await client.call("/demo/echo", { after: "the cut" }), { after: "the cut" });
  assert.match(wire.heads.at(-1), authorization);
  assert.deepEqual(events.arrived, []);
  await client.leave();
  wire.close();
}

function aCutConnectionIsResumedByReconnectToken(gateway, services) {
  return survivesACut(gateway, services, { via: "header" }, /^Authorization: Reconnect [\w+/]{43}=\r$/m);
}

function aCutConnectionIsResumedByJwt(gateway, services) {
  return survivesACut(gateway, services, { via: "query" }, /^GET \/connect\?token=/);
}

async function whoIsReplacedStaysAway({ url, tokens }) {
  const first = await opened(url, tokens[0]);
  const lost = inbox(first, "lost");
  const second = await opened(url, tokens[0]);
  const end = await within(PATIENCE_MS, "the close", first.ended);
  assert.deepEqual([end.code, end.reason], [4002, "New connection established"]);
  assert.deepEqual(lost.arrived, []);
  assert.deepEqual(await second.call("/demo/echo", 2), 2);
  await second.leave();
}

async function aForcedEndAsksForANewLogin({ url, tokens, config }, services) {
  const asked = [];
  let answer = tokens[3];
  const client = await opened(url, answer, { token: (fresh) => (asked.push(fresh), answer) });
  const lost = inbox(client, "lost");
  await services.end(client.sessionId, "Cheating");
  const { code, reason } = await lost.next();
  assert.deepEqual([code, reason], [4001, "Session invalidated: Cheating"]);
  // The token that was made before is void, and nothing but a new login helps.
  assert.equal((await within(PATIENCE_MS, "the refusal", client.ended)).status, 401);
  assert.deepEqual(asked, [false, true]);
  answer = execFileSync(binary, ["token", "mint", "-c", config]).toString().trim();
  const next = await opened(url, answer);
  assert.deepEqual(await next.call("/demo/echo", 3), 3);
  await next.leave();
}

async function aHundredLinesAreEnough({ url, tokens }, services) {
  const source = readFileSync(new URL("hundred_lines.mjs", import.meta.url), "utf8");
  assert.ok(source.trimEnd().split("\n").length <= 100);
  const wire = await BrokenWire.before(url);
  const [player, other] = [new Player(wire.url, tokens[0]), new Player(url, tokens[1])];
  const heard = { events: [], letters: [] };
  player.on.event = (event) => event.eventName === COUNTED && heard.events.push(event.count);
  player.on.peer = (letter) => heard.letters.push(JSON.parse(letter));
  player.on.rpc = (question) => ({ question });
  const ended = new Promise((resolve) => (player.on.closed = resolve));
  const { sessionId } = await within(PATIENCE_MS, "the manifest", player.connect());
  await within(PATIENCE_MS, "the manifest", other.connect());

  assert.deepEqual(await player.call("/demo/echo", { hello: "world" }), { hello: "world" });
  await assert.rejects(player.call("/demo/echo", {}, 5000), { code: 13 });
  assert.equal((await other.sendToPeer(player.peerGuid, "a letter")).Status, "delivered");
  other.broadcast("to all");
  const asked = await within(PATIENCE_MS, "an answer", services.callClient(sessionId, 9, "well?"));
  assert.deepEqual([asked.code, JSON.parse(asked.payload)], [0, { question: "well?" }]);
  await services.publish(sessionId, { eventName: COUNTED, count: 1 });
  await eventually(() => assert.deepEqual(heard, { events: [1], letters: ["a letter", "to all"] }));

  wire.cut();
  await within(PATIENCE_MS, "the end", ended);
  await services.publish(sessionId, { eventName: COUNTED, count: 2 });
  wire.mend();
  const again = await within(PATIENCE_MS, "the manifest", player.connect());
  assert.equal(again.sessionId, sessionId);
  assert.match(wire.heads.at(-1), /^Authorization: Reconnect /m);
  await eventually(() => assert.deepEqual(heard.events, [1, 2]));
  for (const each of [player, other]) each.leave();
  wire.close();
}

/** Until the assertion holds. */
async function eventually(assertion) {
  for (const deadline = Date.now() + PATIENCE_MS; ; await new Promise((done) => setTimeout(done, 5))) {
    try {
      return assertion();
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}

const expectations = [
  eachRouteOfATokenOpensASession,
  callsAndQuestionsAreAnswered,
  peersAreReachedOneByOneAndAllAtOnce,
  eventsOfServicesArriveInOrder,
  shortcutsAreCalledByTheirName,
  rpcsAreAnswered,
  aCutConnectionIsResumedByReconnectToken,
  aCutConnectionIsResumedByJwt,
  whoIsReplacedStaysAway,
  aForcedEndAsksForANewLogin,
  aHundredLinesAreEnough,
];

let failed = 0;
await withDevGateway(binary, 2, async (gateway) => {
  const services = new Services(gateway);
  for (const expectation of expectations) {
    const name = expectation.name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
    try {
      await expectation(gateway, services);
      console.log(`ok      example client: ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  example client: ${name}: ${error.stack}`);
    }
  }
}, { variables, quiet: true });
process.exit(failed === 0 ? 0 : 1);
