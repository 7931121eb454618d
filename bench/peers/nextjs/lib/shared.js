// What the three routes share: the verified caller, their Supabase client, and answers.
import { createClient } from "@supabase/supabase-js";
import { jwtVerify } from "jose";
import { z } from "zod";

const secret = new TextEncoder().encode(process.env.SUPABASE_JWT_SECRET);
const verify = { issuer: `${process.env.SUPABASE_URL}/auth/v1`, audience: "authenticated" };

export const Profile = z.object({
  id: z.uuid(),
  displayName: z.string(),
  avatarUrl: z.string().nullable(),
  isFallback: z.boolean(),
});

export const Message = z.object({
  id: z.uuid(),
  conversationId: z.uuid(),
  seq: z.number(),
  eventSeq: z.number(),
  fromUserId: z.uuid(),
  toUserId: z.uuid().nullable(),
  gigId: z.uuid().nullable(),
  clientMessageId: z.uuid(),
  body: z.string().nullable(),
  state: z.enum(["visible", "deleted", "hidden", "pending", "rejected"]),
  warning: z.string().nullable(),
  masked: z.boolean(),
  sensitive: z.boolean(),
  unreadable: z.boolean(),
  status: z.enum(["sent", "delivered", "read"]),
  sender: Profile,
  editedAt: z.string().nullable(),
  deletedAt: z.string().nullable(),
  createdAt: z.string(),
});

export const Conversation = z.object({
  id: z.uuid(),
  kind: z.enum(["direct", "group"]),
  gigId: z.uuid().nullable(),
  title: z.string().nullable(),
  members: z.array(Profile),
  memberCount: z.number(),
  lastMessage: Message.nullable(),
  lastMessageAt: z.string().nullable(),
  unreadCount: z.number(),
  markedUnread: z.boolean(),
  myRole: z.enum(["owner", "admin", "member"]),
  myLastReadSeq: z.number(),
  canSend: z.boolean(),
  liveTopic: z.string(),
  lastSeq: z.number(),
  firstSeq: z.number(),
  eventSeq: z.number(),
  archivedAt: z.string().nullable(),
  mutedUntil: z.string().nullable(),
  pinnedAt: z.string().nullable(),
  createdAt: z.string(),
});

export const Limit = z.coerce.number().int().min(1).max(100).default(30);

const problem = (status, code) => Response.json({ status, code }, { status });

// Verify the token, make one call as the caller, and answer what has the right shape.
export async function answer(request, parse, shape, status) {
  const token = request.headers.get("authorization")?.replace(/^Bearer /i, "");
  try {
    const { payload } = await jwtVerify(token ?? "", secret, verify);
    if (payload.role !== "authenticated" || !payload.sub) return problem(401, "unauthenticated");
  } catch {
    return problem(401, "unauthenticated");
  }
  const parsed = await parse();
  if (!parsed.success) return problem(400, "validation_failed");
  const supabase = createClient(process.env.SUPABASE_URL, process.env.SUPABASE_PUBLISHABLE_KEY, {
    global: { headers: { Authorization: `Bearer ${token}` } },
    auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
  });
  const [name, params] = parsed.data;
  const { data, error } = await supabase.rpc(name, params);
  if (error) return problem(502, "upstream_invalid");
  const checked = shape.safeParse(data);
  return checked.success ? Response.json(checked.data, { status }) : problem(502, "upstream_invalid");
}
