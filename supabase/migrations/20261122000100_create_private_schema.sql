-- Purpose:   a schema that PostgREST does not expose, for helpers, definer functions and private tables.
-- Consumers: every later migration.
-- Locks:     none on existing tables.
-- Undo:      drop schema private cascade;
--            alter default privileges grant execute on functions to public;
--
-- The default privilege is revoked globally on purpose: "alter default privileges in schema ... revoke ... from public"
-- changes nothing, because a per-schema entry can only add to the global one. From here on, a function that the role
-- postgres creates in any schema of this database is executable by nobody until it is granted.
set lock_timeout = '4s';

alter default privileges revoke execute on functions from public;

create schema private;
revoke all on schema private from public, anon, authenticated, service_role;
comment on schema private is
'Helpers and definer functions of messaging. No API role has usage; public wrappers and policies reach functions by reference.';

create function private.iso_time(p_at timestamptz)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
begin
    -- to_char is only marked stable because of locale patterns; this pattern has none, and the zone is fixed.
    return to_char(p_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
end;
$$;
comment on function private.iso_time(timestamptz) is
'The one way we write an instant: UTC, microseconds, YYYY-MM-DDTHH:MM:SS.ffffffZ. Null stays null.';
revoke all on function private.iso_time(timestamptz) from public, anon, authenticated, service_role;

create function private.uuid_v7()
returns uuid
language plpgsql
volatile
parallel safe
set search_path = ''
as $$
begin
    -- 48 bits of milliseconds, then 74 random bits: ids made together sit together in their index,
    -- which keeps an insert into ten million rows as cheap as one into ten thousand.
    return encode(
        set_bit(
            set_bit(
                overlay(
                    uuid_send(gen_random_uuid())
                    placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                    from 1 for 6
                ), 52, 1
            ), 53, 1
        ), 'hex'
    )::uuid;
end;
$$;
comment on function private.uuid_v7() is 'A time-ordered UUID (RFC 9562, version 7). Postgres has its own from version 18 on.';
revoke all on function private.uuid_v7() from public, anon, authenticated, service_role;

create table private.settings (
    is_only_row boolean primary key default true,
    send_count_max integer not null default 100,
    send_window_s integer not null default 60,
    new_conversation_count_max integer not null default 30,
    new_conversation_window_s integer not null default 3600,
    first_contact_count_max integer not null default 30,
    first_contact_window_s integer not null default 3600,
    anonymous_may_send boolean not null default false,
    group_size_max integer not null default 64,
    edit_window_s integer default 86400,
    edit_count_max integer not null default 30,
    edit_pace_window_s integer not null default 60,
    report_count_max integer not null default 20,
    report_window_s integer not null default 3600,
    block_count_max integer not null default 1000,
    pending_count_max integer not null default 20,
    constraint settings_is_only_row_check check (is_only_row),
    constraint settings_positive_check check (
        least(
            send_count_max, send_window_s, new_conversation_count_max, new_conversation_window_s,
            first_contact_count_max, first_contact_window_s, group_size_max, edit_window_s + 1,
            edit_count_max, edit_pace_window_s, report_count_max, report_window_s, block_count_max, pending_count_max
        ) > 0
    ),
    -- Paces keep one timestamp for each counted event: the bound keeps their rows below one page.
    constraint settings_count_max_check check (
        greatest(
            send_count_max, new_conversation_count_max, first_contact_count_max, edit_count_max, report_count_max
        ) <= 500
    ),
    -- Every write to a group locks the heads of all its members.
    constraint settings_group_size_max_check check (group_size_max <= 1000)
);
revoke all on table private.settings from public, anon, authenticated, service_role;
comment on table private.settings is 'One row of limits that an administrator changes with update; in force at the next call.';
comment on column private.settings.send_count_max is 'Accepted sends per person in any send_window_s seconds.';
comment on column private.settings.send_window_s is 'Seconds.';
comment on column private.settings.new_conversation_count_max is
'Conversations one person starts in any new_conversation_window_s seconds.';
comment on column private.settings.new_conversation_window_s is 'Seconds.';
comment on column private.settings.first_contact_count_max is
'Strangers who may write to one person for the first time in any first_contact_window_s seconds.';
comment on column private.settings.first_contact_window_s is 'Seconds.';
comment on column private.settings.anonymous_may_send is 'Whether accounts of Supabase anonymous sign-in may write.';
comment on column private.settings.group_size_max is 'Members of one group, its owner included.';
comment on column private.settings.edit_count_max is 'Edits per person in any edit_pace_window_s seconds.';
comment on column private.settings.edit_pace_window_s is 'Seconds.';
comment on column private.settings.report_count_max is 'Reports per person in any report_window_s seconds.';
comment on column private.settings.report_window_s is 'Seconds.';
comment on column private.settings.block_count_max is 'People whom one person may block.';
comment on column private.settings.pending_count_max is 'Messages of one person that may wait for a moderator; what comes next is refused.';
comment on column private.settings.edit_window_s is 'Seconds after sending in which an author may edit; 0 forbids edits, null sets no end.';
insert into private.settings default values;
