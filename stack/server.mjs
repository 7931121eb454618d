// The data API, Auth and Storage of the stand-in: @supabase/lite inside a server that corrects where lite deviates
// from a hosted project. Each correction has a letter, and tests/stack/test_corrections.py has a test per letter.
//
//   A  no GRANT ALL on tables with RLS         E  NOTIFY pgrst reloads the schema cache
//   B  json, jsonb and bytea parameters        F  tokens are verified as PostgREST does
//   C  ISO 8601 times, numeric as a number     G  signed Storage URLs as storage-api answers them
//   D  SQLSTATE decides the HTTP status        H  the claims of hosted Auth, ES256 on request
//   I  size limit and stored type of objects   J  a queue as long as people wait
//   K  503 while the database is away
//
// It touches internals of lite, so package.json pins every version exactly.
//
// It is also the one origin: /realtime/* and its WebSockets go on to stack/realtime.py.
//
// Environment: LITE_DB_URL (role lite_api; the superuser with --init-system), LITE_PORT, LITE_POOL (connections),
// STACK_REALTIME_PORT (where stack/realtime.py listens),
// LITE_SIGNING_JWK (a private JWK: sign with it instead of the shared secret), EXPERIMENTAL_STORAGE=1, and what
// supabase/config.toml takes from env(...). The working directory holds supabase/config.toml; Storage keeps its
// bytes under supabase/.temp/storage there.
import http from "node:http";
import net from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { createApi } from "@supabase/lite/cli";
import { createPostgresConnection } from "@supabase/lite/postgres";
import { SignJWT, decodeJwt, decodeProtectedHeader, importJWK, jwtVerify } from "jose";

const env = process.env;
const port = Number(env.LITE_PORT ?? 54321);
const issuer = `http://127.0.0.1:${port}/auth/v1`;
const apiRoles = ["anon", "authenticated", "service_role"];

const pool = Number(env.LITE_POOL ?? 20);

// The connection is ours: hosted limits (8 s) and search path, and nobody prints notices.
const local = (await createApi()).project.local;
const readConfig = local.readConfig.bind(local);
local.readConfig = async (file) => ({
  ...(await readConfig(file)),
  connection: createPostgresConnection({
    url: env.LITE_DB_URL,
    postgresOptions: {
      max: pool,
      backoff: () => 0.3, // seconds; its own grow to 20, long after the database is back (K)
      onnotice() {},
      connection: {
        application_name: "data-api",
        search_path: "public,extensions",
        statement_timeout: 8000,
        lock_timeout: 8000,
        idle_in_transaction_session_timeout: 15000,
      },
    },
  }),
});
const app = await local.createApp(undefined, { admin: false });
const db = app.connection;
const sql = db.driver;

if (process.argv.includes("--init-system")) {
  await app.ensureSystemSchema();
  await db.close();
  process.exit(0);
}

// A: lite would grant ALL on every table with RLS to the API roles at its first request. Tell it that this is done.
db.rlsState = "active";

// B: a json argument is JSON, not a string that holds JSON; bytea travels as \x hex.
const { serializers, parsers } = sql.options;
const asJson = (value) => {
  if (typeof value === "string") {
    try {
      JSON.parse(value);
      return value;
    } catch {
      /* an ordinary string: quoted below */
    }
  }
  return JSON.stringify(value);
};
serializers[114] = serializers[3802] = asJson;
serializers[17] = (value) => (typeof value === "string" ? value : "\\x" + Buffer.from(value).toString("hex"));
parsers[17] = (value) => value;

// C: 2026-01-02T03:04:05+00:00 instead of Postgres' own text; numeric as a number while a double holds it exactly.
parsers[1184] = parsers[1114] = (value) => value.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00");
parsers[1700] = (value) => (value.replace(/^-|\./g, "").length <= 15 ? Number(value) : value);

// D: lite answers 500 "SUP" for most SQLSTATEs. Its own way for `raise sqlstate 'PGRST'` carries code and status.
const normalize = db.normalizeDbError.bind(db);
const statusOf = (code) => {
  if (code === "P0001") return 400;
  if (/^2350[35]$/.test(code)) return 409; // lite knows that, but loses the hint
  if (/^(08|57P01|53(?!400))/.test(code)) return 503;
  if (/^(0L|0P|28)/.test(code)) return 403;
  if (/^(09|25|2D|38|39|3B|40|53|54|55|57|58|F0|HV|P0|XX)/.test(code)) return 500;
  return 400;
};
db.normalizeDbError = (error) => {
  const known = normalize(error);
  const code = known?.code;
  const message = known?.message ?? "";
  const unknownRole = code === "22023" && /^role .* does not exist$/.test(message);
  const liteIsRight = /^(PT|PGRST|23502|25006|42|21|22)/.test(code) && !unknownRole;
  if (typeof code !== "string" || code.length !== 5 || liteIsRight) return known;
  const body = { code, message, details: known.detail ?? null, hint: known.hint ?? null };
  const status = unknownRole ? 401 : statusOf(code);
  return Object.assign(new Error(JSON.stringify(body)), { code: "PGRST", detail: JSON.stringify({ status, headers: {} }) });
};

// E: event triggers (stack/sql/10_database.sql) notify after DDL; hosted PostgREST listens to the same channel.
await sql.listen("pgrst", () => db.introspect({ useCache: false }));

// F: tokens.
const secret = new TextEncoder().encode(app.config.auth.jwt_secret);
const jwk = env.LITE_SIGNING_JWK ? JSON.parse(env.LITE_SIGNING_JWK) : null;
const { d, p, q, dp, dq, qi, ...publicJwk } = jwk ?? {};
const privateKey = jwk && (await importJWK({ ...jwk, key_ops: ["sign"] }, jwk.alg));
const publicKey = jwk && (await importJWK({ ...publicJwk, key_ops: ["verify"] }, jwk.alg));
const signHs256 = (claims) => new SignJWT(claims).setProtectedHeader({ alg: "HS256", typ: "JWT" }).sign(secret);
const signHosted = (claims) =>
  jwk ? new SignJWT(claims).setProtectedHeader({ alg: jwk.alg, typ: "JWT", kid: jwk.kid }).sign(privateKey) : signHs256(claims);

const refusal = (status, code, message, details = null) =>
  Response.json({ code, message, details, hint: null }, { status });

/** The claims of a token, or the refusal PostgREST would answer. */
async function verify(token, toleranceS) {
  let alg;
  try {
    alg = decodeProtectedHeader(token).alg;
  } catch {
    return { refused: refusal(401, "PGRST301", `Expected 3 parts in JWT; got ${token.split(".").length}`) };
  }
  const key = alg === "HS256" ? secret : jwk && alg === jwk.alg ? publicKey : new Uint8Array(32);
  try {
    return { alg, claims: (await jwtVerify(token, key, { clockTolerance: toleranceS, algorithms: [alg] })).payload };
  } catch (error) {
    if (error.code === "ERR_JWT_EXPIRED") return { refused: refusal(401, "PGRST303", "JWT expired") };
    if (error.claim === "nbf") return { refused: refusal(401, "PGRST303", "JWT not yet valid") };
    const details = "None of the keys was able to decode the JWT";
    return { refused: refusal(401, "PGRST301", "No suitable key or wrong key type", details) };
  }
}

/**
 * Check the bearer token before lite does, and hand lite one it understands: lite knows HS256 only and allows no
 * clock skew, PostgREST allows 30 s. Returns a refusal or null.
 */
async function checkToken(headers, forRest) {
  const token = /^bearer (?!sb_)(.+)$/i.exec(headers.get("authorization") ?? "")?.[1]?.trim();
  if (!token || !(forRest || jwk)) return null;
  const { alg, claims, refused } = await verify(token, forRest ? 30 : 0);
  if (refused) return forRest ? refused : null; // Auth and Storage have their own words for a bad token
  if (forRest && claims.role && !apiRoles.includes(claims.role)) {
    return refusal(403, "42501", `permission denied to set role "${claims.role}"`);
  }
  const now = Date.now() / 1000;
  if (alg !== "HS256" || claims.exp < now || claims.nbf > now) {
    const { nbf, ...rest } = claims;
    const soon = Math.ceil(now) + (forRest ? 5 : 0);
    const replacement = await signHs256({ ...rest, exp: rest.exp && Math.max(rest.exp, soon) });
    headers.set("authorization", `Bearer ${replacement}`);
  }
  return null;
}

// G: signed URLs. storage-js wants `signedURL` and `url` without the /storage/v1 prefix, many paths at once, multipart
// bodies and the bucket's size limit on a signed upload, and 400 InvalidJWT for an expired link.
const signPath = /^\/storage\/v1\/object\/(upload\/)?sign\/([^/]+)(?:\/(.+))?$/;

async function sign(request, headers, body, peer, { upload, path }) {
  const one = async (url, content) => {
    const answer = await app.fetch(new Request(url, { method: "POST", headers, body: content }), peer);
    const url_ = answer.ok ? (await answer.clone().json()).signedUrl.replace(/^\/storage\/v1/, "") : null;
    return [answer, url_];
  };
  if (!upload && !path) {
    const { paths = [], ...rest } = JSON.parse(new TextDecoder().decode(body));
    const signed = [];
    for (const each of paths) {
      const address = `${request.url}/${each.split("/").map(encodeURIComponent).join("/")}`;
      const [, url] = await one(address, JSON.stringify(rest));
      const error = url ? null : "Either the object does not exist or you do not have access to it";
      signed.push({ path: each, signedURL: url, error });
    }
    return Response.json(signed);
  }
  const [answer, url] = await one(request.url, body);
  if (!url) return answer;
  return Response.json(upload ? { url, token: new URL(url, "http://x").searchParams.get("token") } : { signedURL: url });
}

async function checkSignedDownload(token) {
  try {
    await jwtVerify(token ?? "", secret);
    return null;
  } catch (error) {
    const message = error.code === "ERR_JWT_EXPIRED" ? '"exp" claim timestamp check failed' : error.message;
    return Response.json({ statusCode: "400", error: "InvalidJWT", message }, { status: 400 });
  }
}

/** Unwrap a multipart signed upload in place and check the bucket's limit. Returns [refusal or null, body]. */
async function signedUpload(headers, body, bucketId) {
  if ((headers.get("content-type") ?? "").startsWith("multipart/")) {
    const form = await new Response(body, { headers: { "content-type": headers.get("content-type") } }).formData();
    const file = [...form.values()].find((value) => typeof value !== "string");
    headers.set("content-type", file.type || "application/octet-stream");
    body = await file.arrayBuffer();
  }
  const [bucket] = await sql`select file_size_limit from storage.buckets where id = ${bucketId}`;
  if (bucket?.file_size_limit && body.byteLength > Number(bucket.file_size_limit)) {
    const tooLarge = { statusCode: "413", error: "Payload too large", message: "The object exceeded the maximum allowed size" };
    return [Response.json(tooLarge, { status: 400 }), body];
  }
  return [null, body];
}

// I: lite knows the size of an upload from Content-Length alone, and guesses the type of what it serves from the name:
// a page uploaded as image/png must not be served as a page.
const readPath = /^\/storage\/v1\/object\/(?:(?:public|sign|authenticated)\/)?([^/]+)\/(.+)$/;

async function asStored(path, answer) {
  const [, bucketId, name] = readPath.exec(path) ?? [];
  if (!name || answer.status !== 200) return answer;
  const [object] = await sql`
    select metadata ->> 'mimetype' as type from storage.objects where bucket_id = ${bucketId} and name = ${decodeURIComponent(name)}
  `;
  const headers = new Headers(answer.headers);
  if (object?.type) headers.set("content-type", object.type);
  return new Response(answer.body, { status: answer.status, headers });
}

// H: the session's access token with the claims hosted Auth writes.
async function hostedSession(answer) {
  const session = await answer.json();
  if (!session.access_token) return Response.json(session);
  const claims = decodeJwt(session.access_token);
  const user = session.user ?? {};
  const hosted = {
    ...claims,
    iss: issuer,
    phone: user.phone ?? "",
    app_metadata: user.app_metadata ?? {},
    user_metadata: user.user_metadata ?? {},
    aal: "aal1",
    amr: [{ method: "password", timestamp: claims.iat }],
    is_anonymous: false,
  };
  return Response.json({ ...session, access_token: await signHosted(hosted) });
}

// J: the queue for a connection is ours, so that nothing is done for whoever has gone, and nobody waits for more than
// the 10 s of PostgREST.
let underWay = 0;
const waiting = [];

async function inTurn(context, serve) {
  if (underWay < pool) underWay++;
  else {
    const since = Date.now();
    await new Promise((go) => waiting.push(go)); // whoever ends hands on the place
    if (context.incoming.socket.destroyed || Date.now() - since > 10_000) {
      leave();
      return refusal(504, "PGRST003", "Timed out acquiring connection from connection pool.");
    }
  }
  // A connection that breaks inside a transaction leaves the driver waiting for the answer to its rollback, for ever.
  let bound;
  const lost = new Promise((say) => {
    bound = setTimeout(() => say(refusal(504, "57014", "canceling statement due to a lost connection")), 10_000);
  });
  try {
    return await Promise.race([serve(), lost]);
  } finally {
    clearTimeout(bound);
    leave();
  }
}

function leave() {
  const next = waiting.shift();
  if (next) next();
  else underWay--;
}

async function handle(request, context) {
  const url = new URL(request.url);
  const path = url.pathname;
  if (path === "/health") {
    await sql`select 1`;
    return Response.json({ ok: true });
  }
  if (path.startsWith("/_system")) return new Response(null, { status: 404 }); // lite prints the database URL there
  if (path === "/auth/v1/.well-known/jwks.json") {
    return Response.json({ keys: jwk ? [{ ...publicJwk, key_ops: ["verify"] }] : [] });
  }

  const peer = { peerAddress: context?.incoming?.socket?.remoteAddress ?? null };
  const headers = new Headers(request.headers);
  headers.delete("content-length");
  let body = ["GET", "HEAD"].includes(request.method) ? undefined : await request.arrayBuffer();
  if (body?.byteLength && path.startsWith("/storage/")) headers.set("content-length", String(body.byteLength));
  const refused = await checkToken(headers, path.startsWith("/rest/"));
  if (refused) return refused;

  const signed = signPath.exec(path);
  if (signed) {
    const [, upload, bucketId, objectPath] = signed;
    if (request.method === "POST") return sign(request, headers, body, peer, { upload, path: objectPath });
    if (request.method === "GET" && !upload) {
      const invalid = await checkSignedDownload(url.searchParams.get("token"));
      if (invalid) return invalid;
    }
    if (request.method === "PUT" && upload) {
      const [tooLarge, unwrapped] = await signedUpload(headers, body, bucketId);
      if (tooLarge) return tooLarge;
      body = unwrapped;
    }
  }

  const serve = () => app.fetch(new Request(request.url, { method: request.method, headers, body }), peer);
  const answer = await (path.startsWith("/rest/") ? inTurn(context, serve) : serve());
  if (request.method === "GET" && path.startsWith("/storage/")) return asStored(path, answer);
  const isSession = request.method === "POST" && answer.status === 200 && /^\/auth\/v1\/(token|signup|verify)$/.test(path);
  return isSession ? hostedSession(answer) : answer;
}

// K: without its database PostgREST answers 503; lite 500 in plain text, or that there is no such function.
async function handleOrSayAway(request, context) {
  const answer = await handle(request, context);
  if (![404, 500].includes(answer.status) || !new URL(request.url).pathname.startsWith("/rest/")) return answer;
  const away = () => refusal(503, "PGRST001", "Database connection error. Retrying the connection.");
  return sql`select 1`.then(() => answer, away);
}

// /realtime/*: passed on as it came. While Realtime starts again after a crash, clients are told to come back.
const realtime = { host: "127.0.0.1", port: Number(env.STACK_REALTIME_PORT) };
const isRealtime = (request) => request.url.startsWith("/realtime/");
const noRealtime = JSON.stringify({ error: "Realtime is not running" });

function passRequest(request, response) {
  const { method, url: path, headers } = request;
  const onward = http.request({ ...realtime, method, path, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  onward.on("error", () => {
    if (response.headersSent) return response.destroy();
    response.writeHead(503, { "content-type": "application/json", "access-control-allow-origin": "*" }).end(noRealtime);
  });
  response.on("close", () => onward.destroy());
  request.pipe(onward);
}

function passUpgrade(request, socket, head) {
  const onward = net.connect(realtime);
  const lines = [`${request.method} ${request.url} HTTP/1.1`];
  for (let i = 0; i < request.rawHeaders.length; i += 2) lines.push(`${request.rawHeaders[i]}: ${request.rawHeaders[i + 1]}`);
  onward.on("connect", () => {
    onward.write(lines.join("\r\n") + "\r\n\r\n", "latin1");
    onward.write(head);
    onward.setNoDelay(true);
    socket.setNoDelay(true);
    socket.pipe(onward).pipe(socket);
  });
  onward.on("error", () => {
    if (onward.bytesRead) return socket.destroy();
    socket.end(`HTTP/1.1 503 Service Unavailable\r\nContent-Length: ${noRealtime.length}\r\nConnection: close\r\n\r\n${noRealtime}`);
  });
  onward.on("close", () => socket.destroySoon());
  socket.on("error", () => onward.destroy());
  socket.on("close", () => onward.destroy());
}

const server = createAdaptorServer({ fetch: handleOrSayAway });
const [answer] = server.listeners("request");
server.removeAllListeners("request");
server.on("request", (request, response) => (isRealtime(request) ? passRequest : answer)(request, response));
server.on("upgrade", (request, socket, head) => (isRealtime(request) ? passUpgrade(request, socket, head) : socket.destroy()));
server.listen({ port, host: "127.0.0.1" }, () => console.log(`ready on port ${port}`));
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    server.close();
    server.closeAllConnections();
    sql.end({ timeout: 2 }).finally(() => process.exit(0));
  });
}
