// Node clients. Usage: clients.cjs PORT TLS_PORT CA_FILE HOST. Prints a JSON report.
const { readFileSync } = require('node:fs');
const { createHash } = require('node:crypto');
const { Client } = require('undici');
const WebSocket = require('ws');

const [port, tlsPort, caFile, host] = process.argv.slice(2);
const ca = readFileSync(caFile);

async function over(origin, options) {
  // Requests of twelve sessions on one connection.
  const client = new Client(origin, { ...options, pipelining: options.allowH2 ? 100 : 1 });
  const homes = {};
  const ask = async (session) => {
    const headers = { cookie: `SID=s${session}`, host };
    const { statusCode, headers: got, body } = await client.request({ path: '/seen', method: 'GET', headers });
    await body.text();
    if (statusCode !== 200) throw new Error(`status ${statusCode}`);
    (homes[session] ??= new Set()).add(got['x-backend']);
  };
  for (let round = 0; round < 3; round++) {
    await Promise.all(Array.from({ length: 12 }, (_, session) => ask(session)));
  }
  const large = Buffer.alloc(3 << 20, 'homing ');
  const up = await client.request({ path: '/digest', method: 'POST', headers: { host }, body: large });
  const digest = (await up.body.text()).trim();
  const wanted = `${large.length} ${createHash('sha256').update(large).digest('hex')}`;
  const down = await client.request({ path: '/bytes/3000000', method: 'GET', headers: { host } });
  const length = (await down.body.arrayBuffer()).byteLength;
  let trailers = {};
  // Over HTTP/2, undici ends a response at its trailers, and fails on data it receives after them.
  if (!options.allowH2) {
    const trailing = await client.request({ path: '/trailers', method: 'GET', headers: { host, te: 'trailers' } });
    await trailing.body.text();
    trailers = { ...trailing.trailers };
  }
  await client.close();
  const named = Object.entries(homes).map(([session, names]) => [session, [...names]]);
  return { homes: Object.fromEntries(named), up: digest === wanted, length, trailers };
}

function once(emitter, event) {
  return new Promise((resolve, reject) => {
    emitter.once(event, (...args) => resolve(args));
    if (event !== 'error') emitter.once('error', reject);
  });
}

async function webSocket(url, options) {
  const ws = new WebSocket(url, options);
  await once(ws, 'open');
  const echo = async (data) => {
    ws.send(data);
    const [answer] = await once(ws, 'message');
    return answer;
  };
  const text = (await echo('grüße')).toString();
  // The backend accepts frames of up to 64 KiB.
  const big = Buffer.alloc(65000, 7);
  const same = (await echo(big)).equals(big);
  ws.ping('there?');
  const [pong] = await once(ws, 'pong');
  ws.close(3001, 'enough');
  const [code] = await once(ws, 'close');
  return { text, same, pong: pong.toString(), code };
}

async function main() {
  const report = {};
  const tls = { ca, servername: host };
  report.http1 = await over(`http://127.0.0.1:${port}`, {});
  report.http1tls = await over(`https://127.0.0.1:${tlsPort}`, { connect: tls });
  report.http2 = await over(`https://127.0.0.1:${tlsPort}`, { connect: tls, allowH2: true });
  report.ws = await webSocket(`ws://127.0.0.1:${port}/ws`, {});
  report.wss = await webSocket(`wss://127.0.0.1:${tlsPort}/ws`, { ...tls, headers: { host } });
  console.log(JSON.stringify(report));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
