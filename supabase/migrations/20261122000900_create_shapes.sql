-- Purpose:   the JSON shapes Message, Conversation and Receipt, each written once.
-- Consumers: every function that answers with them.
-- Locks:     none.
-- Undo:      drop function private.receipt_json(public.conversation_members); drop function private.conversation_json(uuid, uuid);
--            drop function private.conversation_facts(public.conversations, public.conversation_members);
--            drop function private.live_topic(public.conversations, uuid);
--            drop function private.message_page(uuid, uuid, bigint, bigint, integer);
--            drop function private.message_json(public.messages, bigint, bigint);
--
-- Rows are looked up one by one, by key, from inside the shapes. A join over the page would let the planner choose a
-- scan of all profiles or conversations when it misjudges how many rows a page has; a look-up by key has one plan.
set lock_timeout = '4s';

create function private.message_json(p_message public.messages, p_read_seq bigint, p_delivered_seq bigint)
returns jsonb
language plpgsql
stable
parallel safe
set search_path = ''
as $$
begin
    return jsonb_build_object(
        'id', p_message.id,
        'conversationId', p_message.conversation_id,
        'seq', p_message.seq,
        'eventSeq', p_message.event_seq,
        'fromUserId', p_message.from_user_id,
        'toUserId', p_message.to_user_id,
        'gigId', p_message.gig_id,
        'clientMessageId', p_message.client_message_id,
        'body', p_message.body,
        'state', p_message.state,
        'warning', p_message.warning,
        'masked', p_message.is_masked,
        'sensitive', p_message.is_sensitive,
        'unreadable', false,
        'status', case
            when p_message.seq <= p_read_seq then 'read'
            when p_message.seq <= p_delivered_seq then 'delivered'
            else 'sent'
        end,
        'sender', private.profile_json(p_message.from_user_id),
        'editedAt', private.iso_time(p_message.edited_at),
        'deletedAt', private.iso_time(p_message.deleted_at),
        'createdAt', private.iso_time(p_message.created_at)
    );
end;
$$;
comment on function private.message_json(public.messages, bigint, bigint) is
'Shape Message. p_read_seq and p_delivered_seq: the lowest shared watermarks among the current members other than the author.';
revoke all on function private.message_json(public.messages, bigint, bigint) from public, anon, authenticated, service_role;

create function private.message_page(
    p_viewer_id uuid, p_conversation_id uuid, p_from_seq bigint, p_before_seq bigint, p_limit integer
)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
    -- In a group one does not read whom one has blocked; a direct conversation stays readable as it was.
    v_hides constant boolean := exists (
        select 1
        from private.blocks as b
        where b.blocker_id = p_viewer_id
    ) and exists (
        select 1
        from public.conversations as c
        where c.id = p_conversation_id and c.kind = 'group'
    );
begin
    return coalesce((
        select jsonb_agg(
            private.message_json(m, w.read_seq, w.delivered_seq)
            || case
                when v_hides and private.has_blocked(p_viewer_id, m.from_user_id) then '{"body": null, "state": "hidden"}'::jsonb
                when m.is_sensitive and m.state = 'visible' and p_viewer_id is not null
                    then jsonb_build_object('envelope', private.envelope_json(m.id))
                else '{}'
            end
            order by m.seq
        )
        from (
            select m.*
            from public.messages as m
            where m.conversation_id = p_conversation_id and m.seq >= p_from_seq and m.seq < p_before_seq
            order by m.seq desc
            limit p_limit
        ) as m
        cross join lateral (
            select min(o.shared_read_seq) as read_seq, min(o.shared_delivered_seq) as delivered_seq
            from public.conversation_members as o
            where o.conversation_id = p_conversation_id and o.user_id <> m.from_user_id and o.left_at is null
        ) as w
    ), '[]'::jsonb);
end;
$$;
comment on function private.message_page(uuid, uuid, bigint, bigint, integer) is
'The newest p_limit messages with p_from_seq <= seq < p_before_seq as an ascending array of Message, as p_viewer_id reads them: hidden '
'when they block the author of a group''s message, a sensitive one with its envelope. Null: as nobody in particular. The caller has '
'checked access.';
revoke all on function private.message_page(uuid, uuid, bigint, bigint, integer) from public, anon, authenticated, service_role;

create function private.live_topic(p_conversation public.conversations, p_user_id uuid)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
    v_epoch integer := p_conversation.live_epoch;
begin
    -- Who blocks moves on to a topic that the other has never been allowed on, and back when the block ends. The other keeps the
    -- name there was, and learns nothing from it. Two who block each other are on two different ones.
    if p_conversation.kind = 'direct' and private.has_blocked(p_user_id, private.direct_other(p_conversation, p_user_id)) then
        v_epoch := v_epoch + case p_conversation.direct_low when p_user_id then 1 else 2 end;
    end if;
    return format('conversation:%s:live:%s', p_conversation.id, v_epoch);
end;
$$;
comment on function private.live_topic(public.conversations, uuid) is
'The Realtime topic for typing and presence that a member is told, and the only one of this conversation they may use.';
revoke all on function private.live_topic(public.conversations, uuid) from public, anon, authenticated, service_role;

create function private.conversation_facts(c public.conversations, me public.conversation_members)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
    v_other constant uuid := private.direct_other(c, me.user_id);
begin
    return jsonb_build_object(
        'id', c.id,
        'kind', c.kind,
        'gigId', c.gig_id,
        'title', c.title,
        'lastMessageAt', private.iso_time(c.last_message_at),
        'unreadCount', me.unread_count,
        'markedUnread', me.marked_unread,
        'myRole', me.role,
        'myLastReadSeq', me.last_read_seq,
        'canSend', c.kind = 'group' or (private.account_is_active(v_other) and not private.is_blocked_pair(me.user_id, v_other)),
        'liveTopic', private.live_topic(c, me.user_id),
        'lastSeq', c.last_seq,
        'firstSeq', greatest(c.first_seq, me.visible_from_seq),
        'eventSeq', c.event_seq,
        'archivedAt', private.iso_time(me.archived_at),
        'mutedUntil', private.iso_time(me.muted_until),
        'pinnedAt', private.iso_time(me.pinned_at),
        'createdAt', private.iso_time(c.created_at)
    );
end;
$$;
comment on function private.conversation_facts(public.conversations, public.conversation_members) is
'Shape Conversation without members and newest message, as that member sees it: what events carry.';
revoke all on function private.conversation_facts(public.conversations, public.conversation_members)
from public, anon, authenticated, service_role;

create function private.conversation_json(p_user_id uuid, p_conversation_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
    c public.conversations;
    me public.conversation_members;
    v_member_count integer;
    v_members jsonb;
begin
    select t.* into c from public.conversations as t where t.id = p_conversation_id;
    select t.* into me
    from public.conversation_members as t
    where t.conversation_id = p_conversation_id and t.user_id = p_user_id;

    -- Both people of a direct conversation, also while one of them has not been reached yet, or the first eight of a group.
    select count(*), jsonb_agg(private.profile_json(m.user_id) order by m.ordinal) filter (where m.ordinal <= 8)
    into v_member_count, v_members
    from (
        select t.user_id, row_number() over (order by t.joined_at, t.user_id) as ordinal
        from public.conversation_members as t
        where t.conversation_id = p_conversation_id and (t.left_at is null or c.kind = 'direct')
    ) as m;

    return private.conversation_facts(c, me) || jsonb_build_object(
        'members', v_members,
        'memberCount', v_member_count,
        'lastMessage', private.message_page(
            p_user_id, p_conversation_id, greatest(c.last_seq, me.visible_from_seq), c.last_seq + 1, 1
        ) -> 0
    );
end;
$$;
comment on function private.conversation_json(uuid, uuid) is
'Shape Conversation as p_user_id sees it. The caller has checked that p_user_id is a member.';
revoke all on function private.conversation_json(uuid, uuid) from public, anon, authenticated, service_role;

create function private.receipt_json(p_member public.conversation_members)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
    return jsonb_build_object(
        'userId', p_member.user_id,
        'lastReadSeq', p_member.shared_read_seq,
        'lastDeliveredSeq', p_member.shared_delivered_seq
    );
end;
$$;
comment on function private.receipt_json(public.conversation_members) is 'Shape Receipt: the watermarks of a member that others see.';
revoke all on function private.receipt_json(public.conversation_members) from public, anon, authenticated, service_role;
