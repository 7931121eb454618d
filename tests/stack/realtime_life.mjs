// One unmodified supabase-js client that lives through whatever the test does to it.
// Usage: node realtime_life.mjs URL PUBLISHABLE_KEY. Standard input: lines of JSON; {token, topic, config} joins the
// private topic, {token} refreshes. Every state and broadcast is a line of JSON on standard output.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../stack/package.json", import.meta.url));
const { createClient } = require("@supabase/supabase-js");
const [url, key] = process.argv.slice(2);
const say = (told) => console.log(JSON.stringify(told));

let token;
const client = createClient(url, key, {
  accessToken: async () => token,
  realtime: { reconnectAfterMs: () => 100 },
});
for await (const line of createInterface({ input: process.stdin })) {
  const told = JSON.parse(line);
  token = told.token;
  await client.realtime.setAuth();
  if (!told.topic) continue;
  client
    .channel(told.topic, { config: { private: true, ...told.config } })
    .on("broadcast", { event: "*" }, ({ event, payload, meta }) => say({ event, n: payload.n, replayed: !!meta?.replayed }))
    .on("system", {}, ({ status, message }) => say({ system: message, status }))
    .subscribe((state, error) => say({ state, error: error?.message ?? "" }));
}
process.exit(0);
