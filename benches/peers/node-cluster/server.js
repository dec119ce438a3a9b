// The seed's service, rebuilt as a fair baseline: Node's cluster module with one worker a core, express, pg-promise, and Redis
// as a cache that is asked first and forgotten after a write. Production settings; the same table and the same JSON as the
// server that it is measured beside. Started by `benches/run`; not part of the product.
//
// PEER_LISTEN (address:port), PEER_WORKERS, DATABASE_URL, and REDIS_URL for the cache.
'use strict';

const cluster = require('node:cluster');

const [, HOST, PORT] = /^(.*):(\d+)$/.exec(process.env.PEER_LISTEN);

// Seconds that an answer stays in Redis.
const KEPT = 3600;

const COLUMNS = ['img1', 'img2', 'img3', 'img4', 'img5', 'img6', 'img7', 'vid1', 'vid2'];

if (cluster.isPrimary) {
  for (let n = 0; n < Number(process.env.PEER_WORKERS); n += 1) cluster.fork();
  let stopping = false;
  // A worker that dies is replaced, as the cluster module's manual shows.
  cluster.on('exit', () => { if (!stopping) cluster.fork(); });
  process.on('SIGTERM', () => {
    stopping = true;
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGTERM');
    process.exit(0);
  });
} else {
  serve().catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

async function serve() {
  const express = require('express');
  const pgp = require('pg-promise')();
  const db = pgp({ connectionString: process.env.DATABASE_URL, max: 10 });
  const names = ['shoe_id', ...COLUMNS];
  // With a name, a statement is prepared once a connection.
  const select = {
    name: 'select-shoe',
    text: `SELECT id, ${names.join(', ')} FROM shoe_images WHERE shoe_id = $1 ORDER BY id`,
  };
  const insert = {
    name: 'insert-shoe',
    text: `INSERT INTO shoe_images (${names.join(', ')}) VALUES (${names.map((_, n) => `$${n + 1}`).join(', ')}) RETURNING id`,
  };

  let cache = null;
  if (process.env.REDIS_URL) {
    cache = require('redis').createClient({ url: process.env.REDIS_URL });
    cache.on('error', (error) => console.error(error.message));
    await cache.connect();
  }
  const key = (shoe) => `node:${shoe}`;

  const app = express();
  app.disable('x-powered-by');
  // Without a hash of each answer, which the measured clients would not use.
  app.disable('etag');

  app.get('/api/images/', async (request, response) => {
    const shoe = Number(request.query.shoe_id);
    if (!Number.isInteger(shoe)) return response.status(400).end();
    let body = cache && await cache.get(key(shoe));
    if (!body) {
      const { rows } = await db.result({ ...select, values: [shoe] });
      body = JSON.stringify(rows);
      if (cache) await cache.set(key(shoe), body, { EX: KEPT });
    }
    response.set('Cache-Control', 'no-cache').type('application/json').send(body);
  });

  app.post('/api/images/', express.json(), async (request, response) => {
    const sent = request.body ?? {};
    if (!Number.isInteger(sent.shoe_id)) return response.status(400).end();
    const values = names.map((name) => sent[name] ?? null);
    const { id } = await db.one({ ...insert, values });
    if (cache) await cache.del(key(sent.shoe_id));
    const row = { id };
    names.forEach((name, n) => { row[name] = values[n]; });
    response.status(201).location(`/api/images/${id}`).json(row);
  });

  app.listen(Number(PORT), HOST, 4096);
}
