// CouchDB's stand-in for the tests: PouchDB's server, which speaks CouchDB's protocol, behind HTTP's Basic scheme.
//
//   node server.js [FOLDER]    databases in FOLDER, which outlive the server, or else in memory
//
// Takes USER, PASSWORD and PORT (0: any) from the environment, listens on loopback, and prints its port in a line. With CERT and
// KEY, PEM files, it speaks TLS.
//
// What real servers do rarely it does when it is told to: PUT /_fault with one of the faults below, which befalls the next
// `_bulk_docs`.

'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const path = require('node:path');
const express = require('express');
const expressPouchDB = require('express-pouchdb');
const PouchDB = require('pouchdb');

const faults = {
  // It is carried out, and the answer lost with its connection.
  'lose-answer': (request, response, next) => {
    response.write = () => true;
    response.end = () => request.socket.resetAndDestroy();
    next();
  },
  // It is lost before anything comes of it.
  'lose-request': (request) => request.socket.resetAndDestroy(),
  // It is carried out on fewer copies than a quorum.
  accepted: (request, response, next) => {
    answerWith(response, 202, (outcomes) => outcomes.map((outcome) => ({ ...outcome, accepted: true })));
    next();
  },
  // It is carried out, and the part of a cluster that should say so is too late.
  'cluster-timeout': (request, response, next) => {
    answerWith(response, 500, () => ({ error: 'timeout', reason: 'The request could not be processed in a reasonable amount of time.' }));
    next();
  },
  // Nothing comes of it; a proxy says so, or not.
  'bad-gateway': (request, response) => response.status(502).type('html').send('<h1>502 Bad Gateway</h1>'),
  // The database's own rules refuse all of it.
  forbidden: (request, response) => {
    let body = '';
    request.on('data', (chunk) => (body += chunk));
    request.on('end', () => {
      const refused = ({ _id }) => ({ id: _id, error: 'forbidden', reason: 'no shoes on Sundays' });
      response.status(201).json(JSON.parse(body).docs.map(refused));
    });
  },
};

// Lets the answer be made, and sends another one in its place.
function answerWith(response, status, change) {
  const chunks = [];
  // Else what compresses answers has the header leave before it is ours.
  response.writeHead = () => response;
  response.write = (chunk) => chunks.push(Buffer.from(chunk));
  const end = response.end;
  response.end = (chunk) => {
    if (chunk) chunks.push(Buffer.from(chunk));
    const body = JSON.stringify(change(JSON.parse(Buffer.concat(chunks).toString())));
    response.removeHeader('Content-Length');
    response.removeHeader('ETag');
    response.statusCode = status;
    response.setHeader('Content-Length', Buffer.byteLength(body));
    delete response.writeHead;
    delete response.write;
    response.end = end;
    response.end(body);
  };
}

const folder = process.argv[2];
if (!folder) PouchDB.plugin(require('pouchdb-adapter-memory'));
const Databases = PouchDB.defaults(folder ? { prefix: path.join(folder, path.sep) } : { adapter: 'memory' });

const expected = `Basic ${Buffer.from(`${process.env.USER}:${process.env.PASSWORD}`).toString('base64')}`;
const digest = (text) => crypto.createHash('sha256').update(text).digest();

const app = express();
let fault = null;
let served = 0;
app.disable('x-powered-by');
app.use((request, response, next) => {
  const given = request.headers.authorization ?? '';
  if (crypto.timingSafeEqual(digest(given), digest(expected))) return next();
  response.status(401).json({ error: 'unauthorized', reason: 'Name or password is incorrect.' });
});
app.put('/_fault', express.text({ type: '*/*' }), (request, response) => {
  if (!(request.body in faults)) return response.status(400).json({ error: 'bad_request', reason: 'no such fault' });
  fault = request.body;
  response.status(201).json({ ok: true });
});
// How many requests there were for databases, and whether the fault is still to come.
app.get('/_seen', (request, response) => response.json({ served, fault }));
app.use((request, response, next) => {
  served += 1;
  if (fault === null || !request.path.endsWith('/_bulk_docs')) return next();
  const inject = faults[fault];
  fault = null;
  inject(request, response, next);
});
app.use(expressPouchDB(Databases, { mode: 'minimumForPouchDB', inMemoryConfig: true }));

const { CERT, KEY, PORT } = process.env;
const server = CERT ? https.createServer({ cert: fs.readFileSync(CERT), key: fs.readFileSync(KEY) }, app) : http.createServer(app);
server.listen(Number(PORT ?? 0), '127.0.0.1', () => console.log(server.address().port));
server.keepAliveTimeout = 60_000;
