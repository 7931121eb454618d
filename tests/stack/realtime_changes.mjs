// Postgres Changes through unmodified @supabase/supabase-js.
// Usage: node realtime_changes.mjs URL PUBLISHABLE_KEY. Standard input: JSON {tokens: {ann, eve}, owner}; the table
// public.probe_rows shows each row to its owner. Says "subscribed", writes nothing itself, and prints what it was told.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../stack/package.json", import.meta.url));
const { createClient } = require("@supabase/supabase-js");
const [url, key] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { tokens, owner } = JSON.parse((await lines.next()).value);

const told = { ann: [], eve: [] };
const clients = [];
for (const name of Object.keys(told)) {
  const client = createClient(url, key, { accessToken: async () => tokens[name] });
  clients.push(client);
  await client.realtime.setAuth();
  const hear = ({ eventType, schema, table, new: new_, old, errors, commit_timestamp }) => {
    assert.ok(Math.abs(Date.now() - Date.parse(commit_timestamp)) < 60_000);
    told[name].push({ eventType, where: `${schema}.${table}`, new: new_, old, errors });
  };
  const ready = new Promise((resolve) => {
    client
      .channel("rows")
      .on("postgres_changes", { event: "*", schema: "public", table: "probe_rows" }, hear)
      .on("postgres_changes", { event: "INSERT", schema: "public", table: "probe_rows", filter: `owner=eq.${owner}` }, () =>
        told[name].push("filtered"),
      )
      .on("system", {}, resolve)
      .subscribe();
  });
  assert.deepEqual([(await ready).status, (await ready).message], ["ok", "Subscribed to PostgreSQL"]);
}
console.log("subscribed");
await lines.next(); // until the rows were written
console.log(JSON.stringify(told));
process.exit(0);
