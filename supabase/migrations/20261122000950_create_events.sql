-- Purpose:   one event per change and person on the private topic user:<uuid>, and the one place that broadcasts.
-- Consumers: every write that concerns people; Realtime subscribers.
-- Locks:     none on existing tables. At run time: row exclusive on realtime.messages, waited for at most 50 ms.
-- Undo:      drop function private.emit(text, uuid, uuid[], json, jsonb);
--            drop function private.broadcast(text, text[], jsonb[]); drop function private.unread_totals(uuid);
set lock_timeout = '4s';

create function private.unread_totals(p_user_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return (
        select jsonb_build_object('messages', coalesce(sum(m.unread_count), 0), 'conversations', count(*))
        from public.conversation_members as m
        where
            m.user_id = p_user_id
            and m.left_at is null
            and not m.is_archived
            and (m.unread_count > 0 or m.marked_unread)
            and (m.muted_until is null or m.muted_until <= now())
    );
end;
$$;
comment on function private.unread_totals(uuid) is
'The badge, {messages, conversations}: what is unread or marked so, without muted and archived conversations.';
revoke all on function private.unread_totals(uuid) from public, anon, authenticated, service_role;

create function private.broadcast(p_event text, p_topics text[], p_payloads jsonb[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_lock_timeout constant text := current_setting('lock_timeout');
begin
    -- The table is the truth and a broadcast is a hint: whatever goes wrong here is a warning, and nothing is waited for.
    -- realtime.send swallows its own errors, but would wait, for each recipient, while a partition is being made (once a
    -- day, with an exclusive lock). So the table's lock is taken first, with a short limit of its own.
    begin
        perform set_config('lock_timeout', '50ms', true);
        lock table realtime.messages in row exclusive mode;
        perform realtime.send(p_payloads[i], p_event, p_topics[i], true)
        from generate_subscripts(p_topics, 1) as i;
    exception
        when others then
            raise warning 'messaging: no broadcast of %: % (%)', p_event, sqlerrm, sqlstate;
    end;
    perform set_config('lock_timeout', v_lock_timeout, true);
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
    v_conversation public.conversations;
    v_told record;
    v_blocker_ids uuid[] := '{}';
    v_topics text[];
    v_events jsonb[];
begin
    select c.* into v_conversation from public.conversations as c where c.id = p_conversation_id;
    -- As in messages_json: in a group one does not read whom one has blocked.
    if p_message is not null and v_conversation.kind = 'group' then
        v_blocker_ids := private.blockers_among(p_user_ids, (p_message ->> 'fromUserId')::uuid);
    end if;
    for v_told in
        select k.user_id, h.position, h.previous_position, m.member
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
        order by k.ordinal
    loop
        v_topics := v_topics || ('user:' || v_told.user_id);
        v_events := v_events || (
            v_shared
            || jsonb_build_object(
                'id', gen_random_uuid(),
                'position', v_told.position,
                'previousPosition', v_told.previous_position,
                'unreadTotal', private.unread_totals(v_told.user_id) -> 'messages'
            )
            || case
                when (v_told.member).left_at is null
                    then jsonb_build_object('conversation', private.conversation_facts(
                        v_conversation, v_told.member,
                        private.standing_between(v_told.user_id, private.direct_other(v_conversation, v_told.user_id))
                    ))
                else '{}'
            end
            || case
                when v_told.user_id = any(v_blocker_ids)
                    then jsonb_build_object('message', p_message::jsonb || '{"body": null, "state": "hidden"}')
                else '{}'
            end
        );
    end loop;
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
