// Steady traffic: each client sends one message after the other and checks each answer.

import assert from 'node:assert/strict';

import { soon, until } from './wait.mjs';

/** Starts traffic on all `clients`; `stop()` waits for the last answers and fails if any answer was wrong. */
export function traffic(clients) {
  let going = true;
  const talking = new Set(clients);
  const talks = clients.map((client) => talk(client, () => going).finally(() => talking.delete(client)));
  for (const it of talks) it.catch(() => {}); // `stop` reports the error.
  return {
    /** Resolves when each open client has got `rounds` more answers. */
    async rounds(rounds = 2) {
      const goals = new Map([...talking].map((client) => [client, client.answered + rounds]));
      const done = () => [...goals].every(([client, goal]) => !talking.has(client) || client.answered >= goal);
      await until(`${rounds} more answers for each client`, done);
    },
    async stop() {
      going = false;
      await Promise.all(talks);
    },
  };
}

async function talk(client, going) {
  client.answered = 0;
  for (let count = 0; going() && !client.finished; count++) {
    if (!client.socket.connected) {
      await until('a client is connected again', () => client.socket.connected || !going() || client.finished);
      continue;
    }
    const answer = await ask(client, `question ${count}`);
    if (answer === undefined) continue;
    assert.equal(answer, `question ${count}`);
    client.answered++;
    client.ledger.messages++;
  }
}

/** Sends one message; resolves with the answer, or with `undefined` if the session ended before. */
function ask(client, question) {
  const { socket } = client;
  let lost;
  const answer = new Promise((resolve) => {
    lost = () => resolve(undefined);
    socket.once('disconnect', lost);
    socket.emit('echo', question, resolve);
  });
  return soon(`${question} is answered to a client on ${client.node}`, answer).finally(() => socket.off('disconnect', lost));
}
