-- Purpose:   one event per change and person on the private topic user:<uuid>, and the one place that broadcasts.
-- Consumers: every write that concerns people; Realtime subscribers.
-- Locks:     none on existing tables. At run time: row exclusive on realtime.messages, waited for at most 50 ms.
-- Undo:      drop function private.emit(text, uuid, uuid[], bigint, jsonb);
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

create function private.emit(p_type text, p_conversation_id uuid, p_user_ids uuid[], p_seq bigint, p_receipt jsonb)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_conversation public.conversations;
    v_message json;
    v_hiding_ids uuid[];
    v_topics text[];
    v_payloads jsonb[];
begin
    select c.* into v_conversation from public.conversations as c where c.id = p_conversation_id;
    if p_seq is not null then
        v_message := private.message_page(null, p_conversation_id, p_seq, p_seq + 1, 1) -> 0;
        if v_conversation.kind = 'group' then
            v_hiding_ids := private.blockers_among(p_user_ids, (v_message ->> 'fromUserId')::uuid);
        end if;
    end if;
    select
        array_agg('user:' || k.user_id order by k.ordinal),
        array_agg(
            jsonb_build_object(
                'id', gen_random_uuid(),
                'type', p_type,
                'position', h.position,
                'previousPosition', h.previous_position,
                'conversationId', p_conversation_id,
                'unreadTotal', private.unread_totals(k.user_id) -> 'messages'
            )
            || case
                when (me.member).left_at is null then jsonb_build_object('conversation', private.conversation_facts(
                    v_conversation, me.member,
                    private.standing_between(k.user_id, private.direct_other(v_conversation, k.user_id))
                ))
                else '{}'
            end
            || case
                when v_message is null then '{}'
                -- As in messages_json: in a group one does not read whom one has blocked.
                when k.user_id = any(v_hiding_ids)
                    then jsonb_build_object('message', v_message::jsonb || '{"body": null, "state": "hidden"}')
                else jsonb_build_object('message', v_message)
            end
            || case when p_receipt is not null then jsonb_build_object('receipt', p_receipt) else '{}' end
            order by k.ordinal
        )
    into v_topics, v_payloads
    from unnest(p_user_ids) with ordinality as k (user_id, ordinal)
    left join lateral (
        select t.position, t.previous_position
        from private.heads as t
        where t.user_id = k.user_id
        limit 1
    ) as h on true
    left join lateral (
        select t as member
        from public.conversation_members as t
        where t.conversation_id = p_conversation_id and t.user_id = k.user_id
        limit 1
    ) as me on true;
    if v_topics is not null then
        perform private.broadcast(p_type, v_topics, v_payloads);
    end if;
end;
$$;
comment on function private.emit(text, uuid, uuid[], bigint, jsonb) is
'Tells each of these people, whose heads have just moved, what changed in a conversation: {id, type, position, previousPosition, '
'conversationId, unreadTotal, conversation unless lost, message at p_seq, receipt}. Called once per move, last in the transaction.';
revoke all on function private.emit(text, uuid, uuid[], bigint, jsonb) from public, anon, authenticated, service_role;
