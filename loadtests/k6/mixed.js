// People of a tenant at work, as k6 has them: most look users up, some list and search, some change something, one signs in now and
// then. Against any server:
//
//   k6 run -e URL=http://localhost:8080 -e TENANT=demo -e EMAIL=admin@example.org -e PASSWORD=... mixed.js
//
// RATE: iterations a second (50); DURATION (10s). Thresholds are below; k6 ends with 99 when one is passed.
import http from 'k6/http';
import { check } from 'k6';

const url = __ENV.URL || 'http://localhost:8080';
const rate = Number(__ENV.RATE || 50);
const duration = __ENV.DURATION || '10s';
const arrivals = (part, exec) => ({
  executor: 'constant-arrival-rate',
  rate: Math.max(1, Math.round(rate * part * 10)),
  timeUnit: '10s',
  duration,
  preAllocatedVUs: 20,
  maxVUs: 100,
  exec,
});

export const options = {
  scenarios: {
    look_up: arrivals(0.8, 'lookUp'),
    list: arrivals(0.12, 'list'),
    change: arrivals(0.06, 'change'),
    sign_in: arrivals(0.02, 'signIn'),
  },
  thresholds: {
    checks: ['rate==1'],
    dropped_iterations: ['count==0'],
    'http_req_duration{scenario:look_up}': ['p(99)<100'],
    'http_req_duration{scenario:list}': ['p(99)<200'],
    'http_req_duration{scenario:change}': ['p(99)<300'],
    'http_req_duration{scenario:sign_in}': ['p(99)<1500'],
  },
  summaryTrendStats: ['med', 'p(90)', 'p(99)', 'max'],
};

const json = { 'Content-Type': 'application/json' };

function login() {
  const body = JSON.stringify({ tenant: __ENV.TENANT, email: __ENV.EMAIL, password: __ENV.PASSWORD });
  return http.post(`${url}/api/v1/auth/login`, body, { headers: json, tags: { name: 'sign in' } });
}

const signed = (token, more = {}) => ({ headers: { ...json, Authorization: `Bearer ${token}` }, ...more });

export function setup() {
  const answer = login();
  if (answer.status !== 200) throw new Error(`sign-in: ${answer.status} ${answer.body}`);
  const token = answer.json('data.token');
  const list = http.get(`${url}/api/v1/users?limit=100&cursor=first`, signed(token));
  if (list.status !== 200) throw new Error(`list: ${list.status} ${list.body}`);
  return { token, users: list.json('data').map((user) => user.id) };
}

const somebody = ({ users }) => users[Math.floor(Math.random() * users.length)];
const one = { tags: { name: 'user' } };

export function lookUp(data) {
  check(http.get(`${url}/api/v1/users/${somebody(data)}`, signed(data.token, one)), { found: (r) => r.status === 200 });
}

export function list(data) {
  const search = Math.random() < 0.5 ? '&search=user' : '';
  const answer = http.get(`${url}/api/v1/users?limit=20&cursor=first${search}`, signed(data.token, { tags: { name: 'list' } }));
  check(answer, { listed: (r) => r.status === 200 });
}

export function change(data) {
  const body = JSON.stringify({ name: `Name ${Math.floor(Math.random() * 1e6)}` });
  const answer = http.patch(`${url}/api/v1/users/${somebody(data)}`, body, signed(data.token, one));
  check(answer, { changed: (r) => r.status === 200 });
}

export function signIn() {
  check(login(), { 'signed in': (r) => r.status === 200 });
}
