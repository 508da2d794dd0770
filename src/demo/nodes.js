// The panel of nodes: their states once a second, and the orders that the page gives.
//
// Uses the helpers of page.js. A list item stays the same element for as long as its node is there, so that
// the keyboard's focus stays where it is.
"use strict";

const STATES = {
  up: "takes new sessions",
  "slow-start": "takes new sessions",
  draining: "is draining",
  drained: "is drained",
  leaving: "is leaving",
  down: "is down",
  ejected: "is ejected",
  killed: "was killed",
};
const LOOK_EVERY = 1000;
const demoToken = document.querySelector('meta[name="demo-token"]').content;

async function order(path, method = "POST") {
  const reply = await fetch(`/demo/${path}`, { method, headers: { "x-demo-token": demoToken } });
  const answer = await reply.json().catch(() => ({ error: `the demo answered with status ${reply.status}` }));
  return reply.ok ? answer : Promise.reject(new Error(answer.error));
}

/** Gives an order and says what it has done. */
async function give(path) {
  try {
    const answer = await order(path);
    tell(answer.done);
    showNodes(answer);
  } catch (error) {
    tell(capital(`${error.message}.`));
  }
}

function tell(text) {
  byId("done").textContent = text;
}

async function look() {
  try {
    if (!document.hidden) showNodes(await order("nodes", "GET"));
    byId("nodes-fault").textContent = "";
  } catch (error) {
    byId("nodes-fault").textContent = capital(`${error.message}.`);
  }
  setTimeout(look, LOOK_EVERY);
}

function showNodes({ nodes, drain_command: drain, proxy_command: proxy }) {
  const list = byId("nodes");
  const items = nodes.map((node) => showNode(byId(`node-${node.name}`) ?? newNode(node.name), node));
  for (const item of [...list.children]) if (!items.includes(item)) item.remove();
  items.forEach((item, at) => list.children[at] === item || list.insertBefore(item, list.children[at] ?? null));
  byId("drain-line").hidden = !drain;
  if (drain && byId("drain-command").textContent !== drain) byId("drain-command").textContent = drain;
  if (byId("own-command").textContent !== proxy) byId("own-command").textContent = proxy;
}

function newNode(name) {
  const button = (does) => {
    const made = element("button", { type: "button", id: `${does}-${name}` });
    made.addEventListener("click", () => {
      if (made.getAttribute("aria-disabled") !== "true") give(`${made.dataset.order}?node=${name}`);
    });
    return made;
  };
  const state = element("span", { class: "node-state" });
  const who = element("p", { class: "node-name" }, flag(name), element("b", {}, name), state);
  const buttons = element("div", { class: "node-orders" }, button("drain"), button("kill"), button("replace"));
  return element("li", { id: `node-${name}` }, who, buttons);
}

function showNode(item, { name, state, sessions, last }) {
  item.dataset.state = state;
  const text = `${STATES[state] ?? state}, ${plural(sessions, "session")}`;
  const shown = item.querySelector(".node-state");
  if (shown.textContent !== text) shown.textContent = text;
  const takes = ["up", "slow-start"].includes(state);
  const drains = ["draining", "drained"].includes(state);
  const button = (id) => item.querySelector(`#${CSS.escape(`${id}-${name}`)}`);
  showOrder(button("drain"), drains ? "undrain" : "drain", name, drains || (takes && !last));
  showOrder(button("kill"), "kill", name, drains || (takes && !last));
  showOrder(button("replace"), "replace", name, state !== "leaving");
  return item;
}

function showOrder(button, does, name, possible) {
  if (button.dataset.order !== does) {
    button.dataset.order = does;
    button.replaceChildren(capital(does), element("span", { class: "unseen" }, ` ${name}`));
  }
  button.setAttribute("aria-disabled", String(!possible));
}

byId("reload").addEventListener("click", () => give("reload"));
byId("copy").addEventListener("click", async () => {
  const command = byId("own-command");
  try {
    await navigator.clipboard.writeText(command.textContent);
    byId("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(command);
    byId("copied").textContent = "Selected; press Ctrl+C.";
  }
});

look();
