// The panel of nodes: shows their states once a second, and requests actions.
//
// Uses the helpers of page.js. The list item of a node is never replaced, so that it keeps the keyboard focus.
"use strict";

const STATES = {
  up: "takes new sessions",
  "slow-start": "takes new sessions",
  draining: "is draining",
  drained: "is drained",
  leaving: "is being removed",
  down: "is down",
  ejected: "is ejected",
  killed: "was killed",
};
const POLL_INTERVAL = 1000;
const demoToken = document.querySelector('meta[name="demo-token"]').content;

async function request(path, method = "POST") {
  const reply = await fetch(`/demo/${path}`, { method, headers: { "x-demo-token": demoToken } });
  const result = await reply.json().catch(() => ({ error: `the demo replied with status ${reply.status}` }));
  return reply.ok ? result : Promise.reject(new Error(result.error));
}

/** Requests an action and shows its result. */
async function perform(path) {
  try {
    const result = await request(path);
    showResult(result.done);
    showNodes(result);
  } catch (error) {
    showResult(capital(`${error.message}.`));
  }
}

function showResult(text) {
  byId("done").textContent = text;
}

async function poll() {
  try {
    if (!document.hidden) showNodes(await request("nodes", "GET"));
    byId("nodes-fault").textContent = "";
  } catch (error) {
    byId("nodes-fault").textContent = capital(`${error.message}.`);
  }
  setTimeout(poll, POLL_INTERVAL);
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
  const button = (action) => {
    const button = element("button", { type: "button", id: `${action}-${name}` });
    button.addEventListener("click", () => {
      if (button.getAttribute("aria-disabled") !== "true") perform(`${button.dataset.action}?node=${name}`);
    });
    return button;
  };
  const state = element("span", { class: "node-state" });
  const title = element("p", { class: "node-name" }, flag(name), element("b", {}, name), state);
  const buttons = element("div", { class: "node-actions" }, button("drain"), button("kill"), button("replace"));
  return element("li", { id: `node-${name}` }, title, buttons);
}

function showNode(item, { name, state, sessions, last }) {
  item.dataset.state = state;
  const text = `${STATES[state] ?? state}, ${plural(sessions, "session")}`;
  const shown = item.querySelector(".node-state");
  if (shown.textContent !== text) shown.textContent = text;
  const takes = ["up", "slow-start"].includes(state);
  const drains = ["draining", "drained"].includes(state);
  const button = (id) => item.querySelector(`#${CSS.escape(`${id}-${name}`)}`);
  showAction(button("drain"), drains ? "undrain" : "drain", name, drains || (takes && !last));
  showAction(button("kill"), "kill", name, drains || (takes && !last));
  showAction(button("replace"), "replace", name, state !== "leaving");
  return item;
}

function showAction(button, action, name, possible) {
  if (button.dataset.action !== action) {
    button.dataset.action = action;
    button.replaceChildren(capital(action), element("span", { class: "unseen" }, ` ${name}`));
  }
  button.setAttribute("aria-disabled", String(!possible));
}

byId("reload").addEventListener("click", () => perform("reload"));
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


poll();
