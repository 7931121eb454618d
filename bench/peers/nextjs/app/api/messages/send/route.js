import { z } from "zod";

import { answer, Conversation, Message } from "../../../../lib/shared";

const SendMessage = z
  .strictObject({
    body: z.string().min(1).max(4000),
    conversationId: z.uuid().nullish(),
    toUserId: z.uuid().nullish(),
    gigId: z.uuid().nullish(),
    sensitive: z.boolean().default(false),
    clientMessageId: z.uuid().nullish(),
  })
  .refine((sent) => sent.conversationId || sent.toUserId)
  .transform((sent) => [
    "send_message",
    {
      p_conversation_id: sent.conversationId ?? null,
      p_to_user_id: sent.toUserId ?? null,
      p_gig_id: sent.gigId ?? null,
      p_client_message_id: sent.clientMessageId ?? crypto.randomUUID(),
      p_body: sent.body,
    },
  ]);
const Sent = z.object({ message: Message, conversation: Conversation });

export async function POST(request) {
  return answer(request, async () => SendMessage.safeParse(await request.json().catch(() => null)), Sent, 201);
}
