-- Purpose:   people block others and unblock them, and see whom they block.
-- Consumers: POST and DELETE /api/users/{id}/block, GET /api/users/blocked; direct callers of the same RPCs; the end of an account.
-- Locks:     share row exclusive on auth.users for the two triggers. At run time, in this order: the advisory lock of the
--            pair, their direct conversations by id, the caller's head, the caller's members.
-- Undo:      drop function private.forget_blocks() cascade;
--            drop function public.list_blocked(integer, text); drop function private.list_blocked(integer, text);
--            drop function public.unblock_user(uuid); drop function private.unblock_user(uuid);
--            drop function public.block_user(uuid); drop function private.block_user(uuid);
--            drop function private.apply_block(uuid, uuid); drop function private.lock_block(uuid, uuid);
--            drop function private.blocked_user_json(private.blocks); drop function private.have_met(uuid, uuid);
--
-- The other is told nothing: no head, event or row of theirs changes. What they can find out is that they cannot write, which is
-- what an account that is suspended or gone says too.
set lock_timeout = '4s';

create function private.have_met(p_viewer_id uuid, p_user_id uuid)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    -- Written to, or in a group at the same time. Who is being written to and has not been reached does not know yet.
    return exists (
        select 1
        from public.conversations as c
        inner join public.conversation_members as me on c.id = me.conversation_id
        where
            c.kind = 'direct'
            and c.direct_low = least(p_viewer_id, p_user_id)
            and c.direct_high = greatest(p_viewer_id, p_user_id)
            and me.user_id = p_viewer_id
            and me.left_at is null
    ) or exists (
        select 1
        from public.conversation_members as o
        -- Each by key: a plain join would let the planner read all members. Along the conversations of the other, since a page
        -- of people is asked about for one viewer, who may be in very many.
        cross join lateral (
            select t.joined_at, t.left_at
            from public.conversation_members as t
            where t.conversation_id = o.conversation_id and t.user_id = p_viewer_id
            limit 1
        ) as me
        where
            o.user_id = p_user_id
            and (select c.kind from public.conversations as c where c.id = o.conversation_id) = 'group'
            and me.joined_at < coalesce(o.left_at, 'infinity')
            and o.joined_at < coalesce(me.left_at, 'infinity')
    );
end;
$$;
comment on function private.have_met(uuid, uuid) is
'Whether p_viewer_id has seen the card of p_user_id in a conversation: name and picture are not for whoever knows an id.';
revoke all on function private.have_met(uuid, uuid) from public, anon, authenticated, service_role;

create function private.blocked_user_json(p_block private.blocks)
returns json
language plpgsql
stable
set search_path = ''
as $$
declare
    -- The card of nobody, unless they have met: it does not say whether there is such a person.
    v_profile public.profiles;
begin
    if private.have_met(p_block.blocker_id, p_block.blocked_id) then
        select p.* into v_profile from public.profiles as p where p.user_id = p_block.blocked_id;
    end if;
    return private.joined(
        private.profile_shape(p_block.blocked_id, v_profile), json_build_object('blockedAt', private.iso_time(p_block.created_at))
    );
end;
$$;
comment on function private.blocked_user_json(private.blocks) is
'Shape BlockedUser: Profile with blockedAt; the fallback card for people the blocker has never been in a conversation with.';
revoke all on function private.blocked_user_json(private.blocks) from public, anon, authenticated, service_role;

create function private.lock_block(p_me uuid, p_user_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    if p_user_id is null or p_user_id = p_me then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'Somebody else must be named.', hint = '/id';
    end if;
    -- No first message slips past, nor one to a conversation there is: a send asks about blocks under one of these locks.
    perform private.lock_pair(p_me, p_user_id);
    perform 1
    from public.conversations as c
    where c.kind = 'direct' and c.direct_low = least(p_me, p_user_id) and c.direct_high = greatest(p_me, p_user_id)
    order by c.id
    for no key update;
    -- Groups need no lock: whatever counts a message for somebody, or makes them a member, holds their head. It also makes one
    -- person's blocks wait for each other, so that their limit is exact.
    perform private.create_heads(array[p_me]);
    perform private.lock_heads(array[p_me]);
end;
$$;
comment on function private.lock_block(uuid, uuid) is
'Locks what a change of a block is in the way of, and nothing of p_user_id''s own. Raises PT400 validation_failed for nobody or oneself.';
revoke all on function private.lock_block(uuid, uuid) from public, anon, authenticated, service_role;

create function private.apply_block(p_me uuid, p_user_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_shared public.conversations;
    v_position bigint;
begin
    -- Also the groups the other has left: their messages are still there.
    for v_shared in
        select c.*
        from public.conversation_members as me
        inner join public.conversation_members as o on me.conversation_id = o.conversation_id
        inner join public.conversations as c on me.conversation_id = c.id
        where me.user_id = p_me and me.left_at is null and o.user_id = p_user_id
        order by c.id
    loop
        v_position := private.move_heads(array[p_me], v_shared.position);
        update public.conversation_members as m
        set
            changed_position = v_position,
            unread_count = private.unread_count(v_shared.id, p_me, greatest(m.last_read_seq, m.visible_from_seq - 1))
        where m.conversation_id = v_shared.id and m.user_id = p_me;
        perform private.emit('conversation.updated', v_shared.id, array[p_me], null, null);
    end loop;
end;
$$;
comment on function private.apply_block(uuid, uuid) is
'After a block was made or ended: counts p_me''s unread anew in all they share with p_user_id, and tells p_me''s own devices.';
revoke all on function private.apply_block(uuid, uuid) from public, anon, authenticated, service_role;

create function private.block_user(p_user_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
    v_block private.blocks;
    v_count_max integer;
begin
    perform private.lock_block(v_me, p_user_id);
    select b.* into v_block
    from private.blocks as b
    where b.blocker_id = v_me and b.blocked_id = p_user_id;
    if not found then
        select s.block_count_max into v_count_max from private.settings as s;
        if (select count(*) from private.blocks as b where b.blocker_id = v_me) >= v_count_max then
            raise sqlstate 'PT422' using
                message = 'block_list_full', detail = format('One person can block at most %s others.', v_count_max);
        end if;
        insert into private.blocks (blocker_id, blocked_id) values (v_me, p_user_id) returning * into v_block;
        perform private.apply_block(v_me, p_user_id);
    end if;
    return jsonb_build_object('user', private.blocked_user_json(v_block));
end;
$$;
comment on function private.block_user(uuid) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.block_user.';
revoke all on function private.block_user(uuid) from public, anon, authenticated, service_role;
grant execute on function private.block_user(uuid) to authenticated;

create function public.block_user(p_user_id uuid default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.block_user(p_user_id);
comment on function public.block_user(uuid) is
'Ends direct contact with a person both ways, and hides their messages in groups from the caller: {user}. Nobody is told, any id will do, '
'and a repeat changes nothing. Raises PT400 validation_failed, PT401 unauthenticated, PT403 account_unavailable, PT422 block_list_full.';
revoke all on function public.block_user(uuid) from public, anon, authenticated, service_role;
grant execute on function public.block_user(uuid) to authenticated;

create function private.unblock_user(p_user_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
begin
    perform private.lock_block(v_me, p_user_id);
    delete from private.blocks as b where b.blocker_id = v_me and b.blocked_id = p_user_id;
    if found then
        perform private.apply_block(v_me, p_user_id);
    end if;
    return jsonb_build_object('userId', p_user_id);
end;
$$;
comment on function private.unblock_user(uuid) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.unblock_user.';
revoke all on function private.unblock_user(uuid) from public, anon, authenticated, service_role;
grant execute on function private.unblock_user(uuid) to authenticated;

create function public.unblock_user(p_user_id uuid default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.unblock_user(p_user_id);
comment on function public.unblock_user(uuid) is
'Ends a block of the caller''s, if there is one: {userId}. Nobody is told. Raises PT400 validation_failed, PT401 unauthenticated, '
'PT403 account_unavailable.';
revoke all on function public.unblock_user(uuid) from public, anon, authenticated, service_role;
grant execute on function public.unblock_user(uuid) to authenticated;

create function private.list_blocked(p_limit integer, p_cursor text)
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_after constant private.inbox_place := private.inbox_place_of(p_cursor);
    v_blocks private.blocks[];
begin
    if p_limit is null or p_limit not between 1 and 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'limit must be from 1 to 100.', hint = '/limit';
    end if;
    select array_agg(b order by b.created_at desc, b.blocked_id desc) into v_blocks
    from (
        select b.*
        from private.blocks as b
        where b.blocker_id = v_me and (b.created_at, b.blocked_id) < (v_after.last_activity_at, v_after.conversation_id)
        order by b.created_at desc, b.blocked_id desc
        limit p_limit + 1
    ) as b;
    return jsonb_build_object(
        'users', coalesce((
            select jsonb_agg(private.blocked_user_json(b) order by b.created_at desc, b.blocked_id desc)
            from unnest(v_blocks[:p_limit]) as b
        ), '[]'::jsonb),
        'nextCursor', case when cardinality(v_blocks) > p_limit then private.inbox_cursor(
            false, v_blocks[p_limit].created_at, v_blocks[p_limit].blocked_id
        ) end
    );
end;
$$;
comment on function private.list_blocked(integer, text) is
'Definer, because blocks are private; reads for auth.uid() only. See public.list_blocked.';
revoke all on function private.list_blocked(integer, text) from public, anon, authenticated, service_role;
grant execute on function private.list_blocked(integer, text) to authenticated;

create function public.list_blocked(p_limit integer default 30, p_cursor text default null)
returns jsonb
language sql
stable
security invoker
set search_path = ''
return private.list_blocked(p_limit, p_cursor);
comment on function public.list_blocked(integer, text) is
'A page of the people the caller blocks, newest block first: {users, nextCursor}. Raises PT400 validation_failed or cursor_invalid, '
'PT401 unauthenticated.';
revoke all on function public.list_blocked(integer, text) from public, anon, authenticated, service_role;
grant execute on function public.list_blocked(integer, text) to authenticated;

create function private.forget_blocks()
returns trigger
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
    -- Not those others have made: what they do not want to read stays hidden from them.
    delete from private.blocks as b where b.blocker_id = old.id;
    return null;
end;
$$;
comment on function private.forget_blocks() is
'Definer, because Auth''s role may not write our tables. Trigger on auth.users: an ended account blocks nobody.';
revoke all on function private.forget_blocks() from public, anon, authenticated, service_role;

create trigger blocks_forget_after_delete
after delete on auth.users
for each row execute function private.forget_blocks();

create trigger blocks_forget_after_update
after update of deleted_at on auth.users
for each row when (new.deleted_at is not null and old.deleted_at is null)
execute function private.forget_blocks();
