// The seed's own tool, with a constant rate of arrivals: a slow server does not slow the clients down.
//
//   k6 run benches/k6.js                              100 GETs a second for 10 s at http://127.0.0.1:1121
//   k6_type=POST k6_url=http://127.0.0.1:1121 k6_rate=1000 k6_seconds=30 k6_shoes=1000 k6 run benches/k6.js
//
// The names of the variables are the seed's. Prints one line of JSON: requests, errors, rate a second, milliseconds.
import http from 'k6/http';

const type = __ENV.k6_type || 'GET';
const url = `${__ENV.k6_url || 'http://127.0.0.1:1121'}/api/images/`;
const rate = Number(__ENV.k6_rate || 100);
const seconds = Number(__ENV.k6_seconds || 10);
const shoes = Number(__ENV.k6_shoes || 1000);

export const options = {
  scenarios: {
    arrivals: {
      executor: 'constant-arrival-rate',
      rate,
      timeUnit: '1s',
      duration: `${seconds}s`,
      preAllocatedVUs: Math.min(256, Math.ceil(rate / 10) + 1),
      maxVUs: 1000,
    },
  },
  summaryTrendStats: ['min', 'med', 'p(90)', 'p(99)', 'p(99.9)', 'max'],
  discardResponseBodies: true,
};

const media = ['img1', 'img2', 'img3', 'img4', 'img5', 'img6', 'img7', 'vid1', 'vid2'];

export default function () {
  const shoe = 1 + Math.floor(Math.random() * shoes);
  if (type === 'POST') {
    const row = { shoe_id: shoe };
    for (const name of media) row[name] = `https://cdn.example.com/${shoe}/${name}`;
    http.post(url, JSON.stringify(row), { headers: { 'Content-Type': 'application/json' }, tags: { name: url } });
  } else {
    http.get(`${url}?shoe_id=${shoe}`, { tags: { name: url } });
  }
}

export function handleSummary(data) {
  const times = data.metrics.http_req_duration.values;
  const requests = data.metrics.http_reqs.values;
  const dropped = data.metrics.dropped_iterations ? data.metrics.dropped_iterations.values.count : 0;
  const failed = Math.round(data.metrics.http_req_failed.values.rate * requests.count);
  const answer = {
    asked: requests.count + dropped,
    sent: requests.count,
    ok: requests.count - failed,
    errors: failed ? { failed } : {},
    rate: requests.rate,
    p50: times.med,
    p90: times['p(90)'],
    p99: times['p(99)'],
    p999: times['p(99.9)'],
    max: times.max,
  };
  return { stdout: `${JSON.stringify(answer)}\n` };
}
