-- Purpose:   delivered watermarks in batches, and typing.
-- Consumers: PATCH /api/messages/delivered, POST /api/messages/conversations/{id}/typing; direct callers of the same RPCs.
-- Locks:     none on existing tables. At run time: conversations by id, heads by user id, members; none when nothing changes.
-- Undo:      drop function public.set_typing(uuid); drop function private.set_typing(uuid);
--            drop function public.mark_delivered(jsonb); drop function private.mark_delivered(jsonb);
set lock_timeout = '4s';

create function private.mark_delivered(p_receipts jsonb)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
    v_conversation_ids uuid[];
    v_conversation public.conversations;
    v_seqs bigint[];
    v_other uuid;
    v_member_ids uuid[];
    v_is_small boolean;
    v_position bigint;
    v_member public.conversation_members;
begin
    if jsonb_typeof(p_receipts) is distinct from 'array' or jsonb_array_length(p_receipts) not between 1 and 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'receipts must be an array of 1 to 100.', hint = '/receipts';
    end if;
    if exists (
        select 1
        from jsonb_array_elements(p_receipts) as r (receipt)
        where
            jsonb_typeof(r.receipt) <> 'object'
            or coalesce(r.receipt ->> 'conversationId', '') !~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
            or coalesce(r.receipt ->> 'seq', '') !~ '^[0-9]{1,16}$'
    ) then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'Each receipt needs a conversationId and a seq.', hint = '/receipts';
    end if;

    -- What moves a watermark, in the order of conversation ids, which is the order of their locks. What is not the caller's
    -- is left out without a word, like what has been delivered before.
    select array_agg(t.conversation_id order by t.conversation_id), array_agg(t.seq order by t.conversation_id)
    into v_conversation_ids, v_seqs
    from (
        select m.conversation_id, least(max((r.receipt ->> 'seq')::bigint), c.last_seq) as seq
        from jsonb_array_elements(p_receipts) as r (receipt)
        inner join public.conversation_members as m on m.conversation_id = (r.receipt ->> 'conversationId')::uuid
        inner join public.conversations as c on m.conversation_id = c.id
        where m.user_id = v_me and m.left_at is null
        group by m.conversation_id, m.shared_delivered_seq, c.last_seq
        having least(max((r.receipt ->> 'seq')::bigint), c.last_seq) > m.shared_delivered_seq
    ) as t;
    if v_conversation_ids is not null then
        perform 1 from public.conversations as c where c.id = any(v_conversation_ids) order by c.id for no key update;
        perform private.lock_heads(array(
            select distinct o.user_id
            from public.conversation_members as o
            where o.conversation_id = any(v_conversation_ids) and o.left_at is null
        ));
        for i in 1 .. cardinality(v_conversation_ids) loop
            select c.* into v_conversation from public.conversations as c where c.id = v_conversation_ids[i];
            -- As with reads: who blocks shares nothing, and who is blocked sees no difference, but the other is not told.
            v_other := private.direct_other(v_conversation, v_me);
            continue when private.has_blocked(v_me, v_other);
            select array_agg(o.user_id), count(*) <= 16 into v_member_ids, v_is_small
            from public.conversation_members as o
            where o.conversation_id = v_conversation_ids[i] and o.left_at is null;
            update public.conversation_members as m
            set shared_delivered_seq = v_seqs[i]
            where
                m.conversation_id = v_conversation_ids[i]
                and m.user_id = v_me
                and m.left_at is null
                and m.shared_delivered_seq < v_seqs[i]
            returning m.* into v_member;
            if private.has_blocked(v_other, v_me) then
                v_member_ids := array[v_me];
            end if;
            -- In a larger group delivery is stored and shown, but not announced: it would be a message per member and message.
            if found and v_is_small then
                v_position := private.move_heads(v_member_ids, v_conversation.position);
                update public.conversations as c
                set event_seq = c.event_seq + 1, position = v_position
                where c.id = v_conversation_ids[i];
                update public.conversation_members as o
                set changed_position = v_position
                where o.conversation_id = v_conversation_ids[i] and o.user_id = any(v_member_ids) and o.left_at is null;
                perform private.emit(
                    'receipt.updated', v_conversation_ids[i], v_member_ids, null, private.receipt_json(v_member)
                );
            end if;
        end loop;
    end if;
    perform private.note_seen(v_me);
    return jsonb_build_object('receipts', coalesce((
        select jsonb_agg(
            jsonb_build_object('conversationId', m.conversation_id) || private.receipt_json(m) order by m.conversation_id
        )
        from public.conversation_members as m
        where m.user_id = v_me and m.left_at is null and m.conversation_id in (
            select (r.receipt ->> 'conversationId')::uuid from jsonb_array_elements(p_receipts) as r (receipt)
        )
    ), '[]'::jsonb));
end;
$$;
comment on function private.mark_delivered(jsonb) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.mark_delivered.';
revoke all on function private.mark_delivered(jsonb) from public, anon, authenticated, service_role;
grant execute on function private.mark_delivered(jsonb) to authenticated;

create function public.mark_delivered(p_receipts jsonb default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.mark_delivered(p_receipts);
comment on function public.mark_delivered(jsonb) is
'Moves the caller''s delivered watermarks up, [{conversationId, seq}] of 1 to 100, and answers them as others see them: {receipts}. '
'Conversations of others are left out. Raises PT400 validation_failed, PT401 unauthenticated.';
revoke all on function public.mark_delivered(jsonb) from public, anon, authenticated, service_role;
grant execute on function public.mark_delivered(jsonb) to authenticated;

create function private.set_typing(p_conversation_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_settings private.settings;
    v_conversation public.conversations;
    v_other uuid;
begin
    select s.* into v_settings from private.settings as s;
    perform private.require_writer(v_settings);
    select c.* into v_conversation
    from public.conversations as c
    inner join public.conversation_members as m on c.id = m.conversation_id
    where c.id = p_conversation_id and m.user_id = v_me and m.left_at is null;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
    end if;
    v_other := private.direct_other(v_conversation, v_me);
    if v_other is not null and (not private.account_is_active(v_other) or private.is_blocked_pair(v_me, v_other)) then
        raise sqlstate 'PT403' using message = 'recipient_unavailable', detail = 'This person cannot be written to.';
    end if;
    perform private.note_seen(v_me);
    perform private.broadcast('typing', array[private.live_topic(
        v_conversation, v_me, v_other is not null and private.has_blocked(v_me, v_other)
    )], array[jsonb_build_object(
        'conversationId', p_conversation_id, 'userId', v_me, 'at', private.iso_time(clock_timestamp())
    )]);
    return '{}'::jsonb;
end;
$$;
comment on function private.set_typing(uuid) is
'Definer, because the live topic is read under nobody''s rows; acts for auth.uid() only. See public.set_typing.';
revoke all on function private.set_typing(uuid) from public, anon, authenticated, service_role;
grant execute on function private.set_typing(uuid) to authenticated;

create function public.set_typing(p_conversation_id uuid default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.set_typing(p_conversation_id);
comment on function public.set_typing(uuid) is
'Tells the members of a conversation, on its live topic, that the caller is typing: {}. Nothing is stored. Raises PT401 unauthenticated, '
'PT403 account_unavailable, account_muted or recipient_unavailable, PT404 not_found.';
revoke all on function public.set_typing(uuid) from public, anon, authenticated, service_role;
grant execute on function public.set_typing(uuid) to authenticated;
