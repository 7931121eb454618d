-- Purpose:   groups: make one, see its members, add, promote, remove, leave.
-- Consumers: POST /api/messages/conversations/group, GET and POST .../{id}/members, DELETE .../{id}/members/{userId};
--            direct callers of the same RPCs; the end of an account.
-- Locks:     share row exclusive on auth.users for the two triggers. At run time: the maker's pace row, the conversation,
--            heads by user id, members, first-contact pace rows by user id.
-- Undo:      drop function private.leave_all_groups() cascade;
--            drop function public.remove_member(uuid, uuid); drop function private.remove_member(uuid, uuid);
--            drop function private.end_membership(uuid, uuid); drop function public.add_members(uuid, uuid[], text);
--            drop function private.add_members(uuid, uuid[], text); drop function private.manage_group(uuid, uuid);
--            drop function public.list_members(uuid, integer, text); drop function private.list_members(uuid, integer, text);
--            drop function private.members_json(public.conversation_members[]);
--            drop function public.create_group(text, uuid[], uuid, uuid); drop function private.create_group(text, uuid[], uuid, uuid);
--            drop function private.join_group(uuid, uuid, uuid[], uuid[], text, private.settings); drop table private.group_keys;
set lock_timeout = '4s';

create table private.group_keys (
    created_by uuid not null,
    client_group_id uuid not null,
    request_digest bytea not null,
    conversation_id uuid not null,
    constraint group_keys_pkey primary key (created_by, client_group_id)
);
revoke all on table private.group_keys from public, anon, authenticated, service_role;
comment on table private.group_keys is 'Every group by its idempotency key, so that a late retry is never a second group.';
comment on column private.group_keys.created_by is 'Who made it.';
comment on column private.group_keys.client_group_id is 'The key, chosen by the client; unique per person.';
comment on column private.group_keys.request_digest is 'SHA-256 of the request as sent: normalised title, gig, sorted members.';
comment on column private.group_keys.conversation_id is 'The group it made.';

create function private.join_group(
    p_me uuid, p_conversation_id uuid, p_user_ids uuid[], p_promoted_ids uuid[], p_role text, p_settings private.settings
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_conversation public.conversations;
    v_user_id uuid;
    v_strangers uuid[];
    v_concerned uuid[];
    v_new uuid[];
    v_position bigint;
    v_now timestamptz;
begin
    select c.* into v_conversation from public.conversations as c where c.id = p_conversation_id for no key update;
    foreach v_user_id in array p_user_ids loop
        if not private.account_is_active(v_user_id) or private.is_blocked_pair(p_me, v_user_id) then
            raise sqlstate 'PT403' using message = 'recipient_unavailable', detail = 'This person cannot be written to.';
        end if;
    end loop;
    select array_agg(distinct t.user_id) into v_concerned
    from (
        select m.user_id
        from public.conversation_members as m
        where m.conversation_id = p_conversation_id and m.left_at is null
        union all
        select u.user_id
        from unnest(p_user_ids) as u (user_id)
    ) as t;
    if cardinality(v_concerned) > p_settings.group_size_max then
        raise sqlstate 'PT422' using
            message = 'group_full', detail = format('A group has at most %s members.', p_settings.group_size_max);
    end if;
    -- Being added by somebody one has never talked with is a first contact, like a first message.
    select array_agg(u.user_id order by u.user_id) into v_strangers
    from unnest(p_user_ids) as u (user_id)
    where u.user_id <> p_me and u.user_id <> all(array(
        select b.user_id
        from public.conversation_members as a
        -- One conversation after the other: a plain join would let the planner read all members of everything.
        cross join lateral (
            select t.user_id
            from public.conversation_members as t
            where t.conversation_id = a.conversation_id and t.left_at is null
            offset 0
        ) as b
        where a.user_id = p_me and a.left_at is null
    ));

    perform private.create_heads(v_concerned);
    v_position := private.move_heads(v_concerned, v_conversation.position);
    -- Asked again under the heads, which who blocks holds too: one of the two comes first.
    if exists (
        select 1
        from unnest(p_user_ids) as u (user_id)
        where private.is_blocked_pair(p_me, u.user_id)
    ) then
        raise sqlstate 'PT403' using message = 'recipient_unavailable', detail = 'This person cannot be written to.';
    end if;
    foreach v_user_id in array coalesce(v_strangers, '{}') loop
        perform private.take_pace(
            v_user_id, 'first_contact', p_settings.first_contact_count_max, p_settings.first_contact_window_s
        );
    end loop;
    v_now := clock_timestamp();
    update public.conversations as c
    set event_seq = c.event_seq + 1, position = v_position
    where c.id = p_conversation_id;
    -- Who comes back begins anew, at the next message.
    insert into public.conversation_members as m (
        conversation_id, user_id, role, visible_from_seq, joined_at, last_read_seq, shared_read_seq, shared_delivered_seq,
        last_activity_at
    )
    select
        p_conversation_id, u.user_id, p_role, v_conversation.last_seq + 1, v_now, v_conversation.last_seq,
        v_conversation.last_seq, v_conversation.last_seq, v_now
    from unnest(p_user_ids) as u (user_id)
    on conflict (conversation_id, user_id) do update set
        role = excluded.role, visible_from_seq = excluded.visible_from_seq, joined_at = excluded.joined_at, left_at = null,
        last_read_seq = excluded.last_read_seq, shared_read_seq = excluded.shared_read_seq,
        shared_delivered_seq = excluded.shared_delivered_seq, unread_count = 0, archived_at = null, muted_until = null,
        pinned_at = null, marked_unread = false, last_activity_at = excluded.last_activity_at
    where m.left_at is not null;
    update public.conversation_members as m
    set changed_position = v_position, role = case when m.user_id = any(p_promoted_ids) then p_role else m.role end
    where m.conversation_id = p_conversation_id and m.left_at is null;
    -- Its maker sees a new group come into being like everybody else.
    v_new := p_user_ids || case when v_conversation.event_seq = 0 then array[p_me] else '{}' end;
    perform private.emit('conversation.created', p_conversation_id, v_new, null, null);
    perform private.emit('conversation.updated', p_conversation_id, array(
        select u.user_id
        from unnest(v_concerned) as u (user_id)
        where u.user_id <> all(v_new)
    ), null, null);
end;
$$;
comment on function private.join_group(uuid, uuid, uuid[], uuid[], text, private.settings) is
'Makes people members of a group from its next message on, and gives the same role to members named as promoted. The caller has checked '
'rights. '
'Raises PT403 recipient_unavailable, PT422 group_full, PT429 rate_limited.';
revoke all on function private.join_group(uuid, uuid, uuid[], uuid[], text, private.settings)
from public, anon, authenticated, service_role;

create function private.create_group(p_title text, p_member_ids uuid[], p_gig_id uuid, p_client_group_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_key constant uuid := coalesce(p_client_group_id, gen_random_uuid());
    v_title constant text := private.normalize_line(p_title);
    v_member_ids uuid[];
    v_settings private.settings;
    v_digest bytea;
    v_group_key private.group_keys;
    v_refusal jsonb;
    v_conversation_id uuid;
begin
    if coalesce(char_length(v_title), 0) not between 1 and 120 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The title must have 1 to 120 characters after normalisation.', hint = '/title';
    end if;
    select s.* into v_settings from private.settings as s;
    if cardinality(p_member_ids) > 1000 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'memberIds must name at most 1,000 people.', hint = '/memberIds';
    end if;
    select coalesce(array_agg(distinct u.user_id), '{}') into v_member_ids
    from unnest(p_member_ids) as u (user_id)
    where u.user_id <> v_me;

    -- One at a time per person: what the key says stays true until commit.
    perform private.lock_pace(v_me, 'new_conversation');
    perform private.require_writer(v_settings);
    v_digest := sha256(convert_to(format('%s %s %s', p_gig_id, v_member_ids, v_title), 'UTF8'));
    select k.* into v_group_key
    from private.group_keys as k
    where k.created_by = v_me and k.client_group_id = v_key;
    if found then
        if v_digest <> v_group_key.request_digest then
            raise sqlstate 'PT409' using message = 'idempotency_conflict', detail = 'This key was used for another group.';
        end if;
        if not exists (
            select 1
            from public.conversation_members as m
            where m.conversation_id = v_group_key.conversation_id and m.user_id = v_me and m.left_at is null
        ) then
            raise sqlstate 'PT404' using message = 'not_found', detail = 'The group is no longer there for you.';
        end if;
        return jsonb_build_object(
            'conversation', private.conversation_json(v_me, v_group_key.conversation_id), 'created', false
        );
    end if;

    if cardinality(v_member_ids) >= v_settings.group_size_max then
        raise sqlstate 'PT422' using
            message = 'group_full', detail = format('A group has at most %s members.', v_settings.group_size_max);
    end if;
    v_refusal := private.refuse_line(v_me, v_title, '/title');
    if v_refusal is not null then
        return v_refusal;
    end if;
    perform private.take_pace(
        v_me, 'new_conversation', v_settings.new_conversation_count_max, v_settings.new_conversation_window_s
    );
    insert into public.conversations (kind, gig_id, title, created_by)
    values ('group', p_gig_id, v_title, v_me)
    returning id into v_conversation_id;
    insert into public.conversation_members (conversation_id, user_id, role) values (v_conversation_id, v_me, 'owner');
    insert into private.group_keys (created_by, client_group_id, request_digest, conversation_id)
    values (v_me, v_key, v_digest, v_conversation_id);
    perform private.join_group(v_me, v_conversation_id, v_member_ids, '{}', 'member', v_settings);
    return jsonb_build_object('conversation', private.conversation_json(v_me, v_conversation_id), 'created', true);
end;
$$;
comment on function private.create_group(text, uuid[], uuid, uuid) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.create_group.';
revoke all on function private.create_group(text, uuid[], uuid, uuid) from public, anon, authenticated, service_role;
grant execute on function private.create_group(text, uuid[], uuid, uuid) to authenticated;

create function public.create_group(
    p_title text default null, p_member_ids uuid[] default '{}', p_gig_id uuid default null, p_client_group_id uuid default null
)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.create_group(p_title, p_member_ids, p_gig_id, p_client_group_id);
comment on function public.create_group(text, uuid[], uuid, uuid) is
'Makes a group owned by the caller, once per (caller, p_client_group_id): {conversation, created}. Raises PT400 validation_failed, '
'PT401 unauthenticated, PT403 account_unavailable or recipient_unavailable, PT404 not_found, PT409 idempotency_conflict, '
'PT422 group_full, PT429 rate_limited.';
revoke all on function public.create_group(text, uuid[], uuid, uuid) from public, anon, authenticated, service_role;
grant execute on function public.create_group(text, uuid[], uuid, uuid) to authenticated;

create function private.members_json(p_members public.conversation_members[])
returns json
language plpgsql
stable
set search_path = ''
as $$
begin
    return coalesce((
        select json_agg(
            private.joined(
                private.profile_shape(m.user_id, p.profile),
                json_build_object(
                    'role', m.role,
                    'joinedAt', private.iso_time(m.joined_at),
                    'lastSeenAt', private.iso_time(l.seen_at)
                )
            )
            order by m.joined_at, m.user_id
        )
        from unnest(p_members) as m
        left join lateral (
            select t as profile
            from public.profiles as t
            where t.user_id = m.user_id
            limit 1
        ) as p on true
        left join private.last_seen_among(auth.uid(), array(select t.user_id from unnest(p_members) as t)) as l on m.user_id = l.user_id
    ), '[]');
end;
$$;
comment on function private.members_json(public.conversation_members[]) is
'Shape Member of each, by time of joining: Profile with role, joinedAt and, if it is shared, lastSeenAt.';
revoke all on function private.members_json(public.conversation_members[]) from public, anon, authenticated, service_role;

create function private.list_members(p_conversation_id uuid, p_limit integer, p_cursor text)
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_after private.inbox_place;
    v_members public.conversation_members[];
begin
    if p_limit is null or p_limit not between 1 and 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'limit must be from 1 to 100.', hint = '/limit';
    end if;
    if not exists (
        select 1
        from public.conversation_members as m
        where m.conversation_id = p_conversation_id and m.user_id = v_me and m.left_at is null
    ) then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
    end if;
    if p_cursor is not null then
        v_after := private.inbox_place_of(p_cursor);
    end if;
    select array_agg(m order by m.joined_at, m.user_id) into v_members
    from (
        select m.*
        from public.conversation_members as m
        where
            m.conversation_id = p_conversation_id
            and m.left_at is null
            and (p_cursor is null or (m.joined_at, m.user_id) > (v_after.last_activity_at, v_after.conversation_id))
        order by m.joined_at, m.user_id
        limit p_limit + 1
    ) as m;
    return jsonb_build_object(
        'members', private.members_json(v_members[:p_limit]),
        'nextCursor', case when cardinality(v_members) > p_limit then private.inbox_cursor(
            false, v_members[p_limit].joined_at, v_members[p_limit].user_id
        ) end
    );
end;
$$;
comment on function private.list_members(uuid, integer, text) is
'Definer, because members see only their own rows of members; reads for auth.uid() only. See public.list_members.';
revoke all on function private.list_members(uuid, integer, text) from public, anon, authenticated, service_role;
grant execute on function private.list_members(uuid, integer, text) to authenticated;

create function public.list_members(p_conversation_id uuid default null, p_limit integer default 30, p_cursor text default null)
returns jsonb
language sql
stable
security invoker
set search_path = ''
return private.list_members(p_conversation_id, p_limit, p_cursor);
comment on function public.list_members(uuid, integer, text) is
'A page of the current members, by time of joining: {members, nextCursor}. Raises PT400 validation_failed or cursor_invalid, '
'PT401 unauthenticated, PT404 not_found.';
revoke all on function public.list_members(uuid, integer, text) from public, anon, authenticated, service_role;
grant execute on function public.list_members(uuid, integer, text) to authenticated;

create function private.manage_group(p_me uuid, p_conversation_id uuid)
returns text
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_kind text;
    v_role text;
begin
    select c.kind into v_kind
    from public.conversations as c
    where c.id = p_conversation_id and exists (
        select 1
        from public.conversation_members as m
        where m.conversation_id = c.id and m.user_id = p_me and m.left_at is null
    )
    for no key update;
    -- Asked again under the lock: the membership may have ended while we waited.
    select m.role into v_role
    from public.conversation_members as m
    where m.conversation_id = p_conversation_id and m.user_id = p_me and m.left_at is null;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
    end if;
    if v_kind <> 'group' then
        raise sqlstate 'PT422' using message = 'not_a_group', detail = 'Only a group has a title and members to manage.';
    end if;
    return v_role;
end;
$$;
comment on function private.manage_group(uuid, uuid) is
'Locks a group and returns the role of p_me in it. Raises PT404 not_found, PT422 not_a_group.';
revoke all on function private.manage_group(uuid, uuid) from public, anon, authenticated, service_role;

create function private.add_members(p_conversation_id uuid, p_user_ids uuid[], p_role text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_my_role text;
    v_user_ids uuid[];
    v_new_ids uuid[];
    v_promoted_ids uuid[];
    v_settings private.settings;
begin
    if p_role not in ('owner', 'admin', 'member') then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'role must be owner, admin or member.', hint = '/role';
    end if;
    if cardinality(p_user_ids) is null or cardinality(p_user_ids) not between 1 and 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'userIds must name 1 to 100 people.', hint = '/userIds';
    end if;
    select s.* into v_settings from private.settings as s;
    perform private.require_writer(v_settings);
    v_my_role := private.manage_group(v_me, p_conversation_id);
    if v_my_role = 'member' or (v_my_role <> 'owner' and coalesce(p_role, 'member') <> 'member') then
        raise sqlstate 'PT403' using
            message = 'forbidden', detail = 'Only owners and admins may add people, and only owners may give other roles.';
    end if;
    select array_agg(distinct u.user_id) into v_user_ids
    from unnest(p_user_ids) as u (user_id)
    where u.user_id <> v_me;
    select coalesce(array_agg(u.user_id), '{}') into v_new_ids
    from unnest(v_user_ids) as u (user_id)
    where not exists (
        select 1
        from public.conversation_members as m
        where m.conversation_id = p_conversation_id and m.user_id = u.user_id and m.left_at is null
    );
    -- For people who are members already, an owner's request sets the role, if it names one.
    v_promoted_ids := array(
        select m.user_id
        from public.conversation_members as m
        where
            m.conversation_id = p_conversation_id
            and m.user_id = any(v_user_ids)
            and m.left_at is null
            and v_my_role = 'owner'
            and m.role <> p_role
    );
    if cardinality(v_new_ids || v_promoted_ids) > 0 then
        perform private.join_group(
            v_me, p_conversation_id, v_new_ids, v_promoted_ids, coalesce(p_role, 'member'), v_settings
        );
    end if;
    return jsonb_build_object('members', private.members_json(array(
        select m
        from public.conversation_members as m
        where m.conversation_id = p_conversation_id and m.user_id = any(v_user_ids) and m.left_at is null
    )));
end;
$$;
comment on function private.add_members(uuid, uuid[], text) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.add_members.';
revoke all on function private.add_members(uuid, uuid[], text) from public, anon, authenticated, service_role;
grant execute on function private.add_members(uuid, uuid[], text) to authenticated;

create function public.add_members(p_conversation_id uuid default null, p_user_ids uuid[] default '{}', p_role text default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.add_members(p_conversation_id, p_user_ids, p_role);
comment on function public.add_members(uuid, uuid[], text) is
'Adds people to a group (default role member), or sets the role of people who are in it, and answers them: {members}. Owners and admins '
'may add; only owners give other roles. Raises PT400 validation_failed, PT401 unauthenticated, PT403 forbidden, account_unavailable or '
'recipient_unavailable, PT404 not_found, PT422 not_a_group or group_full, PT429 rate_limited.';
revoke all on function public.add_members(uuid, uuid[], text) from public, anon, authenticated, service_role;
grant execute on function public.add_members(uuid, uuid[], text) to authenticated;

create function private.end_membership(p_conversation_id uuid, p_user_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_member_ids uuid[];
    v_position bigint;
begin
    select array_agg(m.user_id) into v_member_ids
    from public.conversation_members as m
    where m.conversation_id = p_conversation_id and m.left_at is null;
    select private.move_heads(v_member_ids, c.position) into v_position
    from public.conversations as c
    where c.id = p_conversation_id;
    -- A new live topic: an authorisation of Realtime lasts as long as its channel, so the old name must be worth nothing.
    update public.conversations as c
    set event_seq = c.event_seq + 1, position = v_position, live_epoch = c.live_epoch + 1
    where c.id = p_conversation_id;
    update public.conversation_members as m
    set
        changed_position = v_position,
        left_at = case when m.user_id = p_user_id then clock_timestamp() end,
        unread_count = case when m.user_id = p_user_id then 0 else m.unread_count end,
        marked_unread = m.marked_unread and m.user_id <> p_user_id,
        role = case when m.user_id = p_user_id then 'member' else m.role end
    where m.conversation_id = p_conversation_id and m.left_at is null;
    -- A group without an owner goes to who has been an admin, else a member, for the longest time.
    update public.conversation_members as m
    set role = 'owner'
    where m.conversation_id = p_conversation_id and m.user_id = (
        select o.user_id
        from public.conversation_members as o
        where o.conversation_id = p_conversation_id and o.left_at is null
        order by o.role <> 'owner', o.role <> 'admin', o.joined_at, o.user_id
        limit 1
    ) and m.role <> 'owner';
    perform private.emit('conversation.lost', p_conversation_id, array[p_user_id], null, null);
    perform private.emit('conversation.updated', p_conversation_id, array_remove(v_member_ids, p_user_id), null, null);
end;
$$;
comment on function private.end_membership(uuid, uuid) is
'Ends somebody''s membership of a group the caller of this function has locked, and finds a new owner when need be.';
revoke all on function private.end_membership(uuid, uuid) from public, anon, authenticated, service_role;

create function private.remove_member(p_conversation_id uuid, p_user_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
    v_my_role constant text := private.manage_group(v_me, p_conversation_id);
    v_role text;
begin
    select m.role into v_role
    from public.conversation_members as m
    where m.conversation_id = p_conversation_id and m.user_id = p_user_id and m.left_at is null;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such member.';
    end if;
    if p_user_id <> v_me and (v_my_role = 'member' or (v_my_role = 'admin' and v_role <> 'member')) then
        raise sqlstate 'PT403' using
            message = 'forbidden', detail = 'Owners may remove anybody, admins may remove members, everybody may leave.';
    end if;
    perform private.end_membership(p_conversation_id, p_user_id);
    return jsonb_build_object('conversationId', p_conversation_id, 'userId', p_user_id);
end;
$$;
comment on function private.remove_member(uuid, uuid) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.remove_member.';
revoke all on function private.remove_member(uuid, uuid) from public, anon, authenticated, service_role;
grant execute on function private.remove_member(uuid, uuid) to authenticated;

create function public.remove_member(p_conversation_id uuid default null, p_user_id uuid default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.remove_member(p_conversation_id, p_user_id);
comment on function public.remove_member(uuid, uuid) is
'Removes somebody from a group, oneself to leave: {conversationId, userId}. Owners may remove anybody, admins members. When the last owner '
'goes, the longest-standing admin, else member, becomes owner. Raises PT401 unauthenticated, PT403 forbidden, PT404 not_found, '
'PT422 not_a_group.';
revoke all on function public.remove_member(uuid, uuid) from public, anon, authenticated, service_role;
grant execute on function public.remove_member(uuid, uuid) to authenticated;

create function private.leave_all_groups()
returns trigger
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
    v_groups constant uuid[] := array(
        select c.id
        from public.conversation_members as m
        inner join public.conversations as c on m.conversation_id = c.id
        where m.user_id = old.id and m.left_at is null and c.kind = 'group'
    );
begin
    if cardinality(v_groups) > 0 then
        -- All locks first, in the one order, since several conversations are written at once.
        perform 1 from public.conversations as c where c.id = any(v_groups) order by c.id for no key update;
        perform private.lock_heads(array(
            select distinct m.user_id
            from public.conversation_members as m
            where m.conversation_id = any(v_groups) and m.left_at is null
        ));
        perform private.end_membership(c.id, old.id) from unnest(v_groups) as c (id);
    end if;
    return null;
end;
$$;
comment on function private.leave_all_groups() is
'Definer, because Auth''s role may not write our tables. Trigger on auth.users: nobody waits for an ended account to read.';
revoke all on function private.leave_all_groups() from public, anon, authenticated, service_role;

create trigger groups_leave_after_delete
after delete on auth.users
for each row execute function private.leave_all_groups();

create trigger groups_leave_after_update
after update of deleted_at on auth.users
for each row when (new.deleted_at is not null and old.deleted_at is null)
execute function private.leave_all_groups();
