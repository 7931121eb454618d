-- Purpose:   the JSON shapes Message and Conversation, each written once.
-- Consumers: every function that answers with them.
-- Locks:     none.
-- Undo:      drop function private.conversations_json(uuid, uuid[]); drop function private.message_page(uuid, bigint, bigint, integer);
--            drop function private.message_json(public.messages, jsonb, bigint, bigint);
set lock_timeout = '4s';

create function private.message_json(
    p_message public.messages, p_sender jsonb, p_read_seq bigint, p_delivered_seq bigint
)
returns jsonb
language plpgsql
immutable
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
comment on function private.message_json(public.messages, jsonb, bigint, bigint) is
'Shape Message. p_read_seq and p_delivered_seq: the lowest shared watermarks among the current members other than the author.';
revoke all on function private.message_json(public.messages, jsonb, bigint, bigint)
from public, anon, authenticated, service_role;

create function private.message_page(p_conversation_id uuid, p_from_seq bigint, p_before_seq bigint, p_limit integer)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return coalesce((
        select jsonb_agg(
            private.message_json(
                m, private.profile_json(m.from_user_id, p.display_name, p.avatar_url), w.read_seq, w.delivered_seq
            )
            order by m.seq
        )
        from (
            select m.*
            from public.messages as m
            where m.conversation_id = p_conversation_id and m.seq >= p_from_seq and m.seq < p_before_seq
            order by m.seq desc
            limit p_limit
        ) as m
        left join public.profiles as p on m.from_user_id = p.user_id
        cross join lateral (
            select min(o.shared_read_seq) as read_seq, min(o.shared_delivered_seq) as delivered_seq
            from public.conversation_members as o
            where o.conversation_id = m.conversation_id and o.user_id <> m.from_user_id and o.left_at is null
        ) as w
    ), '[]'::jsonb);
end;
$$;
comment on function private.message_page(uuid, bigint, bigint, integer) is
'The newest p_limit messages with p_from_seq <= seq < p_before_seq as an ascending array of Message. The caller has checked access.';
revoke all on function private.message_page(uuid, bigint, bigint, integer) from public, anon, authenticated, service_role;

create function private.conversations_json(p_user_id uuid, p_conversation_ids uuid [])
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return coalesce((
        select jsonb_agg(jsonb_build_object(
            'id', c.id,
            'kind', c.kind,
            'gigId', c.gig_id,
            'title', c.title,
            'members', others.members,
            'memberCount', others.member_count,
            'lastMessage', last_message.json,
            'lastMessageAt', private.iso_time(c.last_message_at),
            'unreadCount', me.unread_count,
            'markedUnread', me.marked_unread,
            'myRole', me.role,
            'myLastReadSeq', me.last_read_seq,
            'canSend', c.kind = 'group' or private.account_is_active(
                case c.direct_low when p_user_id then c.direct_high else c.direct_low end
            ),
            'liveTopic', format('conversation:%s:live:%s', c.id, c.live_epoch),
            'lastSeq', c.last_seq,
            'firstSeq', greatest(c.first_seq, me.visible_from_seq),
            'eventSeq', c.event_seq,
            'archivedAt', private.iso_time(me.archived_at),
            'mutedUntil', private.iso_time(me.muted_until),
            'pinnedAt', private.iso_time(me.pinned_at),
            'createdAt', private.iso_time(c.created_at)
        ) order by wanted.ordinal)
        from unnest(p_conversation_ids) with ordinality as wanted (id, ordinal)
        inner join public.conversations as c on wanted.id = c.id
        inner join public.conversation_members as me on c.id = me.conversation_id and me.user_id = p_user_id
        cross join lateral (
            -- Both people of a direct conversation, or the first eight of a group.
            select
                max(f.member_count) as member_count,
                jsonb_agg(
                    private.profile_json(f.user_id, p.display_name, p.avatar_url) order by f.joined_at, f.user_id
                ) as members
            from (
                select o.user_id, o.joined_at, count(*) over () as member_count
                from public.conversation_members as o
                where o.conversation_id = c.id and o.left_at is null
                order by o.joined_at, o.user_id
                limit 8
            ) as f
            left join public.profiles as p on f.user_id = p.user_id
        ) as others
        cross join lateral (
            select private.message_page(c.id, greatest(c.last_seq, me.visible_from_seq), c.last_seq + 1, 1) -> 0 as json
        ) as last_message
    ), '[]'::jsonb);
end;
$$;
comment on function private.conversations_json(uuid, uuid []) is
'Shape Conversation as p_user_id sees it, for the given ids in their order. The caller has checked that p_user_id is a member.';
revoke all on function private.conversations_json(uuid, uuid []) from public, anon, authenticated, service_role;
