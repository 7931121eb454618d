// What comes on the topic `user:<uuid>`; docs/realtime.md shows one of each.
import type { Conversation, Message, Profile, Receipt } from "./schema.ts";

/** A conversation without its people and its newest message: what an event carries. */
export type ConversationFacts = Omit<Conversation, "members" | "memberCount" | "lastMessage">;

interface Link {
  id: string;
  /** The place of this event in the one chain of all events for this person. */
  position: number;
  /** The place of the event before. Another one than what was seen last: something is missing. */
  previousPosition: number;
  /** The badge, as of this event. */
  unreadTotal: number;
}

interface InConversation extends Link {
  conversationId: string;
  conversation: ConversationFacts;
}

export interface MessageEvent extends InConversation {
  type: "message.created" | "message.updated" | "message.deleted";
  message: Message;
}

export interface ConversationEvent extends InConversation {
  type: "conversation.created" | "conversation.updated";
}

export interface ReceiptEvent extends InConversation {
  type: "receipt.updated";
  receipt: Receipt;
}

/** The person is not in this conversation any more. */
export interface LostEvent extends Link {
  type: "conversation.lost";
  conversationId: string;
}

export interface ProfileEvent extends Link {
  type: "profile.updated";
  profile: Profile;
}

export type LiveEvent = MessageEvent | ConversationEvent | ReceiptEvent | LostEvent | ProfileEvent;

/** Whether this can be taken for an event at all. The topic is fed by the database alone, so this is about versions. */
export function isLiveEvent(found: unknown): found is LiveEvent {
  if (typeof found !== "object" || found === null) return false;
  const { type, position, previousPosition } = found as Record<string, unknown>;
  return typeof type === "string" && typeof position === "number" && typeof previousPosition === "number";
}
