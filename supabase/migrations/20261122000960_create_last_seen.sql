-- Purpose:   when a person was last here, to the minute, for those it is shared with.
-- Consumers: Member shapes; noted by sends, receipts and typing.
-- Locks:     none on existing tables.
-- Undo:      drop function private.last_seen_among(uuid, uuid[]); drop function private.note_seen(uuid); drop table private.last_seen;
set lock_timeout = '4s';

create table private.last_seen (
    user_id uuid not null,
    seen_at timestamptz not null,
    constraint last_seen_pkey primary key (user_id)
) with (fillfactor = 50);
revoke all on table private.last_seen from public, anon, authenticated, service_role;
comment on table private.last_seen is 'When people last wrote, received, read or typed, kept to the minute.';
comment on column private.last_seen.user_id is 'auth.users.id.';
comment on column private.last_seen.seen_at is 'The minute.';

create function private.note_seen(p_user_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    -- Once a minute is enough to know, and rarely enough to cost nothing. Last in a transaction, so nobody waits for it.
    insert into private.last_seen as l (user_id, seen_at)
    values (p_user_id, date_trunc('minute', clock_timestamp()))
    on conflict (user_id) do update set seen_at = excluded.seen_at
    where l.seen_at < excluded.seen_at;
end;
$$;
comment on function private.note_seen(uuid) is 'Notes that a person is here now; writes at most once a minute.';
revoke all on function private.note_seen(uuid) from public, anon, authenticated, service_role;

create function private.last_seen_among(p_viewer_id uuid, p_user_ids uuid[])
returns table (user_id uuid, seen_at timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
    v_active_ids constant uuid[] := private.active_among(p_user_ids);
begin
    return query
    select l.user_id, l.seen_at
    from private.last_seen as l
    where
        l.user_id = any(v_active_ids)
        and (l.user_id = p_viewer_id or not exists (
            select 1
            from private.profile_settings as s
            where s.user_id in (p_viewer_id, l.user_id) and s.hides_last_seen
        ))
        and not exists (
            select 1
            from private.blocks as b
            where b.blocker_id = p_viewer_id and b.blocked_id = l.user_id
        )
        and not exists (
            select 1
            from private.blocks as b
            where b.blocker_id = l.user_id and b.blocked_id = p_viewer_id
        );
end;
$$;
comment on function private.last_seen_among(uuid, uuid[]) is
'When these people were last here, to the minute. Nobody is in it when either of the two hides it or blocks the other, nor, so that a '
'block looks like nothing else, when the account is not active: who does not tell is not told.';
revoke all on function private.last_seen_among(uuid, uuid[]) from public, anon, authenticated, service_role;
