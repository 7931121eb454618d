-- Purpose:   a person's own arrangement of a conversation (archive, pin, mute, mark unread), and a group's title.
-- Consumers: PATCH /api/messages/conversations/{id}; direct callers of the same RPC.
-- Locks:     none on existing tables. At run time: the conversation, heads by user id, members.
-- Undo:      drop function public.update_conversation(uuid, jsonb); drop function private.update_conversation(uuid, jsonb);
--            drop function private.check_members(jsonb, jsonb);
set lock_timeout = '4s';

create function private.check_members(p_object jsonb, p_types jsonb)
returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_name text;
begin
    if jsonb_typeof(p_object) is distinct from 'object' then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The changes must be a JSON object.', hint = '';
    end if;
    select o.key into v_name
    from jsonb_each(p_object) as o (key, value)
    where not coalesce(p_types -> o.key ? jsonb_typeof(o.value), false)
    order by o.key
    limit 1;
    if found then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'There is no such member, or its value has another type.',
            hint = '/' || left(regexp_replace(v_name, '[^A-Za-z0-9_]', '', 'g'), 100);
    end if;
end;
$$;
comment on function private.check_members(jsonb, jsonb) is
'Raises PT400 validation_failed unless p_object is an object with members of p_types only, {name: [JSON types]}.';
revoke all on function private.check_members(jsonb, jsonb) from public, anon, authenticated, service_role;

create function private.update_conversation(p_conversation_id uuid, p_changes jsonb)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
    v_conversation public.conversations;
    v_me_before public.conversation_members;
    v_me_after public.conversation_members;
    v_settings private.settings;
    v_refusal jsonb;
    v_renames boolean;
    v_title constant text := private.normalize_line(p_changes ->> 'title');
    v_muted_until timestamptz;
    v_concerned uuid[] := array[v_me];
    v_position bigint;
    v_now timestamptz;
begin
    perform private.check_members(p_changes, '{
        "archived": ["boolean"], "pinned": ["boolean"], "markedUnread": ["boolean"], "mutedUntil": ["string", "null"],
        "title": ["string"]
    }');
    if p_changes ? 'title' and coalesce(char_length(v_title), 0) not between 1 and 120 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The title must have 1 to 120 characters after normalisation.', hint = '/title';
    end if;
    if p_changes ->> 'mutedUntil' is not null then
        if p_changes ->> 'mutedUntil' !~ '^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$' then
            raise sqlstate 'PT400' using
                message = 'validation_failed', detail = 'mutedUntil must be an RFC 3339 time or null.', hint = '/mutedUntil';
        end if;
        begin
            v_muted_until := (p_changes ->> 'mutedUntil')::timestamptz;
        exception
            when datetime_field_overflow or invalid_datetime_format or invalid_time_zone_displacement_value then
                v_muted_until := 'infinity';
        end;
        if v_muted_until >= '10000-01-01T00:00:00Z' then
            raise sqlstate 'PT400' using
                message = 'validation_failed', detail = 'mutedUntil must be a time before the year 10000.', hint = '/mutedUntil';
        end if;
    end if;

    select c.* into v_conversation
    from public.conversations as c
    where c.id = p_conversation_id and exists (
        select 1
        from public.conversation_members as m
        where m.conversation_id = c.id and m.user_id = v_me and m.left_at is null
    )
    for no key update;
    -- Asked again under the lock: the membership may have ended while we waited.
    select m.* into v_me_before
    from public.conversation_members as m
    where m.conversation_id = v_conversation.id and m.user_id = v_me and m.left_at is null;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
    end if;
    if p_changes ? 'title' and v_conversation.kind <> 'group' then
        raise sqlstate 'PT422' using message = 'not_a_group', detail = 'Only a group has a title and members to manage.';
    end if;
    if p_changes ? 'title' and v_me_before.role not in ('owner', 'admin') then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only owners and admins may change the title.';
    end if;

    v_now := clock_timestamp();
    v_me_after := v_me_before;
    if p_changes ? 'archived' then
        v_me_after.archived_at := case when (p_changes ->> 'archived')::boolean then coalesce(v_me_before.archived_at, v_now) end;
    end if;
    if p_changes ? 'pinned' then
        v_me_after.pinned_at := case when (p_changes ->> 'pinned')::boolean then coalesce(v_me_before.pinned_at, v_now) end;
    end if;
    if p_changes ? 'mutedUntil' then
        v_me_after.muted_until := case when v_muted_until > v_now then v_muted_until end;
    end if;
    if p_changes ? 'markedUnread' then
        v_me_after.marked_unread := (p_changes ->> 'markedUnread')::boolean;
    end if;
    v_renames := p_changes ? 'title' and v_title <> v_conversation.title;
    if v_renames then
        -- New words before others, like an edit.
        select s.* into v_settings from private.settings as s;
        perform private.require_writer(v_settings);
        v_refusal := private.refuse_line(v_me, v_title, '/title');
        if v_refusal is not null then
            return v_refusal;
        end if;
        perform private.take_pace(v_me, 'edit', v_settings.edit_count_max, v_settings.edit_pace_window_s);
    end if;

    -- What is so already changes nothing, so a repeat tells nobody.
    if v_renames or v_me_after is distinct from v_me_before then
        if v_renames then
            v_concerned := array(
                select m.user_id
                from public.conversation_members as m
                where m.conversation_id = p_conversation_id and m.left_at is null
            );
        end if;
        v_position := private.move_heads(v_concerned, v_conversation.position);
        if v_renames then
            update public.conversations as c
            set title = v_title, event_seq = c.event_seq + 1, position = v_position
            where c.id = p_conversation_id;
        end if;
        update public.conversation_members as m
        set changed_position = v_position
        where m.conversation_id = p_conversation_id and m.user_id = any(v_concerned) and m.left_at is null;
        update public.conversation_members as m
        set
            archived_at = v_me_after.archived_at,
            pinned_at = v_me_after.pinned_at,
            muted_until = v_me_after.muted_until,
            marked_unread = v_me_after.marked_unread
        where m.conversation_id = p_conversation_id and m.user_id = v_me;
        perform private.emit('conversation.updated', p_conversation_id, v_concerned, null, null);
    end if;
    return jsonb_build_object('conversation', private.conversation_json(v_me, p_conversation_id));
end;
$$;
comment on function private.update_conversation(uuid, jsonb) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.update_conversation.';
revoke all on function private.update_conversation(uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function private.update_conversation(uuid, jsonb) to authenticated;

create function public.update_conversation(p_conversation_id uuid default null, p_changes jsonb default '{}')
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.update_conversation(p_conversation_id, p_changes);
comment on function public.update_conversation(uuid, jsonb) is
'Changes what p_changes names, {archived, pinned, markedUnread: boolean, mutedUntil: time or null} for the caller alone, {title} of a '
'group for all: {conversation}. A mutedUntil that has passed unmutes. Raises PT400 validation_failed, PT401 unauthenticated, '
'PT403 forbidden or account_muted, PT404 not_found, PT422 not_a_group, PT429 rate_limited; answers 422 text_rejected.';
revoke all on function public.update_conversation(uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.update_conversation(uuid, jsonb) to authenticated;
