-- Purpose:   positions: per person, the order in which changes that concern them were committed.
-- Consumers: every write that concerns people.
-- Locks:     none on existing tables.
-- Undo:      drop function private.move_heads(uuid[], bigint); drop function private.lock_heads(uuid[]);
--            drop function private.create_heads(uuid[]); drop table private.heads;
set lock_timeout = '4s';

create table private.heads (
    user_id uuid not null,
    position bigint not null default 0,
    previous_position bigint not null default 0,
    constraint heads_pkey primary key (user_id)
) with (fillfactor = 50);
revoke all on table private.heads from public, anon, authenticated, service_role;
comment on table private.heads is
'The newest position of each person. A write locks the heads of all it concerns until commit, so position order is commit order.';
comment on column private.heads.user_id is 'auth.users.id.';
comment on column private.heads.position is 'Microseconds since 1970 or later: unique and rising per person, never reissued, below 2^53.';
comment on column private.heads.previous_position is 'The position before the last move; links one event to the one before.';

create function private.create_heads(p_user_ids uuid[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    insert into private.heads (user_id)
    select u.user_id
    from unnest(p_user_ids) as u (user_id)
    order by u.user_id
    on conflict (user_id) do nothing;
end;
$$;
comment on function private.create_heads(uuid[]) is
'Makes missing heads, in id order. Called before lock_heads by whatever makes someone a member: an insert that waits '
'while it holds other heads could wait in a circle.';
revoke all on function private.create_heads(uuid[]) from public, anon, authenticated, service_role;

create function private.lock_heads(p_user_ids uuid[])
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
begin
    -- Locked in the order of ids, like everywhere: two writers can wait for each other, but never in a circle.
    return (
        select max(h.position)
        from (
            select h.position
            from private.heads as h
            where h.user_id = any(p_user_ids)
            order by h.user_id
            for no key update
        ) as h
    );
end;
$$;
comment on function private.lock_heads(uuid[]) is
'Locks the heads of these people in id order, moves none, and returns the highest position. Every member has a head: see create_heads.';
revoke all on function private.lock_heads(uuid[]) from public, anon, authenticated, service_role;

create function private.move_heads(p_user_ids uuid[], p_floor bigint)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_position constant bigint := greatest(
        private.lock_heads(p_user_ids), p_floor, (extract(epoch from clock_timestamp()) * 1000000)::bigint
    ) + 1;
begin
    update private.heads as h
    set previous_position = h.position, position = v_position
    where h.user_id = any(p_user_ids);
    return v_position;
end;
$$;
comment on function private.move_heads(uuid[], bigint) is
'Locks the heads of these people and moves them to one new position above all of them, above p_floor and above the clock. Each move is '
'one event for each of them, so that the chain of positions has no gap: see private.emit.';
revoke all on function private.move_heads(uuid[], bigint) from public, anon, authenticated, service_role;
