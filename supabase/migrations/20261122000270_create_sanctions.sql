-- Purpose:   who may not write for a time, by decision of a moderator.
-- Consumers: account_is_active, require_writer; the moderation functions write it.
-- Locks:     none on existing tables.
-- Undo:      drop function private.is_sanctioned(uuid, text); drop table private.sanctions;
set lock_timeout = '4s';

create table private.sanctions (
    id uuid not null default private.uuid_v7(),
    user_id uuid not null,
    kind text not null,
    reason text not null,
    starts_at timestamptz not null default clock_timestamp(),
    ends_at timestamptz,
    lifted_at timestamptz,
    constraint sanctions_pkey primary key (id),
    constraint sanctions_kind_check check (kind in ('mute', 'suspend')),
    constraint sanctions_reason_check check (char_length(reason) between 1 and 1000),
    constraint sanctions_ends_at_check check (ends_at > starts_at)
);
revoke all on table private.sanctions from public, anon, authenticated, service_role;
create index sanctions_user_id_idx on private.sanctions (user_id) where lifted_at is null;

-- All sanctions of a person, lifted ones too.
create index sanctions_user_id_id_idx on private.sanctions (user_id, id);
comment on table private.sanctions is
'A muted person cannot write. A suspended one cannot change anything and is not reachable either, like an account that is gone.';
comment on column private.sanctions.id is 'Time-ordered UUID.';
comment on column private.sanctions.user_id is 'auth.users.id.';
comment on column private.sanctions.kind is 'mute or suspend.';
comment on column private.sanctions.reason is 'For moderators; the person is not told.';
comment on column private.sanctions.starts_at is 'When it was imposed; in force at once.';
comment on column private.sanctions.ends_at is 'When it ends by itself; null: when it is lifted.';
comment on column private.sanctions.lifted_at is 'When it was lifted early.';

create function private.is_sanctioned(p_user_id uuid, p_kind text)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return exists (
        select 1
        from private.sanctions as s
        where
            s.user_id = p_user_id
            and s.kind = p_kind
            and s.lifted_at is null
            and (s.ends_at is null or s.ends_at > clock_timestamp())
    );
end;
$$;
comment on function private.is_sanctioned(uuid, text) is 'Whether a sanction of this kind is in force for the person now.';
revoke all on function private.is_sanctioned(uuid, text) from public, anon, authenticated, service_role;
