// What a call can reject with: the service's refusals, no answer, no answer in time. All are MessagingError, so one
// `instanceof` and one `switch (error.code)` cover everything but the caller's own abort and errors of getToken.
import { RETRY, type ProblemCode, type Retry } from "./catalogue.ts";
import type { Fault, ProblemDocument } from "./schema.ts";

/** A code of the catalogue (docs/errors.md), one of ours, or one of a service newer than this client. */
export type Code = ProblemCode | "network_error" | "timeout" | "unknown" | (string & {});

/** What every error here tells; `message` is one sentence for people. */
export interface Details {
  /** The stable word to decide by. */
  code: Code;
  /** The HTTP status; 0 when there was no answer. */
  status: number;
  /** What a repetition needs: `never` helps, `sameKey` and `after` (a wait) may, `refreshToken` a new token. */
  retry: Retry;
  /** Seconds to wait before a retry can succeed, when the service said so. */
  retryAfterS: number | undefined;
  /** What is wrong with the request, each with a JSON pointer to it. */
  errors: readonly Fault[];
  /** What finds this request in the service's log. */
  requestId: string | undefined;
}

/** The service refused, or could not. */
export class MessagingError extends Error implements Details {
  override readonly name: string = "MessagingError";
  readonly code: Code;
  readonly status: number;
  readonly retry: Retry;
  readonly retryAfterS: number | undefined;
  readonly errors: readonly Fault[];
  readonly requestId: string | undefined;

  constructor(message: string, details: Partial<Details> & Pick<Details, "code" | "status" | "retry">, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = details.code;
    this.status = details.status;
    this.retry = details.retry;
    this.retryAfterS = details.retryAfterS;
    this.errors = details.errors ?? [];
    this.requestId = details.requestId;
  }
}

/** There was no usable answer: no connection, a connection that broke, or an answer that was cut off. The request may
 * have been carried out. */
export class NetworkError extends MessagingError {
  override readonly name = "NetworkError";

  constructor(message: string, cause: unknown) {
    super(message, { code: "network_error", status: 0, retry: "sameKey" }, cause);
  }
}

/** There was no answer within `timeoutMs`. The request may have been carried out. */
export class TimeoutError extends MessagingError {
  override readonly name = "TimeoutError";

  constructor(timeoutMs: number) {
    super(`There was no answer within ${timeoutMs} ms.`, { code: "timeout", status: 0, retry: "sameKey" });
  }
}

/** The error for an answer with a status of 400 or more. */
export function refusal(status: number, headers: Headers, body: string): MessagingError {
  const problem = problemIn(body);
  const code = problem?.code ?? "unknown";
  return new MessagingError(problem?.detail ?? `The answer was ${status} and not from the service.`, {
    code,
    status,
    retry: retryOf(code) ?? retryOfStatus(status),
    retryAfterS: problem?.retryAfterS ?? secondsIn(headers.get("Retry-After")),
    errors: problem?.errors ?? [],
    requestId: problem?.requestId ?? headers.get("X-Request-Id") ?? undefined,
  });
}

function problemIn(body: string): ProblemDocument | undefined {
  try {
    const found: unknown = JSON.parse(body);
    const isProblem = typeof found === "object" && found !== null && "code" in found && typeof found.code === "string";
    return isProblem ? (found as ProblemDocument) : undefined;
  } catch {
    return undefined;
  }
}

function retryOf(code: string): Retry | undefined {
  return Object.hasOwn(RETRY, code) ? RETRY[code as ProblemCode] : undefined;
}

/** For answers of somebody in between (a proxy, a gateway) and for codes this client does not know. */
function retryOfStatus(status: number): Retry {
  if (status === 429 || status === 503) return "after";
  return status === 408 || status >= 500 ? "sameKey" : "never";
}

/** Retry-After is a number of seconds or a date. */
function secondsIn(header: string | null): number | undefined {
  if (header === null) return undefined;
  const seconds = /^\d+$/.test(header) ? Number(header) : Math.ceil((Date.parse(header) - Date.now()) / 1000);
  return Number.isNaN(seconds) ? undefined : Math.max(0, seconds);
}
