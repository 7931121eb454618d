import { sendMessage, type Message } from "../lib/api/messages.ts";

export interface Bubble {
  clientMessageId: string;
  body: string;
  /** `held`: a moderator looks at it first, and until then nobody else sees it. */
  state: "pending" | "sent" | "held" | "failed";
  message?: Message;
  error?: unknown;
}

/** Shows a bubble at once. "Try again" is the same call with the key of the failed bubble. */
export async function send(
  conversationId: string,
  body: string,
  show: (bubble: Bubble) => void,
  clientMessageId: string = crypto.randomUUID(),
): Promise<void> {
  const bubble = { clientMessageId, body };
  show({ ...bubble, state: "pending" });
  try {
    const { message } = await sendMessage({ conversationId, ...bubble });
    show({ ...bubble, state: message.state === "pending" ? "held" : "sent", message });
  } catch (error) {
    show({ ...bubble, state: "failed", error });
  }
}

/** One bubble per key: a later state replaces the earlier one where it stands. */
export function place(bubbles: readonly Bubble[], bubble: Bubble): Bubble[] {
  const known = bubbles.some((other) => other.clientMessageId === bubble.clientMessageId);
  if (!known) return [...bubbles, bubble];
  return bubbles.map((other) => (other.clientMessageId === bubble.clientMessageId ? bubble : other));
}

/** Bubbles still to be shown below `messages`: a message that has arrived by any way takes the place of its bubble,
 * also of a failed one (the send arrived, its answer did not). */
export function remaining(bubbles: readonly Bubble[], messages: readonly Message[], myId: string): Bubble[] {
  const mine = messages.filter((message) => message.fromUserId === myId);
  const arrived = new Set(mine.map((message) => message.clientMessageId));
  return bubbles.filter((bubble) => !arrived.has(bubble.clientMessageId));
}
