-- Purpose:   messages, and the keys that make a retry the same message for ever.
-- Consumers: send_message, get_conversation, mark_read; PostgREST and Postgres Changes readers under the policies.
-- Locks:     share row exclusive on conversations, for the moment of making the foreign key.
-- Undo:      drop table private.send_keys; drop table public.messages;
set lock_timeout = '4s';

create table public.messages (
    id uuid not null default private.uuid_v7(),
    conversation_id uuid not null,
    seq bigint not null,
    event_seq bigint not null,
    from_user_id uuid not null,
    to_user_id uuid,
    gig_id uuid,
    client_message_id uuid not null,
    body text,
    state text not null default 'visible',
    warning text,
    is_masked boolean not null default false,
    is_sensitive boolean not null default false,
    edited_at timestamptz,
    deleted_at timestamptz,
    created_at timestamptz not null,
    changed_position bigint not null,
    constraint messages_pkey primary key (id),
    constraint messages_conversation_id_fkey
    foreign key (conversation_id) references public.conversations (id) on delete restrict,
    constraint messages_seq_check check (seq >= 1 and event_seq >= seq),
    constraint messages_state_check check (
        (state = 'visible' and (body is null) = is_sensitive) or (state in ('deleted', 'hidden') and body is null)
    ),
    constraint messages_body_check check (char_length(body) between 1 and 4000)
);
revoke all on table public.messages from public, anon, authenticated, service_role;
grant select on table public.messages to authenticated, service_role;
alter table public.messages enable row level security;

-- Order and gaplessness of a conversation, its pages, and the foreign key.
create unique index messages_conversation_id_seq_key on public.messages (conversation_id, seq);

-- What changed in a conversation since a position, for sync.
create index messages_conversation_id_changed_position_idx on public.messages (conversation_id, changed_position);

-- All that was written about a gig, newest first (a host application's own pages).
create index messages_gig_id_created_at_idx on public.messages (gig_id, created_at desc) where gig_id is not null;

-- See conversations: estimates must not tell an outsider how much somebody writes.
alter table public.messages
alter column conversation_id set statistics 0,
alter column from_user_id set statistics 0,
alter column to_user_id set statistics 0,
alter column gig_id set statistics 0,
alter column client_message_id set statistics 0,
alter column body set statistics 0;

comment on table public.messages is
'What every member in range may read, and nothing else. Never deleted one by one: deleting leaves a tombstone. Written by functions only.';
comment on column public.messages.id is 'Time-ordered UUID.';
comment on column public.messages.conversation_id is 'The conversation.';
comment on column public.messages.seq is 'Place in the conversation, contiguous from 1.';
comment on column public.messages.event_seq is 'The conversation''s event_seq at the last change of this message.';
comment on column public.messages.from_user_id is 'The author: always the caller who wrote it.';
comment on column public.messages.to_user_id is 'The other person of a direct conversation; null in groups.';
comment on column public.messages.gig_id is 'The conversation''s gig, copied for queries by gig.';
comment on column public.messages.client_message_id is 'The author''s idempotency key.';
comment on column public.messages.body is 'Normalised text of 1 to 4,000 code points; null when deleted, hidden or sensitive.';
comment on column public.messages.state is 'visible, deleted (by its author) or hidden (by moderation).';
comment on column public.messages.warning is 'Label of a content warning that a moderation rule gave; null: none.';
comment on column public.messages.is_masked is 'Contact details are covered until the host application allows them in this conversation.';
comment on column public.messages.is_sensitive is 'The text is encrypted by the service and never in the database.';
comment on column public.messages.edited_at is 'Time of the last edit.';
comment on column public.messages.deleted_at is 'When its author deleted it.';
comment on column public.messages.created_at is 'When it was accepted, taken under the conversation''s lock.';
comment on column public.messages.changed_position is 'Position (microseconds) of its last change; see private.heads.';

create table private.send_keys (
    from_user_id uuid not null,
    client_message_id uuid not null,
    request_digest bytea not null,
    message_id uuid not null,
    constraint send_keys_pkey primary key (from_user_id, client_message_id)
);
revoke all on table private.send_keys from public, anon, authenticated, service_role;
comment on table private.send_keys is
'Every accepted send by its idempotency key. Outlives the message, so a late retry is never a second one.';
comment on column private.send_keys.from_user_id is 'The author.';
comment on column private.send_keys.client_message_id is 'The key, chosen by the client; unique per author.';
comment on column private.send_keys.request_digest is 'SHA-256 of the request as sent: resolved conversation and normalised text.';
comment on column private.send_keys.message_id is 'The message it made.';
