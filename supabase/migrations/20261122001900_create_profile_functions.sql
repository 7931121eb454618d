-- Purpose:   people read and edit their own profile.
-- Consumers: GET and PATCH /api/profile; direct callers of the same RPCs.
-- Locks:     none on existing tables.
-- Undo:      drop function public.update_profile(jsonb); drop function private.update_profile(jsonb);
--            drop function public.get_profile(); drop function private.get_profile();
--            drop function private.announce_profile(uuid); drop function private.own_profile_json(uuid);
--            drop function private.avatar_url_is_allowed(uuid, text);
set lock_timeout = '4s';

create function private.own_profile_json(p_user_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return jsonb_build_object('profile', private.profile_json(p_user_id)::jsonb || jsonb_build_object(
        'locale', (select p.locale from public.profiles as p where p.user_id = p_user_id),
        'privateReading', exists (select 1 from private.profile_settings as s where s.user_id = p_user_id and s.private_reading),
        'hidesLastSeen', exists (select 1 from private.profile_settings as s where s.user_id = p_user_id and s.hides_last_seen)
    ));
end;
$$;
comment on function private.own_profile_json(uuid) is '{profile}: Profile and what only its owner sees.';
revoke all on function private.own_profile_json(uuid) from public, anon, authenticated, service_role;

create function private.get_profile()
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return private.own_profile_json(private.require_caller());
end;
$$;
comment on function private.get_profile() is
'Definer, because private.own_profile_json takes any person; reads for auth.uid() only. See public.get_profile.';
revoke all on function private.get_profile() from public, anon, authenticated, service_role;
grant execute on function private.get_profile() to authenticated;

create function public.get_profile()
returns jsonb
language sql
stable
security invoker
set search_path = ''
return private.get_profile();
comment on function public.get_profile() is 'The caller''s own profile, {profile}: Profile and locale. Raises PT401 unauthenticated.';
revoke all on function public.get_profile() from public, anon, authenticated, service_role;
grant execute on function public.get_profile() to authenticated;

create function private.avatar_url_is_allowed(p_user_id uuid, p_url text)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    if char_length(p_url) > 2048 or p_url !~ '^https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[!-~]*)?$' then
        return false;
    end if;
    -- An object of one's own in the bucket must be there. A development machine serves it by plain http.
    if p_url ~ '^(https://[^/]+|http://(127\.0\.0\.1|localhost)(:\d+)?)/storage/v1/object/public/avatars/' then
        return exists (
            select 1
            from storage.objects as o
            where
                o.bucket_id = 'avatars'
                and o.name = substring(p_url from '/storage/v1/object/public/avatars/([^?#]+)')
                and split_part(o.name, '/', 1) = p_user_id::text
        );
    end if;
    return p_url ~ '^https://';
end;
$$;
comment on function private.avatar_url_is_allowed(uuid, text) is
'Whether this is an https URL in ASCII, or the public URL of an object of that person''s own in the bucket avatars.';
revoke all on function private.avatar_url_is_allowed(uuid, text) from public, anon, authenticated, service_role;

create function private.announce_profile(p_user_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_rooms uuid[];
    v_people uuid[];
    v_position bigint;
    v_card constant jsonb := private.profile_json(p_user_id);
begin
    -- The other people of the person's fifty liveliest direct conversations, and the person's own devices. Everybody else, and
    -- whoever is on either side of a block, meets the new card with the next answer it is part of.
    select array_agg(t.conversation_id), array_agg(distinct t.other_id) into v_rooms, v_people
    from (
        select m.conversation_id, case c.direct_low when p_user_id then c.direct_high else c.direct_low end as other_id
        from public.conversation_members as m
        inner join public.conversations as c on m.conversation_id = c.id
        where
            m.user_id = p_user_id
            and m.left_at is null
            and not m.is_archived
            and c.kind = 'direct'
            and not private.is_blocked_pair(p_user_id, private.direct_other(c, p_user_id))
        order by m.is_pinned desc, m.last_activity_at desc, m.conversation_id desc
        limit 50
    ) as t;
    v_people := coalesce(v_people, '{}') || p_user_id;
    perform private.create_heads(array[p_user_id]);
    v_position := private.move_heads(v_people, 0);
    update public.conversation_members as m
    set changed_position = v_position
    where m.conversation_id = any(v_rooms) and m.left_at is null;
    perform private.broadcast(
        'profile.updated',
        array_agg('user:' || h.user_id order by h.user_id),
        array_agg(jsonb_build_object(
            'id', gen_random_uuid(), 'type', 'profile.updated', 'position', h.position,
            'previousPosition', h.previous_position, 'profile', v_card,
            'unreadTotal', private.unread_totals(h.user_id) -> 'messages'
        ) order by h.user_id)
    )
    from private.heads as h
    where h.user_id = any(v_people);
end;
$$;
comment on function private.announce_profile(uuid) is
'Tells those who see a person most that the card changed: profile.updated, one event each.';
revoke all on function private.announce_profile(uuid) from public, anon, authenticated, service_role;

create function private.update_profile(p_changes jsonb)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
    v_name constant text := private.normalize_line(p_changes ->> 'displayName');
    v_refusal jsonb;
begin
    perform private.check_members(p_changes, '{
        "displayName": ["string"], "avatarUrl": ["string", "null"], "locale": ["string", "null"],
        "privateReading": ["boolean"], "hidesLastSeen": ["boolean"]
    }');
    if p_changes ? 'displayName' and coalesce(char_length(v_name), 0) not between 1 and 80 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The name must have 1 to 80 characters after normalisation.',
            hint = '/displayName';
    end if;
    if not private.avatar_url_is_allowed(v_me, p_changes ->> 'avatarUrl') then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The picture must be an https URL or an object of your own in Storage.',
            hint = '/avatarUrl';
    end if;
    if p_changes ->> 'locale' !~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}$' or length(p_changes ->> 'locale') > 35 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The locale must be a BCP 47 language tag.', hint = '/locale';
    end if;
    if p_changes ? 'displayName' then
        v_refusal := private.refuse_line(v_me, v_name, '/displayName');
        if v_refusal is not null then
            return v_refusal;
        end if;
    end if;
    if p_changes ?| array['displayName', 'avatarUrl'] then
        -- Up to fifty people are told: as often as a text may be edited, and no more.
        perform private.take_pace(v_me, 'profile', s.edit_count_max, s.edit_pace_window_s) from private.settings as s;
    end if;
    insert into public.profiles as p (user_id, display_name, avatar_url, locale)
    values (v_me, v_name, p_changes ->> 'avatarUrl', p_changes ->> 'locale')
    on conflict (user_id) do update set
        display_name = case when p_changes ? 'displayName' then excluded.display_name else p.display_name end,
        avatar_url = case when p_changes ? 'avatarUrl' then excluded.avatar_url else p.avatar_url end,
        locale = case when p_changes ? 'locale' then excluded.locale else p.locale end,
        -- Only when something shown has changed, or it would tell that something else has.
        updated_at = case
            when p_changes ?| array['displayName', 'avatarUrl', 'locale'] then clock_timestamp() else p.updated_at
        end;
    if p_changes ?| array['privateReading', 'hidesLastSeen'] then
        insert into private.profile_settings as s (user_id, private_reading, hides_last_seen)
        values (
            v_me,
            coalesce((p_changes ->> 'privateReading')::boolean, false), coalesce((p_changes ->> 'hidesLastSeen')::boolean, false)
        )
        on conflict (user_id) do update set
            private_reading = case when p_changes ? 'privateReading' then excluded.private_reading else s.private_reading end,
            hides_last_seen = case when p_changes ? 'hidesLastSeen' then excluded.hides_last_seen else s.hides_last_seen end;
    end if;
    if p_changes ?| array['displayName', 'avatarUrl'] then
        perform private.announce_profile(v_me);
    end if;
    return private.own_profile_json(v_me);
end;
$$;
comment on function private.update_profile(jsonb) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.update_profile.';
revoke all on function private.update_profile(jsonb) from public, anon, authenticated, service_role;
grant execute on function private.update_profile(jsonb) to authenticated;

create function public.update_profile(p_changes jsonb default '{}')
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.update_profile(p_changes);
comment on function public.update_profile(jsonb) is
'Changes what p_changes names, {displayName: 1 to 80 characters, avatarUrl: https URL, own object or null, locale: language tag or null}: '
'{profile}. Makes a missing profile. Raises PT400 validation_failed, PT401 unauthenticated, PT403 account_unavailable, '
'PT422 text_rejected, PT429 rate_limited.';
revoke all on function public.update_profile(jsonb) from public, anon, authenticated, service_role;
grant execute on function public.update_profile(jsonb) to authenticated;
