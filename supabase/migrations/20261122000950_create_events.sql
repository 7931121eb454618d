-- Purpose:   one event per change and person on the private topic user:<uuid>, and the one place that broadcasts.
-- Consumers: every write that concerns people; Realtime subscribers.
-- Locks:     none on existing tables. At run time: row exclusive on realtime.messages, waited for at most 50 ms.
-- Undo:      drop function private.emit(text, uuid, uuid[], json, jsonb);
--            drop function private.broadcast(text, text[], jsonb[]); drop function private.unread_totals(uuid); drop view private.badges;
set lock_timeout = '4s';

create view private.badges with (security_invoker = true) as
select
    m.user_id,
    sum(m.unread_count) as messages,
    count(*) as conversations
from public.conversation_members as m
where
    m.left_at is null
    and not m.is_archived
    and (m.unread_count > 0 or m.marked_unread)
    and (m.muted_until is null or m.muted_until <= now())
group by m.user_id;
revoke all on table private.badges from public, anon, authenticated, service_role;
comment on view private.badges is
'What each person has unread or marked so, without muted and archived conversations; nobody who has nothing. Ask for one user_id.';
comment on column private.badges.user_id is 'The person.';
comment on column private.badges.messages is 'How many messages are unread.';
comment on column private.badges.conversations is 'How many conversations have unread messages or are marked unread.';

create function private.unread_totals(p_user_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return (
        select jsonb_build_object('messages', coalesce(sum(b.messages), 0), 'conversations', coalesce(sum(b.conversations), 0))
        from private.badges as b
        where b.user_id = p_user_id
    );
end;
$$;
comment on function private.unread_totals(uuid) is 'The badge, {messages, conversations}; see private.badges.';
revoke all on function private.unread_totals(uuid) from public, anon, authenticated, service_role;

create function private.broadcast(p_event text, p_topics text[], p_payloads jsonb[])
returns void
language plpgsql
volatile
set search_path = ''
set lock_timeout = '50ms'
as $$
begin
    -- The table is the truth and a broadcast is a hint: whatever goes wrong here is a warning, and nothing is waited for.
    -- realtime.send swallows its own errors, but would wait, for each recipient, while a partition is being made (once a
    -- day, with an exclusive lock). So the table's lock is taken first, with a short limit of its own.
    lock table realtime.messages in row exclusive mode;
    perform realtime.send(p_payloads[i], p_event, p_topics[i], true)
    from generate_subscripts(p_topics, 1) as i;
exception
    when others then
        raise warning 'messaging: no broadcast of %: % (%)', p_event, sqlerrm, sqlstate;
end;
$$;
comment on function private.broadcast(text, text[], jsonb[]) is
'Hands payloads to realtime.send, one per private topic. Called last in a transaction; never raises, never waits longer than 50 ms.';
revoke all on function private.broadcast(text, text[], jsonb[]) from public, anon, authenticated, service_role;

create function private.emit(p_type text, p_conversation_id uuid, p_user_ids uuid[], p_message json, p_receipt jsonb)
returns jsonb[]
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_shared constant jsonb := jsonb_build_object('type', p_type, 'conversationId', p_conversation_id)
        || case when p_message is not null then jsonb_build_object('message', p_message) else '{}' end
        || case when p_receipt is not null then jsonb_build_object('receipt', p_receipt) else '{}' end;
    v_hidden jsonb;
    v_conversation public.conversations;
    v_pair uuid[];
    v_active_ids uuid[];
    v_blocker_ids uuid[] := '{}';
    v_topics text[];
    v_events jsonb[];
begin
    select c.* into v_conversation from public.conversations as c where c.id = p_conversation_id;
    if v_conversation.kind = 'direct' then
        -- How the two stand to each other. Who made a message has asked already, under the conversation's lock.
        v_pair := array[v_conversation.direct_low, v_conversation.direct_high];
        v_active_ids := v_pair;
        if p_type <> 'message.created' then
            v_active_ids := private.active_among(v_pair);
            v_blocker_ids := array(
                select b.blocker_id
                from private.blocks as b
                where b.blocker_id = any(v_pair) and b.blocked_id = any(v_pair)
            );
        end if;
    elsif p_message is not null then
        -- As in messages_json: in a group one does not read whom one has blocked.
        v_blocker_ids := private.blockers_among(p_user_ids, (p_message ->> 'fromUserId')::uuid);
        if v_blocker_ids <> '{}' then
            v_hidden := v_shared || jsonb_build_object('message', p_message::jsonb || '{"body": null, "state": "hidden"}');
        end if;
    end if;
    select
        array_agg('user:' || k.user_id order by k.ordinal),
        array_agg(
            case when v_hidden is not null and k.user_id = any(v_blocker_ids) then v_hidden else v_shared end
            || case
                when (m.member).left_at is null then jsonb_build_object(
                    'id', gen_random_uuid(), 'position', h.position, 'previousPosition', h.previous_position, 'unreadTotal', u.messages,
                    'conversation', private.conversation_facts(v_conversation, m.member, row(
                        v_pair is not null and k.user_id = any(v_blocker_ids),
                        v_pair is null or (
                            v_blocker_ids = '{}' and array_remove(v_pair, k.user_id) <@ v_active_ids
                        )
                    )::private.standing)
                )
                else jsonb_build_object(
                    'id', gen_random_uuid(), 'position', h.position, 'previousPosition', h.previous_position, 'unreadTotal', u.messages
                )
            end
            order by k.ordinal
        )
    into v_topics, v_events
    from unnest(p_user_ids) with ordinality as k (user_id, ordinal)
    cross join lateral (
        select t.position, t.previous_position
        from private.heads as t
        where t.user_id = k.user_id
        limit 1
    ) as h
    cross join lateral (
        select t as member
        from public.conversation_members as t
        where t.conversation_id = p_conversation_id and t.user_id = k.user_id
        limit 1
    ) as m
    cross join lateral (
        select coalesce(sum(b.messages), 0) as messages
        from private.badges as b
        where b.user_id = k.user_id
    ) as u;
    if v_topics is not null then
        perform private.broadcast(p_type, v_topics, v_events);
    end if;
    return v_events;
end;
$$;
comment on function private.emit(text, uuid, uuid[], json, jsonb) is
'Tells each of these people, whose heads have just moved, what changed in a conversation: {id, type, position, previousPosition, '
'conversationId, unreadTotal, conversation unless lost, message, receipt}. p_message: as nobody in particular reads '
'it. Called once per move, last in the transaction. Returns the events.';
revoke all on function private.emit(text, uuid, uuid[], json, jsonb) from public, anon, authenticated, service_role;
