-- Purpose:   what moderation keeps: moderators, their queue and audit log, verdicts, held messages and original texts.
-- Consumers: send_message, edit_message, reports, the moderators' functions, the classifier.
-- Locks:     none on existing tables.
-- Undo:      drop function private.record_action(uuid, text, uuid, uuid, uuid, uuid, text, jsonb, uuid);
--            drop function private.open_item(text, uuid, uuid, uuid, jsonb); drop function private.require_moderator();
--            drop table private.originals; drop table private.pending_messages; drop table private.verdicts;
--            drop table private.moderation_actions; drop function private.refuse_change();
--            drop table private.moderation_items; drop table private.moderators;
set lock_timeout = '4s';

create table private.moderators (
    user_id uuid not null,
    role text not null default 'moderator',
    granted_at timestamptz not null default clock_timestamp(),
    constraint moderators_pkey primary key (user_id),
    constraint moderators_role_check check (role in ('moderator', 'admin'))
);
revoke all on table private.moderators from public, anon, authenticated, service_role;
comment on table private.moderators is
'Who may see and decide. Administrators insert and delete; a token''s claims count for nothing here.';
comment on column private.moderators.user_id is 'auth.users.id.';
comment on column private.moderators.role is 'moderator, or admin, who may also undo what others decided.';
comment on column private.moderators.granted_at is 'Since when.';

create table private.moderation_items (
    id uuid not null default private.uuid_v7(),
    kind text not null,
    status text not null default 'open',
    user_id uuid not null,
    conversation_id uuid,
    message_id uuid,
    details jsonb not null default '{}',
    opened_at timestamptz not null default clock_timestamp(),
    decided_at timestamptz,
    decision text,
    constraint moderation_items_pkey primary key (id),
    constraint moderation_items_kind_check check (kind in ('message_report', 'user_report', 'held', 'classified')),
    constraint moderation_items_status_check check (
        (status = 'open' and decided_at is null and decision is null)
        or (status = 'decided' and decided_at is not null and decision is not null)
    )
);
revoke all on table private.moderation_items from public, anon, authenticated, service_role;
create unique index moderation_items_open_message_key on private.moderation_items (message_id, kind)
where status = 'open' and message_id is not null;
create unique index moderation_items_open_user_key on private.moderation_items (user_id, kind)
where status = 'open' and message_id is null;
create index moderation_items_queue_idx on private.moderation_items (status, id);

-- What was decided, newest first.
create index moderation_items_decided_idx on private.moderation_items (decided_at, id) where status = 'decided';

create index moderation_items_user_id_idx on private.moderation_items (user_id, id);
comment on table private.moderation_items is 'The queue: one open item per kind and thing, however many people report it.';
comment on column private.moderation_items.id is 'Time-ordered UUID.';
comment on column private.moderation_items.kind is
'message_report, user_report, held (a message waits) or classified (by the outside classifier).';
comment on column private.moderation_items.status is 'open or decided.';
comment on column private.moderation_items.user_id is 'Whose conduct it is about.';
comment on column private.moderation_items.conversation_id is 'Where, if it is about a message.';
comment on column private.moderation_items.message_id is 'public.messages.id, or the id a held message will have.';
comment on column private.moderation_items.details is 'What led to it.';
comment on column private.moderation_items.opened_at is 'When it came up first.';
comment on column private.moderation_items.decided_at is 'When it was decided.';
comment on column private.moderation_items.decision is 'What was decided.';

create table private.moderation_actions (
    id uuid not null default private.uuid_v7(),
    moderator_id uuid,
    action text not null,
    item_id uuid,
    user_id uuid,
    message_id uuid,
    sanction_id uuid,
    note text,
    details jsonb not null default '{}',
    undoes uuid,
    created_at timestamptz not null default clock_timestamp(),
    constraint moderation_actions_pkey primary key (id),
    constraint moderation_actions_note_check check (char_length(note) between 1 and 1000)
);
revoke all on table private.moderation_actions from public, anon, authenticated, service_role;
create unique index moderation_actions_undoes_key on private.moderation_actions (undoes) where undoes is not null;
create index moderation_actions_user_id_idx on private.moderation_actions (user_id, id);
create index moderation_actions_item_id_idx on private.moderation_actions (item_id, id);
comment on table private.moderation_actions is 'The audit log: who decided what, when and why. Rows are never changed or removed.';
comment on column private.moderation_actions.id is 'Time-ordered UUID.';
comment on column private.moderation_actions.moderator_id is 'Who acted; null: the system.';
comment on column private.moderation_actions.action is 'A stable word: what was done.';
comment on column private.moderation_actions.item_id is 'private.moderation_items.id, if it decided one.';
comment on column private.moderation_actions.user_id is 'Whom it concerns.';
comment on column private.moderation_actions.message_id is 'Which message it concerns.';
comment on column private.moderation_actions.sanction_id is 'private.sanctions.id, if it imposed or lifted one.';
comment on column private.moderation_actions.note is 'The moderator''s reason.';
comment on column private.moderation_actions.details is 'What else is needed to understand or undo it.';
comment on column private.moderation_actions.undoes is 'The action this one took back; each can be taken back once.';
comment on column private.moderation_actions.created_at is 'When.';

create function private.refuse_change()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
    raise exception 'private.% only grows: rows are not changed or removed', tg_table_name using errcode = '55000';
end;
$$;
comment on function private.refuse_change() is 'Trigger of tables that only grow; holds for their owner too.';
revoke all on function private.refuse_change() from public, anon, authenticated, service_role;

create trigger moderation_actions_refuse_change
before update or delete on private.moderation_actions
for each row execute function private.refuse_change();

create trigger moderation_actions_refuse_truncate
before truncate on private.moderation_actions
for each statement execute function private.refuse_change();

create table private.verdicts (
    id uuid not null default private.uuid_v7(),
    user_id uuid not null,
    conversation_id uuid,
    message_id uuid,
    client_message_id uuid,
    action text not null,
    rules jsonb not null,
    body text,
    created_at timestamptz not null default clock_timestamp(),
    constraint verdicts_pkey primary key (id),
    constraint verdicts_action_check check (action in ('warn', 'mask', 'hold', 'reject'))
);
revoke all on table private.verdicts from public, anon, authenticated, service_role;
create index verdicts_user_id_idx on private.verdicts (user_id, id);
create index verdicts_message_id_idx on private.verdicts (message_id) where message_id is not null;
comment on table private.verdicts is 'What moderation rules said about a text that was not simply allowed, also when it was refused.';
comment on column private.verdicts.id is 'Time-ordered UUID.';
comment on column private.verdicts.user_id is 'Who wrote it.';
comment on column private.verdicts.conversation_id is 'Where; null when the conversation was not made.';
comment on column private.verdicts.message_id is 'The message; null when it was refused.';
comment on column private.verdicts.client_message_id is 'The idempotency key of the send; null for an edit.';
comment on column private.verdicts.action is 'warn, mask, hold or reject.';
comment on column private.verdicts.rules is 'The rules that matched: [{id, name, version, kind, action}].';
comment on column private.verdicts.body is 'The text as it was written; null for a sensitive message.';
comment on column private.verdicts.created_at is 'When.';

create table private.pending_messages (
    message_id uuid not null default private.uuid_v7(),
    conversation_id uuid not null,
    from_user_id uuid not null,
    client_message_id uuid not null,
    body text,
    masked_body text,
    warning text,
    is_sensitive boolean not null default false,
    state text not null default 'pending',
    created_at timestamptz not null default clock_timestamp(),
    decided_at timestamptz,
    constraint pending_messages_pkey primary key (message_id),
    constraint pending_messages_state_check check (state in ('pending', 'rejected')),
    constraint pending_messages_body_check check ((body is null) = is_sensitive)
);
revoke all on table private.pending_messages from public, anon, authenticated, service_role;
create index pending_messages_from_user_id_idx on private.pending_messages (from_user_id, conversation_id, message_id);
comment on table private.pending_messages is
'Messages that wait for a moderator, without a seq: only their authors know of them. A release makes a message of one and removes it here.';
comment on column private.pending_messages.message_id is 'The id the message has from the start and keeps when it is released.';
comment on column private.pending_messages.conversation_id is
'The conversation; one that it would have started is not yet there for the other person.';
comment on column private.pending_messages.from_user_id is 'The author.';
comment on column private.pending_messages.client_message_id is 'The author''s idempotency key.';
comment on column private.pending_messages.body is 'The text; null when sensitive.';
comment on column private.pending_messages.masked_body is 'What others will read while contact details are not allowed; null: all of it.';
comment on column private.pending_messages.warning is 'Label of the content warning it will carry.';
comment on column private.pending_messages.is_sensitive is 'The text is in its envelope.';
comment on column private.pending_messages.state is 'pending or rejected.';
comment on column private.pending_messages.created_at is 'When it was sent.';
comment on column private.pending_messages.decided_at is 'When it was rejected.';

create table private.originals (
    message_id uuid not null,
    body text not null,
    created_at timestamptz not null default clock_timestamp(),
    constraint originals_pkey primary key (message_id)
);
revoke all on table private.originals from public, anon, authenticated, service_role;
comment on table private.originals is 'What a masked message really says, or a hidden one said; gone when it is shown again.';
comment on column private.originals.message_id is 'public.messages.id.';
comment on column private.originals.body is 'The text.';
comment on column private.originals.created_at is 'When it was put away.';

create function private.require_moderator()
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
    v_me constant uuid := private.require_account();
begin
    if not exists (select 1 from private.moderators as m where m.user_id = v_me) then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only moderators may do this.';
    end if;
    return v_me;
end;
$$;
comment on function private.require_moderator() is
'The caller''s id, if they are a moderator. Raises PT401 unauthenticated, PT403 account_unavailable or forbidden.';
revoke all on function private.require_moderator() from public, anon, authenticated, service_role;

create function private.open_item(
    p_kind text, p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_details jsonb
)
returns uuid
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_item_id uuid;
begin
    -- Whoever comes second joins what is open; a decision in between makes it a new one.
    loop
        insert into private.moderation_items (kind, user_id, conversation_id, message_id, details)
        values (p_kind, p_user_id, p_conversation_id, p_message_id, p_details)
        on conflict do nothing
        returning id into v_item_id;
        exit when found;
        select i.id into v_item_id
        from private.moderation_items as i
        where
            i.status = 'open'
            and i.kind = p_kind
            and (i.message_id = p_message_id or (p_message_id is null and i.message_id is null and i.user_id = p_user_id))
        for no key update;
        exit when found;
    end loop;
    return v_item_id;
end;
$$;
comment on function private.open_item(text, uuid, uuid, uuid, jsonb) is
'Puts something into the moderators'' queue, or finds the open item about it, which is then locked.';
revoke all on function private.open_item(text, uuid, uuid, uuid, jsonb) from public, anon, authenticated, service_role;

create function private.record_action(
    p_moderator_id uuid, p_action text, p_item_id uuid, p_user_id uuid, p_message_id uuid, p_sanction_id uuid, p_note text,
    p_details jsonb, p_undoes uuid
)
returns uuid
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_action_id uuid;
begin
    insert into private.moderation_actions (
        moderator_id, action, item_id, user_id, message_id, sanction_id, note, details, undoes
    )
    values (p_moderator_id, p_action, p_item_id, p_user_id, p_message_id, p_sanction_id, p_note, p_details, p_undoes)
    returning id into v_action_id;
    return v_action_id;
end;
$$;
comment on function private.record_action(uuid, text, uuid, uuid, uuid, uuid, text, jsonb, uuid) is
'Writes one line of the audit log, in the transaction of what it tells about.';
revoke all on function private.record_action(uuid, text, uuid, uuid, uuid, uuid, text, jsonb, uuid)
from public, anon, authenticated, service_role;
