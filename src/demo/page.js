// The chat page: watches the requests of its own Socket.IO client, and chats.
//
// A reply's node is read from its `x-node` header; over a WebSocket, which shows no headers, the
// node is asked by the event `whoami`. Text from others only ever becomes text nodes.
"use strict";

const byId = (id) => document.getElementById(id);
const KINDS = { handshake: "Handshake", poll: "Poll", post: "Post", websocket: "WebSocket" };
const MOST_FLAGS = 60;
const MOST_SESSIONS = 6;
const MOST_MESSAGES = 200;

// ---------------------------------------------------------------- small builders

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
  hoistOn(svg, node);
  return svg;
}

function hoistOn(svg, node) {
  // A second node of a name has that one's flag.
  const name = node && node.replace(/-\d+$/, "");
  const known = name && byId(`flag-${name}`);
  svg.firstElementChild.setAttribute("href", known ? `#flag-${name}` : "#flag-none");
}

const named = (node) => [flag(node), element("span", {}, node)];
const plural = (n, one) => `${n} ${n === 1 ? one : `${one}s`}`;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// ---------------------------------------------------------------- sessions and their requests

const sessions = [];
let session = null;
begin();
let lastCrowds = null;
let newest = 0;

// A session starts with its handshake; one that never got an id is used again.
function begin() {
  const last = sessions.at(-1);
  if (last && !last.sid) return (session = last);
  session = { number: sessions.length + 1, sid: null, node: null, requests: [], websocket: null };
  sessions.push(session);
  byId("hoist").replaceChildren();
  return session;
}

// Who answered otherwise than the session's own node: [] where everything is in order.
const strangers = (s) => s.requests.filter((r) => r.node && s.node && r.node !== s.node);
const answered = (s, ...kinds) => s.requests.filter((r) => r.node && kinds.includes(r.kind));

function hang(request) {
  request.item = element("li", { "data-kind": request.kind });
  byId("hoist").append(request.item);
  while (byId("hoist").children.length > MOST_FLAGS) byId("hoist").firstElementChild.remove();
  label(request);
  byId("line").scrollLeft = byId("line").scrollWidth;
}

function label(request) {
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
/** What happened last to a session without affinity. */
let mishap = null;

function count(on, what) {
  counts[on][what]++;
  const cell = byId(`${on}-${what}`);
  cell.textContent = counts[on][what];
  cell.classList.toggle("wrong", what === "failed");
}

// ---------------------------------------------------------------- watching XMLHttpRequest

const { open, send } = XMLHttpRequest.prototype;

XMLHttpRequest.prototype.open = function (method, url, ...rest) {
  this.asked = { method, url: new URL(url, location.href) };
  return open.call(this, method, url, ...rest);
};

XMLHttpRequest.prototype.send = function (body) {
  const on = Object.keys(PATHS).find((name) => this.asked?.url.pathname.startsWith(PATHS[name]));
  if (on) watch(this, this.asked, on);
  return send.call(this, body);
};

function watch(xhr, { method, url }, on) {
  const sid = url.searchParams.get("sid");
  const kind = !sid ? "handshake" : method === "POST" ? "post" : "poll";
  const owner = sid ? sessions.findLast((s) => s.sid === sid) || session : begin();
  const started = performance.now();
  const request = { kind, node: null };
  owner.requests.push(request);
  if (owner === session) hang(request);
  xhr.addEventListener("loadend", () => {
    request.node = xhr.status ? xhr.getResponseHeader("x-node") : null;
    request.took = Math.round(performance.now() - started);
    if (xhr.status) count(on, "requests");
    if (xhr.status !== 200) request.fault = xhr.status ? `status ${xhr.status}` : "no reply";
    if (xhr.status === 400 && /"code":"?1\b/.test(xhr.responseText)) {
      request.fault = "400, code 1";
      count(on, "failed");
      if (on === "plain") mishap = { opened: owner.node, asked: request.node };
    }
    if (kind === "handshake" && !request.fault) {
      owner.node = request.node;
      count(on, "opened");
    }
    if (request.item) label(request);
    show();
  });
}

// ---------------------------------------------------------------- the client

const TRANSPORTS = { upgrade: ["polling", "websocket"], polling: ["polling"], websocket: ["websocket"] };
let choice = "upgrade";
let trouble = false;

const socket = io({ transports: TRANSPORTS[choice], reconnectionDelay: 500, reconnectionDelayMax: 2000 });

socket.io.on("open", () => {
  const { engine } = socket.io;
  if (session.sid && session.sid !== engine.id) begin();
  session.sid = engine.id;
  engine.on("upgrade", (upgraded) => {
    if (upgraded.name === "websocket") socket.emit("whoami", (here) => holds(here.node));
  });
});

socket.on("welcome", ({ node, crowds, recent }) => {
  session.node ??= node;
  // Without any request before it, the session began as a WebSocket.
  if (!session.requests.length) holds(node);
  showCrowds(crowds);
  recent.forEach(showMessage);
  show();
});
socket.on("connect", () => {
  if (session.requests.some(({ kind }) => kind === "handshake")) count(route, "connected");
  heard(false);
});
socket.on("connect_error", () => heard(true));
socket.on("disconnect", () => heard(true));
socket.on("crowds", showCrowds);
socket.on("message", showMessage);

function heard(bad) {
  trouble = bad;
  show();
}

// A new session, over the transports chosen.
function reconnect() {
  socket.io.opts.transports = TRANSPORTS[choice];
  socket.io.opts.path = PATHS[route];
  mishap = null;
  socket.disconnect().connect();
  heard(false);
}

// The session's WebSocket is held by this node.
function holds(node) {
  session.websocket = node;
  const request = { kind: "websocket", node };
  session.requests.push(request);
  hang(request);
  show();
}

// ---------------------------------------------------------------- the session, told

function show() {
  const state = socket.connected && session.node ? "connected" : trouble ? "lost" : "connecting";
  const strange = strangers(session);
  byId("state").dataset.state = state;
  const way = session.websocket ? "WebSocket" : "polling";
  const said = { connected: `Connected to ${session.node} by ${way}`, connecting: "Connecting", lost: "Connection lost, trying again" }[state];
  if (byId("state").textContent !== said) byId("state").textContent = said;
  hoistOn(byId("pennant"), state === "connected" ? session.node : null);
  byId("headline").textContent = headline(state, strange);
  byId("story").textContent = story(state, strange);
  showFacts(strange);
  showSessions();
  if (lastCrowds) showCrowds(lastCrowds);
}

function headline(state, strange) {
  if (mishap) return "Adrift";
  if (strange.length) return "Adrift";
  if (state === "connected") return `Moored at ${session.node}`;
  return state === "lost" ? "Cast off" : "Looking for a berth";
}

function story(state, strange) {
  if (mishap) {
    const { opened, asked } = mishap;
    return `${capital(opened ?? "a node")} opened a session, and ${asked} answered its next request with 400, code 1: it does not know that session. The client starts again. ${capital(plural(counts.plain.failed, "request"))} failed so far.`;
  }
  if (strange.length) {
    return `${capital(session.node)} opened this session, but ${strange[0].node} answered a later request: nothing keeps the session on its node.`;
  }
  if (state === "lost") return "The connection is gone. The client is asking for a new session.";
  if (state === "connecting") return "Asking the front door for a session.";
  const before = sessions[session.number - 2]?.node;
  const move = !before ? "" : before === session.node
    ? ` A new session, and it came to ${before} again.`
    : ` A new session: it moved here from ${before}.`;
  const replies = answered(session, "handshake", "poll", "post").length;
  if (!replies) return `${capital(session.node)} holds this session's WebSocket, which is all there is to it.${move}`;
  const hold = session.websocket ? `, and ${session.websocket} holds its WebSocket` : "";
  return `All ${plural(replies, "request")} of this session had their answer from ${session.node}${hold}.${move}`;
}

function showFacts(strange) {
  const opened = answered(session, "handshake").at(-1);
  const later = answered(session, "poll", "post");
  const same = later.filter((r) => r.node === session.node).length;
  const direct = session.websocket && !opened;
  fact("handshake", opened?.node, opened ? `${opened.took} ms` : direct ? "over the WebSocket" : "");
  fact("polls", later.length && session.node, later.length ? `${same} of ${later.length}` : direct ? "none" : "");
  fact("upgrade", session.websocket, session.websocket ? "open" : choice === "polling" ? "not asked for" : "");
  byId("polls").classList.toggle("wrong", strange.length > 0);
}

function fact(id, node, more) {
  const small = element("small", {}, more || "…");
  byId(id).replaceChildren(...(node ? named(node) : []), small);
  byId(id).dataset.node = node || "";
}

function showSessions() {
  const lines = sessions.slice(-MOST_SESSIONS).map((s) => {
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
    const count = element("span", {}, `${people}`, element("span", { class: "unseen" }, people === 1 ? " person" : " people"), you);
    return element("li", { "data-node": node }, flag(node), element("b", {}, node), count);
  }));
}

function showMessage({ id, from, text, node, at }) {
  if (id <= newest) return;
  newest = id;
  byId("quiet").hidden = true;
  const when = new Date(at);
  const time = element("time", { datetime: when.toISOString() }, when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  const who = element("p", { class: "who" }, flag(node), element("b", {}, from), `through ${node}`, time);
  const log = byId("log");
  log.append(element("li", { "data-node": node }, who, element("p", {}, text)));
  while (log.children.length > MOST_MESSAGES) log.firstElementChild.remove();
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

const CREW = ["Ada", "Bela", "Cleo", "Dag", "Edda", "Finn", "Gus", "Hana", "Ivo", "Juno", "Kaia", "Leif"];
const name = byId("name");
name.value = sessionStorage.getItem("name") || CREW[Math.floor(Math.random() * CREW.length)];
sessionStorage.setItem("name", name.value);
name.addEventListener("change", () => sessionStorage.setItem("name", name.value));

byId("reconnect").addEventListener("click", reconnect);
byId("plain").checked = false;
byId("plain").addEventListener("change", ({ target }) => {
  route = target.checked ? "plain" : "moorline";
  reconnect();
});
for (const radio of document.querySelectorAll('input[name="transport"]')) {
  // A reloaded page may come with the choice it was left with.
  radio.checked = radio.value === choice;
  radio.addEventListener("change", () => {
    choice = radio.value;
    reconnect();
  });
}

show();
