-- Purpose:   authors edit and delete their messages; earlier versions are kept.
-- Consumers: PATCH and DELETE /api/messages/{id}, GET /api/messages/{id}/history; direct callers of the same RPCs.
-- Locks:     none on existing tables. At run time: the conversation, the author's edit pace row, heads by user id, the message
--            and members.
-- Undo:      drop function public.message_history(uuid); drop function private.message_history(uuid);
--            drop function public.delete_message(uuid); drop function private.delete_message(uuid);
--            drop function public.edit_message(uuid, text); drop function private.edit_message(uuid, text);
--            drop function private.replace_body(public.messages, text, private.judgement);
--            drop function private.lock_own_message(uuid, uuid);
--            drop table private.message_versions;
set lock_timeout = '4s';

create table private.message_versions (
    message_id uuid not null,
    version integer not null,
    body text not null,
    replaced_at timestamptz not null,
    constraint message_versions_pkey primary key (message_id, version)
);
revoke all on table private.message_versions from public, anon, authenticated, service_role;
comment on table private.message_versions is 'What a message said before each edit and before its deletion. Outlives the message.';
comment on column private.message_versions.message_id is 'public.messages.id; no foreign key.';
comment on column private.message_versions.version is '1 is the text as it was sent.';
comment on column private.message_versions.body is 'The text of this version.';
comment on column private.message_versions.replaced_at is 'When the next version, or the deletion, took its place.';

create function private.lock_own_message(p_me uuid, p_message_id uuid)
returns public.messages
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_message public.messages;
begin
    select m.* into v_message
    from public.messages as m
    inner join public.conversation_members as me on m.conversation_id = me.conversation_id
    where m.id = p_message_id and me.user_id = p_me and me.left_at is null and me.visible_from_seq <= m.seq;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such message for you.';
    end if;
    if v_message.from_user_id <> p_me then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only its author may change a message.';
    end if;
    perform 1 from public.conversations as c where c.id = v_message.conversation_id for no key update;
    -- As it is under the lock; every change of a message takes it first.
    select m.* into v_message
    from public.messages as m
    inner join public.conversation_members as me on m.conversation_id = me.conversation_id
    where m.id = p_message_id and me.user_id = p_me and me.left_at is null;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such message for you.';
    end if;
    return v_message;
end;
$$;
comment on function private.lock_own_message(uuid, uuid) is
'Locks the conversation of the caller''s own message and returns the message. Raises PT403 forbidden, PT404 not_found.';
revoke all on function private.lock_own_message(uuid, uuid) from public, anon, authenticated, service_role;

create function private.replace_body(p_message public.messages, p_body text, p_verdict private.judgement)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_member_ids constant uuid[] := array(
        select m.user_id
        from public.conversation_members as m
        where m.conversation_id = p_message.conversation_id and m.left_at is null
    );
    v_blocker_ids uuid[];
    v_position bigint;
    v_event_seq bigint;
    v_now timestamptz;
begin
    select private.move_heads(v_member_ids, c.position) into v_position
    from public.conversations as c
    where c.id = p_message.conversation_id;
    -- Under the heads, which a block locks as well.
    v_blocker_ids := private.blockers_among(v_member_ids, p_message.from_user_id);
    v_now := clock_timestamp();

    -- A sensitive text is in its envelope, which goes with the message.
    insert into private.message_versions (message_id, version, body, replaced_at)
    select p_message.id, count(*) + 1, p_message.body, v_now
    from private.message_versions as v
    where v.message_id = p_message.id
    having p_message.body is not null;
    if p_body is not null then
        delete from private.originals as o where o.message_id = p_message.id;
        insert into private.originals (message_id, body)
        select p_message.id, p_body
        where p_verdict.masked_body is not null;
    end if;
    update public.conversations as c
    set event_seq = c.event_seq + 1, position = v_position
    where c.id = p_message.conversation_id
    returning c.event_seq into v_event_seq;
    update public.messages as m
    set
        body = coalesce(p_verdict.masked_body, p_body),
        warning = case when p_verdict.action = 'warn' then p_verdict.label end,
        is_masked = p_verdict.masked_body is not null,
        state = case when p_body is null then 'deleted' else m.state end,
        edited_at = case when p_body is null then m.edited_at else v_now end,
        deleted_at = case when p_body is null then v_now end,
        event_seq = v_event_seq,
        changed_position = v_position
    where m.id = p_message.id;
    update public.conversation_members as m
    set
        changed_position = v_position,
        -- A deleted message was counted by whoever had not read it.
        unread_count = m.unread_count - (
            p_body is null and m.user_id <> p_message.from_user_id
            and m.user_id <> all(v_blocker_ids) and p_message.seq > greatest(m.last_read_seq, m.visible_from_seq - 1)
        )::integer
    where m.conversation_id = p_message.conversation_id and m.left_at is null;
    if p_body is not null then
        perform private.enqueue_classification(p_message.id);
    end if;
    perform private.emit(
        case when p_body is null then 'message.deleted' else 'message.updated' end,
        p_message.conversation_id, v_member_ids,
        private.message_page(null, p_message.conversation_id, p_message.seq, p_message.seq + 1, 1) -> 0, null
    );
end;
$$;
comment on function private.replace_body(public.messages, text, private.judgement) is
'Writes another text to a visible message of a locked conversation, as the verdict lets it be read, or null to delete it, and keeps the '
'one before.';
revoke all on function private.replace_body(public.messages, text, private.judgement) from public, anon, authenticated, service_role;

create function private.edit_message(p_message_id uuid, p_body text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_body constant text := private.normalize_text(p_body);
    v_message public.messages;
    v_settings private.settings;
    v_verdict private.judgement;
begin
    if v_body is null or char_length(v_body) not between 1 and 4000 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The text must have 1 to 4,000 characters after normalisation.', hint = '/body';
    end if;
    select s.* into v_settings from private.settings as s;
    perform private.require_writer(v_settings);
    v_message := private.lock_own_message(v_me, p_message_id);
    if v_message.state <> 'visible' then
        raise sqlstate 'PT409' using message = 'message_deleted', detail = 'A deleted or hidden message cannot be edited.';
    end if;
    if v_message.is_sensitive then
        raise sqlstate 'PT422' using
            message = 'message_sensitive', detail = 'A sensitive message cannot be edited: delete it and send another.';
    end if;
    -- The same text again changes nothing, so a retry is answered even when the window has closed meanwhile.
    if v_body <> coalesce((select o.body from private.originals as o where o.message_id = v_message.id), v_message.body) then
        if v_message.created_at + make_interval(secs => v_settings.edit_window_s) <= clock_timestamp() then
            raise sqlstate 'PT422' using
                message = 'edit_window_closed',
                detail = format('A message can be edited for %s seconds.', v_settings.edit_window_s);
        end if;
        -- New words in an old message reach the other like a new one. Under the conversation's lock, like a send.
        if
            v_message.to_user_id is not null
            and (not private.account_is_active(v_message.to_user_id) or private.is_blocked_pair(v_me, v_message.to_user_id))
        then
            raise sqlstate 'PT403' using message = 'recipient_unavailable', detail = 'This person cannot be written to.';
        end if;
        perform private.take_pace(v_me, 'edit', v_settings.edit_count_max, v_settings.edit_pace_window_s);
        v_verdict := private.judge_text(v_body, private.moderation_fold(v_body), (
            select c.contact_allowed_at is not null
            from public.conversations as c
            where c.id = v_message.conversation_id
        ));
        if v_verdict.action <> 'allow' then
            perform private.keep_verdict(v_me, v_message.conversation_id, v_message.id, null, v_body, v_verdict);
        end if;
        -- What was read already cannot wait for a moderator: an edit is accepted or not.
        if v_verdict.action in ('hold', 'reject') then
            return private.refuse(422, 'message_rejected', v_verdict.explanation, null);
        end if;
        perform private.replace_body(v_message, v_body, v_verdict);
    end if;
    return jsonb_build_object(
        'message', private.message_page(
            v_me, v_message.conversation_id, v_message.seq, v_message.seq + 1, 1
        ) -> 0
    );
end;
$$;
comment on function private.edit_message(uuid, text) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.edit_message.';
revoke all on function private.edit_message(uuid, text) from public, anon, authenticated, service_role;
grant execute on function private.edit_message(uuid, text) to authenticated;

create function public.edit_message(p_message_id uuid default null, p_body text default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.edit_message(p_message_id, p_body);
comment on function public.edit_message(uuid, text) is
'Replaces the text of the caller''s own message: {message}. Raises PT400 validation_failed, PT401 unauthenticated, PT403 forbidden, '
'account_unavailable, account_muted or recipient_unavailable, PT404 not_found, PT409 message_deleted, PT422 edit_window_closed or '
'message_sensitive, PT429 rate_limited. What moderation refuses is answered with status 422, as by send_message.';
revoke all on function public.edit_message(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.edit_message(uuid, text) to authenticated;

create function private.delete_message(p_message_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
    v_message public.messages;
    v_pending private.pending_messages;
    v_conversation public.conversations;
begin
    -- What nobody has read can be withdrawn without a trace in the conversation.
    select c.* into v_conversation
    from public.conversations as c
    where c.id = (
        select p.conversation_id
        from private.pending_messages as p
        where p.message_id = p_message_id and p.from_user_id = v_me
    )
    for no key update;
    delete from private.pending_messages as p
    where p.message_id = p_message_id and p.from_user_id = v_me
    returning p.* into v_pending;
    if found then
        perform private.tell_author(v_conversation, v_me);
        update private.moderation_items as i
        set status = 'decided', decided_at = clock_timestamp(), decision = 'withdrawn'
        where i.message_id = p_message_id and i.status = 'open';
        return jsonb_build_object('message', private.pending_json(v_pending)::jsonb - 'envelope' || jsonb_build_object(
            'state', 'deleted', 'body', null, 'deletedAt', private.iso_time(clock_timestamp())
        ));
    end if;
    v_message := private.lock_own_message(v_me, p_message_id);
    if v_message.state = 'visible' then
        perform private.replace_body(v_message, null, null);
    end if;
    return jsonb_build_object(
        'message', private.message_page(
            v_me, v_message.conversation_id, v_message.seq, v_message.seq + 1, 1
        ) -> 0
    );
end;
$$;
comment on function private.delete_message(uuid) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.delete_message.';
revoke all on function private.delete_message(uuid) from public, anon, authenticated, service_role;
grant execute on function private.delete_message(uuid) to authenticated;

create function public.delete_message(p_message_id uuid default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.delete_message(p_message_id);
comment on function public.delete_message(uuid) is
'Deletes the caller''s own message for everybody; a tombstone without text stays, so seq has no gap: {message}. A repeat changes nothing. '
'A held message is withdrawn and leaves none. '
'Raises PT401 unauthenticated, PT403 forbidden, PT404 not_found.';
revoke all on function public.delete_message(uuid) from public, anon, authenticated, service_role;
grant execute on function public.delete_message(uuid) to authenticated;

create function private.message_history(p_message_id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_message public.messages;
begin
    select m.* into v_message
    from public.messages as m
    inner join public.conversation_members as me on m.conversation_id = me.conversation_id
    where m.id = p_message_id and me.user_id = v_me and me.left_at is null and me.visible_from_seq <= m.seq;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such message for you.';
    end if;
    -- What was deleted or hidden, also by a block of the caller's, is so in all its versions.
    return jsonb_build_object('versions', coalesce((
        select jsonb_agg(
            jsonb_build_object('version', t.version, 'body', t.body, 'createdAt', private.iso_time(t.created_at))
            || case
                when v_message.is_sensitive then jsonb_build_object(
                    'masked', v_message.is_masked, 'envelope', private.envelope_json(p_message_id)
                )
                else '{}'
            end
            order by t.version
        )
        from (
            select
                b.version,
                b.body,
                coalesce(lag(b.replaced_at) over (order by b.version), v_message.created_at) as created_at
            from (
                select v.version, v.body, v.replaced_at
                from private.message_versions as v
                where v.message_id = p_message_id
                union all
                select count(*) + 1 as version, v_message.body as body, null as replaced_at
                from private.message_versions as v
                where v.message_id = p_message_id
            ) as b
            -- The newest hundred: texts can be long and edits many.
            order by b.version desc
            limit 100
        ) as t
        where
            v_message.state = 'visible'
            and (v_message.to_user_id is not null or not private.has_blocked(v_me, v_message.from_user_id))
    ), '[]'::jsonb));
end;
$$;
comment on function private.message_history(uuid) is
'Definer, because versions are private; reads for auth.uid() only. See public.message_history.';
revoke all on function private.message_history(uuid) from public, anon, authenticated, service_role;
grant execute on function private.message_history(uuid) to authenticated;

create function public.message_history(p_message_id uuid default null)
returns jsonb
language sql
stable
security invoker
set search_path = ''
return private.message_history(p_message_id);
comment on function public.message_history(uuid) is
'The newest 100 texts a visible message has had, oldest first, the last one in force: {versions}; none for a deleted or hidden one. Raises '
'PT401 unauthenticated, PT404 not_found.';
revoke all on function public.message_history(uuid) from public, anon, authenticated, service_role;
grant execute on function public.message_history(uuid) to authenticated;
