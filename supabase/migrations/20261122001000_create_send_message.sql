-- Purpose:   one entry for sending: it starts the conversation when need be, and a retry is never a second message.
-- Consumers: POST /api/messages/send; direct callers of /rest/v1/rpc/send_message meet the same rules and answers.
-- Locks:     none on existing tables. At run time, in this order: the sender's pace row, the advisory lock of the pair
--            (new conversations only), the conversation, heads by user id, members, the recipient's pace row.
-- Undo:      drop function public.send_message(text, uuid, uuid, uuid, uuid);
--            drop function private.send_message(text, uuid, uuid, uuid, uuid);
--            drop function private.open_direct(uuid, uuid, uuid, private.settings);
--            drop function private.find_direct(uuid, uuid, uuid);
set lock_timeout = '4s';

create function private.find_direct(p_a uuid, p_b uuid, p_gig_id uuid)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
    return (
        select c.id
        from public.conversations as c
        where
            c.kind = 'direct'
            and c.direct_low = least(p_a, p_b)
            and c.direct_high = greatest(p_a, p_b)
            and (c.gig_id = p_gig_id or (c.gig_id is null and p_gig_id is null))
    );
end;
$$;
comment on function private.find_direct(uuid, uuid, uuid) is
'The direct conversation of two people about a gig (or none), if there is one.';
revoke all on function private.find_direct(uuid, uuid, uuid) from public, anon, authenticated, service_role;

create function private.open_direct(p_me uuid, p_other uuid, p_gig_id uuid, p_settings private.settings)
returns uuid
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_conversation_id uuid;
    v_is_first_contact boolean;
begin
    -- Both may write first at the same instant, and one may block the other: one at a time.
    perform pg_advisory_xact_lock(hashtextextended(least(p_me, p_other)::text || greatest(p_me, p_other)::text, 20261122));
    v_conversation_id := private.find_direct(p_me, p_other, p_gig_id);
    if v_conversation_id is not null then
        return v_conversation_id;
    end if;

    if p_gig_id is not null and not private.gig_allows(p_gig_id, p_me, p_other) then
        raise sqlstate 'PT403' using
            message = 'recipient_unavailable', detail = 'This person cannot be written to.';
    end if;
    v_is_first_contact := not exists (
        select 1
        from public.conversations as c
        where c.kind = 'direct' and c.direct_low = least(p_me, p_other) and c.direct_high = greatest(p_me, p_other)
    );
    perform private.take_pace(
        p_me, 'new_conversation', p_settings.new_conversation_count_max, p_settings.new_conversation_window_s
    );

    insert into public.conversations (kind, gig_id, created_by, direct_low, direct_high)
    values ('direct', p_gig_id, p_me, least(p_me, p_other), greatest(p_me, p_other))
    returning id into v_conversation_id;
    insert into public.conversation_members (conversation_id, user_id)
    values (v_conversation_id, p_me), (v_conversation_id, p_other);
    perform private.create_heads(array[p_me, p_other]);
    if v_is_first_contact then
        perform private.lock_heads(array[p_me, p_other]);
        perform private.take_pace(
            p_other, 'first_contact', p_settings.first_contact_count_max, p_settings.first_contact_window_s
        );
    end if;
    return v_conversation_id;
end;
$$;
comment on function private.open_direct(uuid, uuid, uuid, private.settings) is
'Finds or makes the direct conversation, under the pair''s lock. Raises PT403 recipient_unavailable when the host''s gig_allows says no, '
'PT429 rate_limited when p_me starts too many conversations or p_other hears from too many strangers.';
revoke all on function private.open_direct(uuid, uuid, uuid, private.settings) from public, anon, authenticated, service_role;

create function private.send_message(
    p_body text, p_conversation_id uuid, p_to_user_id uuid, p_gig_id uuid, p_client_message_id uuid
)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_key constant uuid := coalesce(p_client_message_id, gen_random_uuid());
    v_body constant text := private.normalize_text(p_body);
    v_settings private.settings;
    v_sent_at timestamptz[];
    v_now timestamptz;
    v_conversation_id uuid;
    v_conversation public.conversations;
    v_other uuid := p_to_user_id;
    v_send_key private.send_keys;
    v_digest bytea;
    v_member_ids uuid[];
    v_position bigint;
    v_seq bigint;
    v_is_created boolean := false;
begin
    if v_body is null or char_length(v_body) not between 1 and 4000 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The text must have 1 to 4,000 characters after normalisation.', hint = '/body';
    end if;
    if p_conversation_id is null and p_to_user_id is null then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'Either conversationId or toUserId is needed.', hint = '/conversationId';
    end if;

    -- One send of a person at a time: what the key and the pace say below stays true until commit.
    v_sent_at := private.lock_pace(v_me, 'send');
    select s.* into v_settings from private.settings as s;
    perform private.require_writer(v_me, v_settings);

    if p_conversation_id is null then
        v_conversation_id := private.find_direct(v_me, p_to_user_id, p_gig_id);
    else
        select c.* into v_conversation
        from public.conversations as c
        inner join public.conversation_members as m on c.id = m.conversation_id
        where c.id = p_conversation_id and m.user_id = v_me and m.left_at is null;
        if not found then
            raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
        end if;
        if
            (p_to_user_id is not null and (
                v_conversation.kind <> 'direct' or p_to_user_id = v_me
                or p_to_user_id not in (v_conversation.direct_low, v_conversation.direct_high)
            ))
            or (p_gig_id is not null and p_gig_id is distinct from v_conversation.gig_id)
        then
            raise sqlstate 'PT422' using
                message = 'recipient_mismatch', detail = 'toUserId or gigId is not that of the conversation.';
        end if;
        v_conversation_id := p_conversation_id;
    end if;

    -- A known key is answered before pace and recipient are asked: an honest retry always learns what became of it.
    select k.* into v_send_key
    from private.send_keys as k
    where k.from_user_id = v_me and k.client_message_id = v_key;
    if found then
        v_digest := sha256(convert_to(v_conversation_id::text || ' ' || v_body, 'UTF8'));
        if v_digest is distinct from v_send_key.request_digest then
            raise sqlstate 'PT409' using
                message = 'idempotency_conflict', detail = 'This clientMessageId was used for another message.';
        end if;
        select m.seq into v_seq
        from public.messages as m
        inner join public.conversation_members as me on m.conversation_id = me.conversation_id
        where m.id = v_send_key.message_id and me.user_id = v_me and me.left_at is null and me.visible_from_seq <= m.seq;
        if not found then
            raise sqlstate 'PT404' using message = 'not_found', detail = 'The message is no longer there for you.';
        end if;
    else
        perform private.check_pace(v_sent_at, v_settings.send_count_max, v_settings.send_window_s, clock_timestamp());

        if v_conversation.kind = 'direct' then
            v_other := case v_conversation.direct_low when v_me then v_conversation.direct_high else v_conversation.direct_low end;
        end if;
        if v_other = v_me or (v_other is not null and not private.account_is_active(v_other)) then
            raise sqlstate 'PT403' using message = 'recipient_unavailable', detail = 'This person cannot be written to.';
        end if;
        if v_conversation_id is null then
            v_conversation_id := private.open_direct(v_me, v_other, p_gig_id, v_settings);
        end if;

        select c.* into v_conversation
        from public.conversations as c
        where c.id = v_conversation_id
        for no key update;
        select array_agg(m.user_id) into v_member_ids
        from public.conversation_members as m
        where m.conversation_id = v_conversation_id and m.left_at is null;
        if not coalesce(v_me = any(v_member_ids), false) then
            raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
        end if;
        v_position := private.move_heads(v_member_ids, v_conversation.position);
        v_now := clock_timestamp();
        v_seq := v_conversation.last_seq + 1;

        update public.conversations as c
        set last_seq = v_seq, event_seq = c.event_seq + 1, position = v_position, last_message_at = v_now
        where c.id = v_conversation_id;
        insert into public.messages (
            conversation_id, seq, event_seq, from_user_id, to_user_id, gig_id, client_message_id,
            body, created_at, changed_position
        )
        values (
            v_conversation_id, v_seq, v_conversation.event_seq + 1, v_me, v_other, v_conversation.gig_id, v_key,
            v_body, v_now, v_position
        )
        returning id into v_send_key.message_id;
        insert into private.send_keys (from_user_id, client_message_id, request_digest, message_id)
        values (
            v_me, v_key, sha256(convert_to(v_conversation_id::text || ' ' || v_body, 'UTF8')), v_send_key.message_id
        );
        update public.conversation_members as m
        set
            unread_count = m.unread_count + (m.user_id <> v_me)::integer,
            last_activity_at = v_now,
            archived_at = case when m.muted_until > v_now then m.archived_at end,
            changed_position = v_position
        where m.conversation_id = v_conversation_id and m.left_at is null;
        v_sent_at := private.keep_pace(v_me, 'send', v_sent_at, v_settings.send_window_s, v_now);
        v_is_created := true;
        perform private.note_seen(v_me);
        perform private.emit('message.created', v_conversation_id, v_member_ids, v_seq, null);
    end if;

    return jsonb_build_object(
        'message', private.message_page(v_me, v_conversation_id, v_seq, v_seq + 1, 1) -> 0,
        'conversation', private.conversation_json(v_me, v_conversation_id),
        'created', v_is_created,
        'pace', private.pace_json(v_sent_at, v_settings.send_count_max, v_settings.send_window_s, clock_timestamp())
    );
end;
$$;
comment on function private.send_message(text, uuid, uuid, uuid, uuid) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.send_message.';
revoke all on function private.send_message(text, uuid, uuid, uuid, uuid) from public, anon, authenticated, service_role;
grant execute on function private.send_message(text, uuid, uuid, uuid, uuid) to authenticated;

create function public.send_message(
    p_body text default null,
    p_conversation_id uuid default null,
    p_to_user_id uuid default null,
    p_gig_id uuid default null,
    p_client_message_id uuid default null
)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.send_message(p_body, p_conversation_id, p_to_user_id, p_gig_id, p_client_message_id);
comment on function public.send_message(text, uuid, uuid, uuid, uuid) is
'Sends one message to a conversation, or to a person (about a gig), once per (caller, p_client_message_id). Answers {message, '
'conversation, created, pace}; a replay has created = false and the message as it is now. Raises PT400 validation_failed, '
'PT401 unauthenticated, PT403 account_unavailable, account_muted or recipient_unavailable, PT404 not_found, PT409 idempotency_conflict, '
'PT422 recipient_mismatch, PT429 rate_limited.';
revoke all on function public.send_message(text, uuid, uuid, uuid, uuid) from public, anon, authenticated, service_role;
grant execute on function public.send_message(text, uuid, uuid, uuid, uuid) to authenticated;
