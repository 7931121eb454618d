-- Purpose:   the JSON shapes Message, Conversation and Receipt, each written once.
-- Consumers: every function that answers with them.
-- Locks:     none.
-- Undo:      drop function private.receipt_json(public.conversation_members); drop function private.conversation_json(uuid, uuid);
--            drop function private.conversations_json(uuid, uuid[]);
--            drop function private.people_json(uuid[]);
--            drop function private.conversation_facts(public.conversations, public.conversation_members, private.standing);
--            drop function private.live_topic(public.conversations, uuid, boolean);
--            drop type private.standing;
--            drop function private.message_page(uuid, uuid, bigint, bigint, integer);
--            drop function private.messages_json(uuid, uuid[], bigint[]);
--            drop function private.message_shape(public.messages, bigint, bigint, json, boolean);
--            drop function private.joined(json, json);
--
-- A page is looked up in one statement, and a shape is a function that only writes down what it is given: a look-up inside a
-- shape is a statement per row. Every look-up is lateral, by key and limited to one row: the planner would be free to scan all
-- profiles or conversations for a plain join when it misjudges how many rows a page has. Shapes are json, which costs half of
-- jsonb to build and nothing to print.
set lock_timeout = '4s';

create function private.joined(p_one json, p_other json)
returns json
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
begin
    return (left(p_one::text, -1) || ', ' || substr(p_other::text, 2))::json;
end;
$$;
comment on function private.joined(json, json) is 'One object with the members of two, which are not empty and have no name in common.';
revoke all on function private.joined(json, json) from public, anon, authenticated, service_role;

create function private.message_shape(
    p_message public.messages, p_read_seq bigint, p_delivered_seq bigint, p_sender json, p_is_hidden boolean
)
returns json
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
    return json_build_object(
        'id', p_message.id,
        'conversationId', p_message.conversation_id,
        'seq', p_message.seq,
        'eventSeq', p_message.event_seq,
        'fromUserId', p_message.from_user_id,
        'toUserId', p_message.to_user_id,
        'gigId', p_message.gig_id,
        'clientMessageId', p_message.client_message_id,
        'body', case when not p_is_hidden then p_message.body end,
        'state', case when p_is_hidden then 'hidden' else p_message.state end,
        'warning', p_message.warning,
        'masked', p_message.is_masked,
        'sensitive', p_message.is_sensitive,
        'unreadable', false,
        'status', case
            when p_message.seq <= p_read_seq then 'read'
            when p_message.seq <= p_delivered_seq then 'delivered'
            else 'sent'
        end,
        'sender', p_sender,
        'editedAt', private.iso_time(p_message.edited_at),
        'deletedAt', private.iso_time(p_message.deleted_at),
        'createdAt', private.iso_time(p_message.created_at)
    );
end;
$$;
comment on function private.message_shape(public.messages, bigint, bigint, json, boolean) is
'Shape Message. p_sender: the author''s Profile. p_read_seq and p_delivered_seq: the lowest shared watermarks among the current members '
'other than the author. p_is_hidden: the reader blocks the author.';
revoke all on function private.message_shape(public.messages, bigint, bigint, json, boolean)
from public, anon, authenticated, service_role;

create function private.messages_json(p_viewer_id uuid, p_conversation_ids uuid[], p_seqs bigint[])
returns table (ordinal bigint, message json)
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
    );
begin
    return query
    select
        k.ordinal,
        case
            when m.is_sensitive and m.state = 'visible' and p_viewer_id is not null and not h.is_hidden
                then private.joined(s.shape, json_build_object('envelope', private.envelope_json(m.id)))
            else s.shape
        end
    from unnest(p_conversation_ids, p_seqs) with ordinality as k (conversation_id, seq, ordinal)
    cross join lateral (
        select t.*
        from public.messages as t
        where t.conversation_id = k.conversation_id and t.seq = k.seq
        limit 1
    ) as m
    cross join lateral (
        select min(o.shared_read_seq) as read_seq, min(o.shared_delivered_seq) as delivered_seq
        from public.conversation_members as o
        where o.conversation_id = k.conversation_id and o.user_id <> m.from_user_id and o.left_at is null
    ) as w
    left join lateral (
        select t as profile
        from public.profiles as t
        where t.user_id = m.from_user_id
        limit 1
    ) as p on true
    cross join lateral (
        select v_hides and exists (
            select 1
            from private.blocks as b
            where b.blocker_id = p_viewer_id and b.blocked_id = m.from_user_id
        ) and exists (
            select 1
            from public.conversations as c
            where c.id = k.conversation_id and c.kind = 'group'
        ) as is_hidden
    ) as h
    cross join lateral (
        select private.message_shape(
            m, w.read_seq, w.delivered_seq, private.profile_shape(m.from_user_id, p.profile), h.is_hidden
        ) as shape
        offset 0
    ) as s;
end;
$$;
comment on function private.messages_json(uuid, uuid[], bigint[]) is
'The messages with these places, as p_viewer_id reads them: hidden when they block the author of a group''s message, a sensitive one '
'with its envelope. Null: as nobody in particular. The caller has checked access.';
revoke all on function private.messages_json(uuid, uuid[], bigint[]) from public, anon, authenticated, service_role;

create function private.message_page(
    p_viewer_id uuid, p_conversation_id uuid, p_from_seq bigint, p_before_seq bigint, p_limit integer
)
returns json
language plpgsql
stable
set search_path = ''
as $$
declare
    v_seqs constant bigint[] := array(
        select m.seq
        from public.messages as m
        where m.conversation_id = p_conversation_id and m.seq >= p_from_seq and m.seq < p_before_seq
        order by m.seq desc
        limit p_limit
    );
begin
    return coalesce((
        select json_agg(t.message order by t.ordinal desc)
        from private.messages_json(p_viewer_id, array_fill(p_conversation_id, array[cardinality(v_seqs)]), v_seqs) as t
    ), '[]');
end;
$$;
comment on function private.message_page(uuid, uuid, bigint, bigint, integer) is
'The newest p_limit messages with p_from_seq <= seq < p_before_seq as an ascending array of Message; see messages_json.';
revoke all on function private.message_page(uuid, uuid, bigint, bigint, integer) from public, anon, authenticated, service_role;

create type private.standing as (is_blocking boolean, may_send boolean);
comment on type private.standing is
'How somebody stands to the other person of a direct conversation: whether they block them, and whether a message would reach them.';
revoke all on type private.standing from public, anon, authenticated, service_role;

create function private.live_topic(p_conversation public.conversations, p_user_id uuid, p_is_blocking boolean)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
    -- Who blocks moves on to a topic that the other has never been allowed on, and back when the block ends. The other keeps the
    -- name there was, and learns nothing from it. Two who block each other are on two different ones.
    return format(
        'conversation:%s:live:%s',
        p_conversation.id,
        p_conversation.live_epoch
        + case when not p_is_blocking then 0 when p_conversation.direct_low = p_user_id then 1 else 2 end
    );
end;
$$;
comment on function private.live_topic(public.conversations, uuid, boolean) is
'The Realtime topic for typing and presence that a member is told, and the only one of this conversation they may use. p_is_blocking: '
'whether they block the other person.';
revoke all on function private.live_topic(public.conversations, uuid, boolean) from public, anon, authenticated, service_role;

create function private.conversation_facts(
    c public.conversations, me public.conversation_members, p_standing private.standing
)
returns json
language plpgsql
immutable
set search_path = ''
as $$
begin
    return json_build_object(
        'id', c.id,
        'kind', c.kind,
        'gigId', c.gig_id,
        'title', c.title,
        'lastMessageAt', private.iso_time(c.last_message_at),
        'unreadCount', me.unread_count,
        'markedUnread', me.marked_unread,
        'myRole', me.role,
        'myLastReadSeq', me.last_read_seq,
        'canSend', p_standing.may_send,
        'liveTopic', private.live_topic(c, me.user_id, p_standing.is_blocking),
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
comment on function private.conversation_facts(public.conversations, public.conversation_members, private.standing) is
'Shape Conversation without members and newest message, as that member sees it: what events carry.';
revoke all on function private.conversation_facts(public.conversations, public.conversation_members, private.standing)
from public, anon, authenticated, service_role;

create function private.people_json(p_conversation_ids uuid[])
returns table (ordinal bigint, members json, member_count bigint)
language plpgsql
stable
set search_path = ''
as $$
begin
    -- Both people of a direct conversation, also while one of them has not been reached yet, or the first eight of a group.
    return query
    select k.ordinal, o.members, o.member_count
    from unnest(p_conversation_ids) with ordinality as k (id, ordinal)
    cross join lateral (select t.kind from public.conversations as t where t.id = k.id limit 1) as c
    cross join lateral (
        select
            json_agg(private.profile_shape(m.user_id, p.profile) order by m.ordinal) filter (where m.ordinal <= 8) as members,
            count(*) as member_count
        from (
            select t.user_id, row_number() over (order by case when c.kind = 'group' then t.joined_at end, t.user_id) as ordinal
            from public.conversation_members as t
            where t.conversation_id = k.id and (t.left_at is null or c.kind = 'direct')
        ) as m
        left join lateral (
            select t as profile
            from public.profiles as t
            where t.user_id = m.user_id and m.ordinal <= 8
            limit 1
        ) as p on true
    ) as o;
end;
$$;
comment on function private.people_json(uuid[]) is
'Of each conversation: the cards of its people (of a direct one by id, of a group the first eight by time of joining), and how many it '
'has.';
revoke all on function private.people_json(uuid[]) from public, anon, authenticated, service_role;

create function private.conversations_json(p_user_id uuid, p_conversation_ids uuid[])
returns json
language plpgsql
stable
set search_path = ''
as $$
declare
    v_seqs bigint[];
    v_other_ids uuid[];
    v_active_ids uuid[];
    v_blocked_ids uuid[];
    v_blocker_ids uuid[];
begin
    -- The newest message of each, or none where the person has come later; the other person of each direct one.
    select
        array_agg(case when c.last_seq >= m.visible_from_seq then c.last_seq end order by k.ordinal),
        array_agg(private.direct_other(c.conversation, p_user_id) order by k.ordinal)
    into v_seqs, v_other_ids
    from unnest(p_conversation_ids) with ordinality as k (id, ordinal)
    cross join lateral (
        select t as conversation, t.last_seq
        from public.conversations as t
        where t.id = k.id
        limit 1
    ) as c
    cross join lateral (
        select t.visible_from_seq
        from public.conversation_members as t
        where t.conversation_id = k.id and t.user_id = p_user_id
        limit 1
    ) as m;
    -- How they stand to each other.
    v_active_ids := private.active_among(v_other_ids);
    v_blocker_ids := private.blockers_among(v_other_ids, p_user_id);
    v_blocked_ids := array(
        select b.blocked_id
        from private.blocks as b
        where b.blocker_id = p_user_id and b.blocked_id = any(v_other_ids)
    );
    return coalesce((
        select json_agg(
            private.joined(
                private.conversation_facts(c.conversation, me.member, row(
                    coalesce(k.other_id = any(v_blocked_ids), false),
                    k.other_id is null or (
                        k.other_id = any(v_active_ids) and k.other_id <> all(v_blocked_ids) and k.other_id <> all(v_blocker_ids)
                    )
                )::private.standing),
                json_build_object('members', o.members, 'memberCount', o.member_count, 'lastMessage', l.message)
            )
            order by k.ordinal
        )
        from unnest(p_conversation_ids, v_other_ids) with ordinality as k (id, other_id, ordinal)
        cross join lateral (select t as conversation from public.conversations as t where t.id = k.id limit 1) as c
        cross join lateral (
            select t as member
            from public.conversation_members as t
            where t.conversation_id = k.id and t.user_id = p_user_id
            limit 1
        ) as me
        left join private.people_json(p_conversation_ids) as o on k.ordinal = o.ordinal
        left join private.messages_json(p_user_id, p_conversation_ids, v_seqs) as l on k.ordinal = l.ordinal
    ), '[]');
end;
$$;
comment on function private.conversations_json(uuid, uuid[]) is
'Shape Conversation of each, in this order, as p_user_id sees them. The caller has checked that p_user_id is or was a member.';
revoke all on function private.conversations_json(uuid, uuid[]) from public, anon, authenticated, service_role;

create function private.conversation_json(p_user_id uuid, p_conversation_id uuid)
returns json
language plpgsql
stable
set search_path = ''
as $$
begin
    return private.conversations_json(p_user_id, array[p_conversation_id]) -> 0;
end;
$$;
comment on function private.conversation_json(uuid, uuid) is 'Shape Conversation as p_user_id sees it; see conversations_json.';
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
