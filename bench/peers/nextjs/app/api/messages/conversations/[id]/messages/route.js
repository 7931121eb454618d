import { z } from "zod";

import { answer, Limit, Message } from "../../../../../../lib/shared";

const HistoryQuery = z
  .object({ id: z.uuid(), limit: Limit })
  .transform((asked) => ["list_messages", { p_conversation_id: asked.id, p_limit: asked.limit }]);
const MessagePage = z.object({
  messages: z.array(Message),
  hasMoreBefore: z.boolean(),
  hasMoreAfter: z.boolean(),
});

export async function GET(request, { params }) {
  const limit = request.nextUrl.searchParams.get("limit") ?? undefined;
  return answer(request, async () => HistoryQuery.safeParse({ id: (await params).id, limit }), MessagePage, 200);
}
