// What a client that shares no code with the gateway may expect of it.
// Usage: node conformance.js PATH_TO_CORELANE [--max-message=BYTES] [--hard-limit=BYTES]

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { within, withDevGateway } from "./dev_gateway.js";
import * as frames from "./frames.js";
import { Session, refusal } from "./session.js";

const CLOSED_WITHIN_MS = 10_000;

async function callsReachBothKindsOfBackend({ url, tokens }) {
  const session = await Session.open(url, tokens[0]);
  for (const endpoint of ["/demo/echo", "/demo/link-echo"]) {
    for (const text of ['{"hello":"world"}', JSON.stringify("x".repeat(5000))]) {
      const payload = Buffer.from(text);
      const reply = await session.call(service(session, endpoint), payload, { channel: 3 });
      assert.equal(reply.code, frames.OK, `${endpoint}: code ${reply.code}`);
      assert.ok(reply.payload.equals(payload), `${endpoint}: another payload came back`);
    }
  }
  const time = await session.call(service(session, "/demo/time"), Buffer.from("{}"));
  assert.equal(time.code, frames.OK);
  JSON.parse(time.payload.toString());
  await session.close();
}

async function peersExchangeMessages({ url, tokens }) {
  const alice = await Session.open(url, tokens[0]);
  const bob = await Session.open(url, tokens[1]);
  assert.ok(!alice.peerGuid.equals(bob.peerGuid));
  for (const [sender, target] of [[alice, bob], [bob, alice]]) {
    const payload = randomBytes(300);
    const reply = await sender.call(target.peerGuid, payload, { flags: frames.CLIENT });
    assert.equal(reply.code, frames.OK);
    const receipt = JSON.parse(reply.payload.toString());
    assert.equal(receipt.Status, "delivered");
    assert.equal(BigInt(receipt.OriginalMessageId), reply.messageId);
    const arrived = await target.receive();
    assert.equal(arrived.kind, "request");
    assert.equal(arrived.flags, frames.CLIENT);
    assert.ok(arrived.guid.equals(target.peerGuid));
    assert.ok(arrived.payload.equals(payload));
  }
  const unknown = Buffer.from(alice.peerGuid);
  unknown[15] ^= 1;
  const reply = await bob.call(unknown, Buffer.from("?"), { flags: frames.CLIENT });
  assert.equal(reply.code, frames.CLIENT_NOT_FOUND);
  await alice.close();
  await bob.close();
}

async function clientsThatAskAreSentBrotli({ url, tokens }) {
  const alice = await Session.open(url, tokens[0]);
  const bob = await Session.open(url, tokens[1], { compress: "br" });
  const long = Buffer.from(JSON.stringify("long ".repeat(1000)));
  for (const [session, asked] of [[alice, false], [bob, true]]) {
    for (const endpoint of ["/demo/echo", "/demo/link-echo"]) {
      for (const [payload, compressed] of [[long, asked], [Buffer.from('"short"'), false]]) {
        const reply = await session.call(service(session, endpoint), payload);
        assert.ok(reply.payload.equals(payload), `${endpoint}: another payload came back`);
        assert.equal(reply.compressed, compressed, `${endpoint}, ${payload.length} bytes`);
      }
    }
  }
  for (const [sender, target, compressed] of [[alice, bob, true], [bob, alice, false]]) {
    for (const [payload, smaller] of [[long, compressed], [randomBytes(3000), false]]) {
      assert.equal((await sender.call(target.peerGuid, payload, { flags: frames.CLIENT })).code, 0);
      const arrived = await target.receive();
      assert.ok(arrived.payload.equals(payload));
      assert.equal(arrived.compressed, smaller);
    }
  }
  await alice.close();
  await bob.close();
}

async function servicesPushEventsShortcutsAndQuestions({ url, tokens, ...gateway }) {
  const session = await Session.open(url, tokens[0]);
  const { question } = await session.rpc();
  assert.equal(question, "who are you?");
  const tick = await session.event("demo.tick");
  assert.ok(tick.n > 0);
  const time = await session.call(service(session, "demo_time"), Buffer.alloc(0));
  assert.equal(time.code, frames.OK);
  JSON.parse(time.payload.toString());

  const other = await Session.open(url, tokens[1]);
  const events = `${gateway.internal_url}/bus/bannou-client-events`;
  const event = { eventName: "demo.tick", n: -1 };
  for (const [account, token, status] of [
    [gateway.accounts[0], gateway.service_token, 202],
    [gateway.accounts[0], "another", 401],
    ["nobody", gateway.service_token, 404],
  ]) {
    const headers = { "X-Service-Token": token };
    const body = JSON.stringify(event);
    const answer = await fetch(`${events}?account=${account}`, { method: "POST", headers, body });
    assert.equal(answer.status, status, `account ${account}`);
  }
  let pushed;
  do pushed = await session.event("demo.tick");
  while (pushed.n !== -1);
  assert.ok((await other.event("demo.tick")).n > 0, "an event of another account");
  await session.close();
  await other.close();
}

async function aBadTokenIsRefused({ url, tokens }) {
  const forged = tokens[0].slice(0, -6) + (tokens[0].endsWith("AAAAAA") ? "BBBBBB" : "AAAAAA");
  for (const token of ["nonsense", forged]) {
    assert.equal((await refusal(url, { Authorization: `Bearer ${token}` })).status, 401);
  }
  const anonymous = await refusal(url, {});
  assert.equal(anonymous.status, 401);
  assert.match(anonymous.headers["www-authenticate"], /^Bearer/);
}

async function aTextFrameIsRefused({ url, tokens }) {
  const session = await Session.open(url, tokens[0]);
  for (const sequence of [1, 2]) {
    session.socket.send("text is not part of the protocol");
    const reply = await session.receive();
    assert.equal(reply.flags, frames.RESPONSE);
    assert.equal(reply.sequence, sequence);
    assert.equal(reply.code, frames.TEXT_NOT_SUPPORTED);
  }
  await session.close();
}

async function anUnknownGuidIsRefused({ url, tokens }) {
  const session = await Session.open(url, tokens[0]);
  const reply = await session.call(randomBytes(16), Buffer.from("{}"));
  assert.equal(reply.code, frames.SERVICE_NOT_FOUND);
  await session.close();
}

async function aMessageTooLargeIsAnswered({ url, tokens }, { maxMessage }) {
  const session = await Session.open(url, tokens[0]);
  const echo = service(session, "/demo/echo");
  const refused = await session.call(echo, Buffer.alloc(maxMessage + 1, "x"));
  assert.equal(refused.code, frames.REQUEST_TOO_LARGE);
  assert.equal((await session.call(echo, Buffer.from('"still open"'))).code, frames.OK);
  await session.close();
}

async function aMessageBeyondTheHardLimitCloses({ url, tokens }, { hardLimit }) {
  const session = await Session.open(url, tokens[0]);
  session.send(service(session, "/demo/echo"), Buffer.alloc(hardLimit + 1, "x"));
  assert.equal(await within(CLOSED_WITHIN_MS, "the close", session.closed), 1009);
}

function service(session, endpoint) {
  assert.ok(session.services.has(endpoint), `the manifest lacks ${endpoint}`);
  return session.services.get(endpoint);
}

const expectations = [
  callsReachBothKindsOfBackend,
  peersExchangeMessages,
  clientsThatAskAreSentBrotli,
  servicesPushEventsShortcutsAndQuestions,
  aBadTokenIsRefused,
  aTextFrameIsRefused,
  anUnknownGuidIsRefused,
  aMessageTooLargeIsAnswered,
  aMessageBeyondTheHardLimitCloses,
];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    "max-message": { type: "string", default: "65536" },
    "hard-limit": { type: "string", default: "1048576" },
  },
});
const limits = {
  maxMessage: Number(values["max-message"]),
  hardLimit: Number(values["hard-limit"]),
};
// Whoever does not ask for it must not notice.
const variables = { CONNECT_COMPRESSION_ENABLED: "true" };
let failed = 0;
await withDevGateway(positionals[0], 2, async (gateway) => {
  for (const expectation of expectations) {
    const name = expectation.name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
    try {
      await expectation(gateway, limits);
      console.log(`ok      node: ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  node: ${name}: ${error.message}`);
    }
  }
}, { variables });
process.exit(failed === 0 ? 0 : 1);
