-- Purpose:   exact sliding-window limits that hold for every path, and the sender row that serialises a person's sends.
-- Consumers: send_message.
-- Locks:     none on existing tables.
-- Undo:      drop function private.take_pace(uuid, text, integer, integer);
--            drop function private.keep_pace(uuid, text, timestamptz[], integer, timestamptz, bigint[]);
--            drop function private.pace_json(timestamptz[], integer, integer, timestamptz);
--            drop function private.check_pace(timestamptz[], integer, integer, timestamptz);
--            drop function private.pace_active(timestamptz[], integer, timestamptz);
--            drop function private.lock_pace(uuid, text); drop table private.paces;
set lock_timeout = '4s';

create table private.paces (
    user_id uuid not null,
    kind text not null,
    happened_at timestamptz[] not null default '{}',
    recent bigint[] not null default '{}',
    constraint paces_pkey primary key (user_id, kind),
    constraint paces_kind_check check (kind in ('send', 'new_conversation', 'first_contact', 'edit', 'report', 'refused', 'profile'))
) with (fillfactor = 50);
revoke all on table private.paces from public, anon, authenticated, service_role;
comment on table private.paces is
'Times of a person''s counted events inside the window, oldest first. The send row is also the sender row: locked first by every send.';
comment on column private.paces.user_id is 'auth.users.id: the sender, or the recipient of first contacts.';
comment on column private.paces.kind is
'send, refused (by a rule), edit, profile (of a name or picture), report, new_conversation (started by the person) or first_contact '
'(received from a stranger).';
comment on column private.paces.happened_at is 'Ascending; what has left the window is dropped at the next write.';
comment on column private.paces.recent is
'Of the send row: what was tried last, refused or not, for the rules about repetition and flooding; see private.recent_with.';

create function private.lock_pace(p_user_id uuid, p_kind text)
returns private.paces
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_pace private.paces;
begin
    loop
        select p.* into v_pace
        from private.paces as p
        where p.user_id = p_user_id and p.kind = p_kind
        for no key update;
        exit when found;
        insert into private.paces (user_id, kind) values (p_user_id, p_kind) on conflict do nothing;
    end loop;
    return v_pace;
end;
$$;
comment on function private.lock_pace(uuid, text) is
'Locks one pace row until the transaction ends, makes it if need be, and returns it.';
revoke all on function private.lock_pace(uuid, text) from public, anon, authenticated, service_role;

create function private.pace_active(p_happened_at timestamptz[], p_window_s integer, p_now timestamptz)
returns integer
language plpgsql
immutable
set search_path = ''
as $$
begin
    -- width_bucket is Postgres' binary search: how many of the ascending times are not after the cut-off.
    return cardinality(p_happened_at) - width_bucket(p_now - make_interval(secs => p_window_s), p_happened_at);
end;
$$;
comment on function private.pace_active(timestamptz[], integer, timestamptz) is
'How many of these ascending times lie inside the window that ends now.';
revoke all on function private.pace_active(timestamptz[], integer, timestamptz) from public, anon, authenticated, service_role;

create function private.check_pace(
    p_happened_at timestamptz[], p_count_max integer, p_window_s integer, p_now timestamptz
)
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
    if private.pace_active(p_happened_at, p_window_s, p_now) >= p_count_max then
        raise sqlstate 'PT429' using
            message = 'rate_limited',
            detail = format('At most %s in any %s seconds.', p_count_max, p_window_s),
            hint = greatest(1, ceil(extract(epoch from
                p_happened_at[cardinality(p_happened_at) - p_count_max + 1] + make_interval(secs => p_window_s) - p_now
            )))::text;
    end if;
end;
$$;
comment on function private.check_pace(timestamptz[], integer, integer, timestamptz) is
'Raises PT429 rate_limited (hint: whole seconds to wait) when the window that ends now is full.';
revoke all on function private.check_pace(timestamptz[], integer, integer, timestamptz)
from public, anon, authenticated, service_role;

create function private.pace_json(
    p_happened_at timestamptz[], p_count_max integer, p_window_s integer, p_now timestamptz
)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_active constant integer := private.pace_active(p_happened_at, p_window_s, p_now);
begin
    return jsonb_build_object(
        'limit', p_count_max,
        'remaining', greatest(0, p_count_max - v_active),
        'windowS', p_window_s,
        'resetS', case when v_active = 0 then 0 else ceil(extract(epoch from
            p_happened_at[cardinality(p_happened_at) - v_active + 1] + make_interval(secs => p_window_s) - p_now
        )) end
    );
end;
$$;
comment on function private.pace_json(timestamptz[], integer, integer, timestamptz) is
'Shape Pace, for rate limit headers: limit, remaining, windowS, and resetS, the seconds until at least one more is allowed.';
revoke all on function private.pace_json(timestamptz[], integer, integer, timestamptz)
from public, anon, authenticated, service_role;

create function private.keep_pace(
    p_user_id uuid, p_kind text, p_happened_at timestamptz[], p_window_s integer, p_now timestamptz, p_recent bigint[]
)
returns timestamptz[]
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_happened_at constant timestamptz[] := p_happened_at[
        cardinality(p_happened_at) - private.pace_active(p_happened_at, p_window_s, p_now) + 1:
    ] || p_now;
begin
    update private.paces as p
    set happened_at = v_happened_at, recent = coalesce(p_recent, p.recent)
    where p.user_id = p_user_id and p.kind = p_kind;
    return v_happened_at;
end;
$$;
comment on function private.keep_pace(uuid, text, timestamptz[], integer, timestamptz, bigint[]) is
'Writes the locked row: what has left the window goes, p_now comes, and p_recent unless null. Returns the times as written.';
revoke all on function private.keep_pace(uuid, text, timestamptz[], integer, timestamptz, bigint[])
from public, anon, authenticated, service_role;

create function private.take_pace(p_user_id uuid, p_kind text, p_count_max integer, p_window_s integer)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_happened_at constant timestamptz[] := (private.lock_pace(p_user_id, p_kind)).happened_at;
    v_now constant timestamptz := clock_timestamp();
begin
    perform private.check_pace(v_happened_at, p_count_max, p_window_s, v_now);
    perform private.keep_pace(p_user_id, p_kind, v_happened_at, p_window_s, v_now, null);
end;
$$;
comment on function private.take_pace(uuid, text, integer, integer) is
'Counts one event now, or raises PT429 rate_limited. Undone with the transaction, so what was refused is not counted.';
revoke all on function private.take_pace(uuid, text, integer, integer) from public, anon, authenticated, service_role;
