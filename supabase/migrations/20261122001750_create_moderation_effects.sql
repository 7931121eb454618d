-- Purpose:   what moderation does to messages: release or refuse what is held, hide and show again, lift masks.
-- Consumers: the moderators' functions, the classifier; host applications call allow_contact.
-- Locks:     none on existing tables. At run time: the author's pace row (release only), the conversation, heads by user id,
--            messages and members.
-- Undo:      drop function public.allow_contact(uuid, boolean); drop function private.allow_contact(uuid, boolean);
--            drop function private.restore_message(uuid); drop function private.hide_message(uuid);
--            drop function private.show_message(public.messages, text, text, boolean);
--            drop function private.reopen_pending(uuid); drop function private.reject_pending(uuid);
--            drop function private.release_pending(uuid); drop function private.is_masked_for_more(uuid);
set lock_timeout = '4s';

create function private.is_masked_for_more(p_message_id uuid)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return exists (
        select 1
        from private.verdicts as v
        where v.message_id = p_message_id and jsonb_path_exists(v.rules, '$[*] ? (@.action == "mask" && @.kind <> "contact")')
    );
end;
$$;
comment on function private.is_masked_for_more(uuid) is
'Whether rules about something else than contact details masked this message: what is sealed cannot be judged again.';
revoke all on function private.is_masked_for_more(uuid) from public, anon, authenticated, service_role;

create function private.release_pending(p_message_id uuid)
returns text
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_pending private.pending_messages;
    v_conversation public.conversations;
begin
    select p.* into v_pending from private.pending_messages as p where p.message_id = p_message_id;
    if not found then
        return 'gone';
    end if;
    -- First in the order of locks: a retry of the author sees the message held or sent, never neither.
    perform private.lock_pace(v_pending.from_user_id, 'send');
    select c.* into v_conversation
    from public.conversations as c
    where c.id = v_pending.conversation_id
    for no key update;
    if
        not private.account_is_active(v_pending.from_user_id)
        or (v_conversation.kind = 'direct' and (
            private.is_blocked_pair(v_conversation.direct_low, v_conversation.direct_high)
            or not private.account_is_active(private.direct_other(v_conversation, v_pending.from_user_id))
        ))
        or not exists (
            select 1
            from public.conversation_members as m
            where m.conversation_id = v_conversation.id and m.user_id = v_pending.from_user_id and m.left_at is null
        )
    then
        return 'undeliverable';
    end if;
    delete from private.pending_messages as p where p.message_id = p_message_id returning p.* into v_pending;
    if not found then
        return 'gone';
    end if;
    -- Masked by the rules as they are when others read it first. What is sealed keeps the verdict it came with.
    if v_pending.is_sensitive then
        if v_conversation.contact_allowed_at is not null and not private.is_masked_for_more(p_message_id) then
            v_pending.masked_body := null;
        end if;
    else
        v_pending.masked_body := (
            private.judge_text(
                v_pending.body, private.moderation_fold(v_pending.body), v_conversation.contact_allowed_at is not null
            )
        ).masked_body;
    end if;
    perform private.insert_message(v_conversation, v_pending, s) from private.settings as s;
    return 'released';
end;
$$;
comment on function private.release_pending(uuid) is
'Makes a message of a held one, now, with the next seq: released. undeliverable: author or recipient is gone, or they have blocked each '
'other; it stays held. gone: it was withdrawn or released already. The caller has checked rights.';
revoke all on function private.release_pending(uuid) from public, anon, authenticated, service_role;

create function private.reject_pending(p_message_id uuid)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_pending private.pending_messages;
    v_conversation public.conversations;
begin
    select p.* into v_pending from private.pending_messages as p where p.message_id = p_message_id;
    select c.* into v_conversation
    from public.conversations as c
    where c.id = v_pending.conversation_id
    for no key update;
    update private.pending_messages as p
    set state = 'rejected', decided_at = clock_timestamp()
    where p.message_id = p_message_id and p.state = 'pending'
    returning p.* into v_pending;
    if not found then
        return false;
    end if;
    perform private.tell_author(v_conversation, v_pending.from_user_id);
    return true;
end;
$$;
comment on function private.reject_pending(uuid) is
'Refuses a held message and tells its author; false when it is not waiting. The caller has checked rights.';
revoke all on function private.reject_pending(uuid) from public, anon, authenticated, service_role;

create function private.reopen_pending(p_message_id uuid)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_pending private.pending_messages;
    v_conversation public.conversations;
begin
    select c.* into v_conversation
    from public.conversations as c
    where c.id = (select p.conversation_id from private.pending_messages as p where p.message_id = p_message_id)
    for no key update;
    update private.pending_messages as p
    set state = 'pending', decided_at = null
    where p.message_id = p_message_id and p.state = 'rejected'
    returning p.* into v_pending;
    if not found then
        return false;
    end if;
    perform private.tell_author(v_conversation, v_pending.from_user_id);
    return true;
end;
$$;
comment on function private.reopen_pending(uuid) is
'Lets a refused message wait again; false when it was not refused. The caller has checked rights.';
revoke all on function private.reopen_pending(uuid) from public, anon, authenticated, service_role;

create function private.show_message(p_message public.messages, p_body text, p_state text, p_is_masked boolean)
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
    v_unread_change constant integer := (p_state = 'visible')::integer - (p_message.state = 'visible')::integer;
    v_position bigint;
    v_event_seq bigint;
begin
    select private.move_heads(v_member_ids, c.position) into v_position
    from public.conversations as c
    where c.id = p_message.conversation_id;
    -- Under the heads, which a block locks as well.
    v_blocker_ids := private.blockers_among(v_member_ids, p_message.from_user_id);
    update public.conversations as c
    set event_seq = c.event_seq + 1, position = v_position
    where c.id = p_message.conversation_id
    returning c.event_seq into v_event_seq;
    update public.messages as m
    set body = p_body, state = p_state, is_masked = p_is_masked, event_seq = v_event_seq, changed_position = v_position
    where m.id = p_message.id;
    update public.conversation_members as m
    set
        changed_position = v_position,
        unread_count = m.unread_count + v_unread_change * (
            m.user_id <> p_message.from_user_id and m.user_id <> all(v_blocker_ids)
            and p_message.seq > greatest(m.last_read_seq, m.visible_from_seq - 1)
        )::integer
    where m.conversation_id = p_message.conversation_id and m.left_at is null;
    perform private.emit(
        'message.updated', p_message.conversation_id, v_member_ids,
        private.message_page(null, p_message.conversation_id, p_message.seq, p_message.seq + 1, 1) -> 0, null
    );
end;
$$;
comment on function private.show_message(public.messages, text, text, boolean) is
'Changes how a message of a locked conversation is shown, and who has how much unread, and tells everybody; it is not an edit.';
revoke all on function private.show_message(public.messages, text, text, boolean) from public, anon, authenticated, service_role;

create function private.hide_message(p_message_id uuid)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_message public.messages;
begin
    perform 1
    from public.conversations as c
    where c.id = (select m.conversation_id from public.messages as m where m.id = p_message_id)
    for no key update;
    select m.* into v_message from public.messages as m where m.id = p_message_id;
    if v_message.state is distinct from 'visible' then
        return false;
    end if;
    -- Of a masked message the true text is there already; the mask is made anew when it is shown again.
    insert into private.originals (message_id, body)
    select p_message_id, v_message.body
    where v_message.body is not null
    on conflict (message_id) do nothing;
    perform private.show_message(v_message, null, 'hidden', v_message.is_masked);
    return true;
end;
$$;
comment on function private.hide_message(uuid) is
'Takes a message from everybody''s eyes and keeps its text for moderators; false when it is not visible. The caller has checked rights.';
revoke all on function private.hide_message(uuid) from public, anon, authenticated, service_role;

create function private.restore_message(p_message_id uuid)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_message public.messages;
    v_body text;
    v_masked text;
begin
    perform 1
    from public.conversations as c
    where c.id = (select m.conversation_id from public.messages as m where m.id = p_message_id)
    for no key update;
    select m.* into v_message from public.messages as m where m.id = p_message_id;
    if v_message.state is distinct from 'hidden' then
        return false;
    end if;
    -- Somebody has looked: what the classifier was still to say does not hide it once more.
    delete from private.classifier_jobs as j where j.message_id = p_message_id;
    if v_message.is_sensitive then
        perform private.show_message(v_message, null, 'visible', v_message.is_masked);
        return true;
    end if;
    select o.body into v_body from private.originals as o where o.message_id = p_message_id;
    if v_message.is_masked then
        v_masked := (private.judge_text(v_body, private.moderation_fold(v_body), (
            select c.contact_allowed_at is not null
            from public.conversations as c
            where c.id = v_message.conversation_id
        ))).masked_body;
    end if;
    if v_masked is null then
        delete from private.originals as o where o.message_id = p_message_id;
    end if;
    perform private.show_message(v_message, coalesce(v_masked, v_body), 'visible', v_masked is not null);
    return true;
end;
$$;
comment on function private.restore_message(uuid) is
'Shows a hidden message again, masked if it was; false when it is not hidden. The caller has checked rights.';
revoke all on function private.restore_message(uuid) from public, anon, authenticated, service_role;

create function private.allow_contact(p_conversation_id uuid, p_is_allowed boolean)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_conversation public.conversations;
    v_message public.messages;
    v_body text;
    v_masked text;
    v_count integer := 0;
begin
    select c.* into v_conversation
    from public.conversations as c
    where c.id = p_conversation_id
    for no key update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation.';
    end if;
    if p_is_allowed is null then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'p_is_allowed must be true or false.', hint = '/isAllowed';
    end if;
    update public.conversations as c
    set contact_allowed_at = case when p_is_allowed then coalesce(c.contact_allowed_at, clock_timestamp()) end
    where c.id = p_conversation_id;
    if p_is_allowed then
        -- Newest first, and not without end: every message is an event of its own. The next call goes on.
        for v_message in
            select m.*
            from public.messages as m
            where m.conversation_id = p_conversation_id and m.is_masked and m.state <> 'deleted'
            order by m.seq desc
            limit 500
        loop
            -- What other rules cover stays covered; of what is hidden the text waits for being shown again.
            continue when v_message.is_sensitive and private.is_masked_for_more(v_message.id);
            select o.body into v_body from private.originals as o where o.message_id = v_message.id;
            v_masked := case
                when not v_message.is_sensitive then (private.judge_text(v_body, private.moderation_fold(v_body), true)).masked_body
            end;
            continue when v_masked is not null and v_masked is not distinct from v_message.body;
            if v_message.state = 'visible' and v_masked is null then
                delete from private.originals as o where o.message_id = v_message.id;
            end if;
            perform private.show_message(
                v_message, case when v_message.state = 'visible' then coalesce(v_masked, v_body) end, v_message.state,
                v_masked is not null
            );
            v_count := v_count + 1;
        end loop;
    end if;
    return jsonb_build_object('conversationId', p_conversation_id, 'isAllowed', p_is_allowed, 'unmaskedCount', v_count);
end;
$$;
comment on function private.allow_contact(uuid, boolean) is
'Definer, because no API role may write our tables. For triggers of the host application, and see public.allow_contact.';
revoke all on function private.allow_contact(uuid, boolean) from public, anon, authenticated, service_role;
grant execute on function private.allow_contact(uuid, boolean) to service_role;

create function public.allow_contact(p_conversation_id uuid default null, p_is_allowed boolean default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.allow_contact(p_conversation_id, p_is_allowed);
comment on function public.allow_contact(uuid, boolean) is
'For the host application''s server only (service_role), for example when a gig is booked: from now on contact details are shown in this '
'conversation, and so are those of its masked messages, at most 500 in a call: {conversationId, isAllowed, unmaskedCount}. False: new '
'messages are masked again. Raises PT400 validation_failed, PT404 not_found.';
revoke all on function public.allow_contact(uuid, boolean) from public, anon, authenticated, service_role;
grant execute on function public.allow_contact(uuid, boolean) to service_role;
