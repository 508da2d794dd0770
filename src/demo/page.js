// The chat page: records the requests of its Socket.IO client, and shows the chat.
//
// The node of a reply is in its `x-node` header. A WebSocket has no headers that a page can read, so the
// client sends the event `whoami`. Text from other users is only inserted as text nodes.
"use strict";

const byId = (id) => document.getElementById(id);
const KINDS = { handshake: "Handshake", poll: "Poll", post: "Post", websocket: "WebSocket" };
const MAX_FLAGS = 60;
const MAX_SESSIONS = 6;
const MAX_MESSAGES = 200;

// ---------------------------------------------------------------- DOM helpers

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function flag(node) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "flag");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  setFlag(svg, node);
  return svg;
}

function setFlag(svg, node) {
  // A node with a number, such as alfa-2, has the flag of alfa.
  const name = node && node.replace(/-\d+$/, "");
  const known = name && byId(`flag-${name}`);
  svg.firstElementChild.setAttribute("href", known ? `#flag-${name}` : "#flag-none");
}

const flagAndName = (node) => [flag(node), element("span", {}, node)];
const plural = (n, one) => `${n} ${n === 1 ? one : `${one}s`}`;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// ---------------------------------------------------------------- sessions and their requests

const sessions = [];
let session = null;
begin();
let lastCrowds = null;
let newest = 0;

// Starts a session with its handshake. A session that never got an id is used again.
function begin() {
  const last = sessions.at(-1);
  if (last && !last.sid) return (session = last);
  session = { number: sessions.length + 1, sid: null, node: null, requests: [], websocket: null };
  sessions.push(session);
  byId("requests").replaceChildren();
  return session;
}

// Requests of a session that another node answered.
const misrouted = (s) => s.requests.filter((r) => r.node && s.node && r.node !== s.node);
const answered = (s, ...kinds) => s.requests.filter((r) => r.node && kinds.includes(r.kind));

function addRequest(request) {
  request.item = element("li", { "data-kind": request.kind });
  byId("requests").append(request.item);
  while (byId("requests").children.length > MAX_FLAGS) byId("requests").firstElementChild.remove();
  labelRequest(request);
  byId("line").scrollLeft = byId("line").scrollWidth;
}

function labelRequest(request) {
  const { item, kind, node, fault, took } = request;
  const lines = [node, fault ?? (took === undefined ? null : `${took} ms`)].filter(Boolean);
  const [second = "waiting", third] = lines;
  item.replaceChildren(flag(node), element("b", {}, KINDS[kind]), second);
  if (third) item.append(element("br"), third);
  if (node) item.dataset.node = node;
  if (fault) item.dataset.fault = fault;
}

// ---------------------------------------------------------------- with and without affinity

const PATHS = { moorline: "/socket.io/", plain: "/plain/socket.io/" };
const counts = {
  moorline: { requests: 0, failed: 0, opened: 0, connected: 0 },
  plain: { requests: 0, failed: 0, opened: 0, connected: 0 },
};
let route = "moorline";
/** The last request that failed without affinity: the node that opened the session, and the node that got the request. */
let failure = null;

function count(on, what) {
  counts[on][what]++;
  const cell = byId(`${on}-${what}`);
  cell.textContent = counts[on][what];
  cell.classList.toggle("wrong", what === "failed");
}

// ---------------------------------------------------------------- watching XMLHttpRequest

const { open, send } = XMLHttpRequest.prototype;

XMLHttpRequest.prototype.open = function (method, url, ...rest) {
  this.requested = { method, url: new URL(url, location.href) };
  return open.call(this, method, url, ...rest);
};

XMLHttpRequest.prototype.send = function (body) {
  const on = Object.keys(PATHS).find((name) => this.requested?.url.pathname.startsWith(PATHS[name]));
  if (on) watch(this, this.requested, on);
  return send.call(this, body);
};

function watch(xhr, { method, url }, on) {
  const sid = url.searchParams.get("sid");
  const kind = !sid ? "handshake" : method === "POST" ? "post" : "poll";
  const owner = sid ? sessions.findLast((s) => s.sid === sid) || session : begin();
  const started = performance.now();
  const request = { kind, node: null };
  owner.requests.push(request);
  if (owner === session) addRequest(request);
  xhr.addEventListener("loadend", () => {
    request.node = xhr.status ? xhr.getResponseHeader("x-node") : null;
    request.took = Math.round(performance.now() - started);
    if (xhr.status) count(on, "requests");
    if (xhr.status !== 200) request.fault = xhr.status ? `status ${xhr.status}` : "no reply";
    if (xhr.status === 400 && /"code":"?1\b/.test(xhr.responseText)) {
      request.fault = "400, code 1";
      count(on, "failed");
      if (on === "plain") failure = { opened: owner.node, got: request.node };
    }
    if (kind === "handshake" && !request.fault) {
      owner.node = request.node;
      count(on, "opened");
    }
    if (request.item) labelRequest(request);
    show();
  });
}

// ---------------------------------------------------------------- the client

const TRANSPORTS = { upgrade: ["polling", "websocket"], polling: ["polling"], websocket: ["websocket"] };
let choice = "upgrade";
let lost = false;

const socket = io({ transports: TRANSPORTS[choice], reconnectionDelay: 500, reconnectionDelayMax: 2000 });

socket.io.on("open", () => {
  const { engine } = socket.io;
  if (session.sid && session.sid !== engine.id) begin();
  session.sid = engine.id;
  engine.on("upgrade", (upgraded) => {
    if (upgraded.name === "websocket") socket.emit("whoami", ({ node }) => addWebSocket(node));
  });
});

socket.on("welcome", ({ node, crowds, recent }) => {
  session.node ??= node;
  // A session without an earlier request began as a WebSocket.
  if (!session.requests.length) addWebSocket(node);
  showCrowds(crowds);
  recent.forEach(showMessage);
  show();
});
socket.on("connect", () => {
  if (session.requests.some(({ kind }) => kind === "handshake")) count(route, "connected");
  setLost(false);
});
socket.on("connect_error", () => setLost(true));
socket.on("disconnect", () => setLost(true));
socket.on("crowds", showCrowds);
socket.on("message", showMessage);

function setLost(value) {
  lost = value;
  show();
}

// Opens a new session with the chosen transports.
function reconnect() {
  socket.io.opts.transports = TRANSPORTS[choice];
  socket.io.opts.path = PATHS[route];
  failure = null;
  socket.disconnect().connect();
  setLost(false);
}

// Records the WebSocket of the session.
function addWebSocket(node) {
  session.websocket = node;
  const request = { kind: "websocket", node };
  session.requests.push(request);
  addRequest(request);
  show();
}

// ---------------------------------------------------------------- the state of the session

function show() {
  const state = socket.connected && session.node ? "connected" : lost ? "lost" : "connecting";
  const wrong = misrouted(session);
  byId("state").dataset.state = state;
  const transport = session.websocket ? "WebSocket" : "polling";
  const text = { connected: `Connected to ${session.node} by ${transport}`, connecting: "Connecting", lost: "Connection lost, trying again" }[state];
  if (byId("state").textContent !== text) byId("state").textContent = text;
  setFlag(byId("session-flag"), state === "connected" ? session.node : null);
  byId("headline").textContent = headline(state, wrong);
  byId("story").textContent = story(state, wrong);
  showFacts(wrong);
  showSessions();
  if (lastCrowds) showCrowds(lastCrowds);
}

function headline(state, wrong) {
  if (failure || wrong.length) return "No affinity";
  if (state === "connected") return `Session on ${session.node}`;
  return state === "lost" ? "Connection lost" : "Connecting";
}

function story(state, wrong) {
  if (failure) {
    const { opened, got } = failure;
    return `${capital(opened ?? "a node")} opened a session, and ${got} replied to its next request with 400, code 1: ${got} does not know the session. The client starts again. ${capital(plural(counts.plain.failed, "request"))} failed so far.`;
  }
  if (wrong.length) {
    return `${capital(session.node)} opened this session, but ${wrong[0].node} got a later request: the session does not stay on its node.`;
  }
  if (state === "lost") return "The connection is lost. The client requests a new session.";
  if (state === "connecting") return "The client requests a session.";
  const before = sessions[session.number - 2]?.node;
  const move = !before ? "" : before === session.node
    ? ` The session before was also on ${before}.`
    : ` The session before was on ${before}.`;
  const replies = answered(session, "handshake", "poll", "post").length;
  if (!replies) return `${capital(session.node)} has the WebSocket of this session. There are no other requests.${move}`;
  const websocket = session.websocket ? `, and ${session.websocket} has its WebSocket` : "";
  const all = replies === 1 ? "The request" : `All ${plural(replies, "request")}`;
  return `${all} of this session went to ${session.node}${websocket}.${move}`;
}

function showFacts(wrong) {
  const opened = answered(session, "handshake").at(-1);
  const later = answered(session, "poll", "post");
  const same = later.filter((r) => r.node === session.node).length;
  const direct = session.websocket && !opened;
  fact("handshake", opened?.node, opened ? `${opened.took} ms` : direct ? "over the WebSocket" : "");
  fact("polls", later.length && session.node, later.length ? `${same} of ${later.length}` : direct ? "none" : "");
  fact("upgrade", session.websocket, session.websocket ? "open" : choice === "polling" ? "not requested" : "");
  byId("polls").classList.toggle("wrong", wrong.length > 0);
}

function fact(id, node, more) {
  const small = element("small", {}, more || "…");
  byId(id).replaceChildren(...(node ? flagAndName(node) : []), small);
  byId(id).dataset.node = node || "";
}

function showSessions() {
  const lines = sessions.slice(-MAX_SESSIONS).map((s) => {
    const before = sessions[s.number - 2];
    const what = !s.node ? "opening" : !before?.node ? "opened on" : before.node === s.node ? "stayed on" : "moved to";
    const parts = [element("span", { class: "count" }, `Session ${s.number}`), what];
    if (s.node) parts.push(flag(s.node), element("b", {}, s.node));
    parts.push(`${plural(answered(s, "handshake", "poll", "post").length, "request")}${s.websocket ? " and a WebSocket" : ""}`);
    return element("li", { "data-node": s.node || "" }, ...parts);
  });
  byId("sessions").replaceChildren(...lines);
}

// ---------------------------------------------------------------- the chat

function showCrowds(crowds) {
  lastCrowds = crowds;
  byId("crowds").replaceChildren(...crowds.map(({ node, people }) => {
    const you = socket.connected && node === session.node ? " (you)" : "";
    const count = element("span", {}, `${people}`, element("span", { class: "unseen" }, people === 1 ? " user" : " users"), you);
    return element("li", { "data-node": node }, flag(node), element("b", {}, node), count);
  }));
}

function showMessage({ id, from, text, node, at }) {
  if (id <= newest) return;
  newest = id;
  byId("quiet").hidden = true;
  const when = new Date(at);
  const time = element("time", { datetime: when.toISOString() }, when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  const sender = element("p", { class: "sender" }, flag(node), element("b", {}, from), `through ${node}`, time);
  const log = byId("log");
  log.append(element("li", { "data-node": node }, sender, element("p", {}, text)));
  while (log.children.length > MAX_MESSAGES) log.firstElementChild.remove();
  byId("log-frame").scrollTop = byId("log-frame").scrollHeight;
}

byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  const from = byId("name").value.trim();
  if (!text || !from) return;
  socket.emit("say", { from, text });
  byId("text").value = "";
});

// ---------------------------------------------------------------- name, controls

const NAMES = ["Ada", "Bela", "Cleo", "Dag", "Edda", "Finn", "Gus", "Hana", "Ivo", "Juno", "Kaia", "Leif"];
const name = byId("name");
name.value = sessionStorage.getItem("name") || NAMES[Math.floor(Math.random() * NAMES.length)];
sessionStorage.setItem("name", name.value);
name.addEventListener("change", () => sessionStorage.setItem("name", name.value));

byId("reconnect").addEventListener("click", reconnect);
byId("plain").checked = false;
byId("plain").addEventListener("change", ({ target }) => {
  route = target.checked ? "plain" : "moorline";
  reconnect();
});
for (const radio of document.querySelectorAll('input[name="transport"]')) {
  // Browsers restore the choice when the page is reloaded.
  radio.checked = radio.value === choice;
  radio.addEventListener("change", () => {
    choice = radio.value;
    reconnect();
  });
}

show();
