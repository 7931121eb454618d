import { z } from "zod";

import { answer, Conversation, Limit } from "../../../../lib/shared";

const InboxQuery = z
  .object({ limit: Limit, cursor: z.string().nullable() })
  .transform((asked) => ["list_inbox", { p_limit: asked.limit, p_cursor: asked.cursor }]);
const Inbox = z.object({ conversations: z.array(Conversation), nextCursor: z.string().nullable() });

export async function GET(request) {
  const asked = request.nextUrl.searchParams;
  const parse = () => InboxQuery.safeParse({ limit: asked.get("limit") ?? undefined, cursor: asked.get("cursor") });
  return answer(request, parse, Inbox, 200);
}
