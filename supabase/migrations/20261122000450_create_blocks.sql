-- Purpose:   who does not want to hear from whom.
-- Consumers: sends, typing, receipts, presence, unread counts and shapes; block_user and unblock_user write it.
-- Locks:     none on existing tables.
-- Undo:      drop function private.lock_pair(uuid, uuid); drop function private.direct_other(public.conversations, uuid);
--            drop function private.blockers_among(uuid[], uuid); drop function private.is_blocked_pair(uuid, uuid);
--            drop function private.has_blocked(uuid, uuid);
--            drop table private.blocks;
set lock_timeout = '4s';

create table private.blocks (
    blocker_id uuid not null,
    blocked_id uuid not null,
    created_at timestamptz not null default clock_timestamp(),
    constraint blocks_pkey primary key (blocker_id, blocked_id),
    constraint blocks_blocked_id_check check (blocked_id <> blocker_id)
);
revoke all on table private.blocks from public, anon, authenticated, service_role;
-- Who blocks the author of a message: asked at every message of a group.
create index blocks_blocked_id_blocker_id_idx on private.blocks (blocked_id, blocker_id);
comment on table private.blocks is
'Ends contact both ways: neither can write to the other directly, type to them or see whether they are there. Never announced.';
comment on column private.blocks.blocker_id is 'auth.users.id of who does not want to hear from the other.';
comment on column private.blocks.blocked_id is 'auth.users.id of the other.';
comment on column private.blocks.created_at is 'When.';

create function private.has_blocked(p_blocker_id uuid, p_blocked_id uuid)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return exists (
        select 1
        from private.blocks as b
        where b.blocker_id = p_blocker_id and b.blocked_id = p_blocked_id
    );
end;
$$;
comment on function private.has_blocked(uuid, uuid) is 'Whether the first person blocks the second.';
revoke all on function private.has_blocked(uuid, uuid) from public, anon, authenticated, service_role;

create function private.is_blocked_pair(p_a uuid, p_b uuid)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return exists (
        select 1
        from private.blocks as b
        where b.blocker_id = p_a and b.blocked_id = p_b
    ) or exists (
        select 1
        from private.blocks as b
        where b.blocker_id = p_b and b.blocked_id = p_a
    );
end;
$$;
comment on function private.is_blocked_pair(uuid, uuid) is 'Whether one of the two blocks the other.';
revoke all on function private.is_blocked_pair(uuid, uuid) from public, anon, authenticated, service_role;

create function private.blockers_among(p_user_ids uuid[], p_blocked_id uuid)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
begin
    return array(
        select b.blocker_id
        from private.blocks as b
        where b.blocked_id = p_blocked_id and b.blocker_id = any(p_user_ids)
    );
end;
$$;
comment on function private.blockers_among(uuid[], uuid) is 'Which of these people block that one.';
revoke all on function private.blockers_among(uuid[], uuid) from public, anon, authenticated, service_role;

create function private.direct_other(p_conversation public.conversations, p_user_id uuid)
returns uuid
language plpgsql
immutable
set search_path = ''
as $$
begin
    return case p_conversation.direct_low when p_user_id then p_conversation.direct_high else p_conversation.direct_low end;
end;
$$;
comment on function private.direct_other(public.conversations, uuid) is
'The other person of a direct conversation; null in groups, where nobody is cut off from anybody.';
revoke all on function private.direct_other(public.conversations, uuid) from public, anon, authenticated, service_role;

create function private.lock_pair(p_a uuid, p_b uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    perform pg_advisory_xact_lock(hashtextextended(least(p_a, p_b)::text || greatest(p_a, p_b)::text, 20261122));
end;
$$;
comment on function private.lock_pair(uuid, uuid) is
'Locks two people against each other until the transaction ends: first messages between them, and blocks.';
revoke all on function private.lock_pair(uuid, uuid) from public, anon, authenticated, service_role;
