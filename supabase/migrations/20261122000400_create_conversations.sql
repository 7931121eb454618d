-- Purpose:   conversations, and one row per person and conversation that holds all an inbox needs.
-- Consumers: every function of messaging; Postgres Changes and PostgREST readers under the policies.
-- Locks:     none on existing tables.
-- Undo:      drop table public.conversation_members; drop table public.conversations;
--            drop function private.gig_allows(uuid, uuid, uuid);
set lock_timeout = '4s';

create table public.conversations (
    id uuid not null default private.uuid_v7(),
    kind text not null,
    gig_id uuid,
    title text,
    search_title text generated always as (private.fold_text(title)) stored,
    created_by uuid not null,
    direct_low uuid,
    direct_high uuid,
    last_seq bigint not null default 0,
    first_seq bigint not null default 1,
    event_seq bigint not null default 0,
    position bigint not null default 0,
    last_message_at timestamptz,
    live_epoch integer not null default 1,
    contact_allowed_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    constraint conversations_pkey primary key (id),
    constraint conversations_kind_check check (
        (kind = 'direct' and direct_low is not null and direct_high is not null and direct_low < direct_high and title is null)
        or (kind = 'group' and direct_low is null and direct_high is null and title is not null)
    ),
    constraint conversations_title_check check (char_length(title) between 1 and 120),
    constraint conversations_seq_check check (first_seq between 1 and last_seq + 1 and event_seq >= last_seq)
);
revoke all on table public.conversations from public, anon, authenticated, service_role;
grant select on table public.conversations to authenticated, service_role;
alter table public.conversations enable row level security;

-- One direct conversation per pair and gig; "no gig" is one more gig. Also finds all conversations of a pair.
create unique index conversations_direct_low_direct_high_gig_id_key
on public.conversations (direct_low, direct_high, gig_id) nulls not distinct
where kind = 'direct';

-- The conversations of one person about one gig; a change of a conversation touches no indexed column, so these cost a send nothing.
create index conversations_gig_id_direct_low_idx on public.conversations (gig_id, direct_low) where gig_id is not null;
create index conversations_gig_id_direct_high_idx on public.conversations (gig_id, direct_high) where gig_id is not null;

-- The planner's row estimates (Prefer: count=planned) are made from statistics of all rows, not only of readable ones:
-- without statistics they cannot tell an outsider how much a person or a gig is talked to.
alter table public.conversations
alter column gig_id set statistics 0,
alter column title set statistics 0,
alter column search_title set statistics 0,
alter column created_by set statistics 0,
alter column direct_low set statistics 0,
alter column direct_high set statistics 0;

comment on table public.conversations is 'A direct conversation of two people (per gig) or a group. Written by functions only.';
comment on column public.conversations.id is 'Time-ordered UUID.';
comment on column public.conversations.kind is 'direct or group.';
comment on column public.conversations.gig_id is 'A row the host application owns; see private.gig_allows. Null: not about a gig.';
comment on column public.conversations.title is 'Groups only: normalised, 1 to 120 code points.';
comment on column public.conversations.search_title is 'title folded for searches.';
comment on column public.conversations.created_by is 'Who wrote first or made the group.';
comment on column public.conversations.direct_low is 'The smaller of the two people''s ids; null in groups.';
comment on column public.conversations.direct_high is 'The larger of the two people''s ids; null in groups.';
comment on column public.conversations.last_seq is 'seq of the newest message; 0 before the first. Contiguous from 1.';
comment on column public.conversations.first_seq is 'seq of the oldest message that retention has kept.';
comment on column public.conversations.event_seq is 'Rises with every change of the conversation; gaps are allowed.';
comment on column public.conversations.position is
'Highest position (microseconds) given to a change of the conversation; see private.heads.';
comment on column public.conversations.last_message_at is 'created_at of the newest message.';
comment on column public.conversations.live_epoch is 'Last part of the live topic''s name; rises when someone loses access.';
comment on column public.conversations.contact_allowed_at is
'Since when the host application lets these people exchange contact details; null: they are masked. See private.allow_contact.';
comment on column public.conversations.created_at is 'When it was made.';

create table public.conversation_members (
    conversation_id uuid not null,
    user_id uuid not null,
    role text not null default 'member',
    visible_from_seq bigint not null default 1,
    joined_at timestamptz not null default clock_timestamp(),
    left_at timestamptz,
    last_read_seq bigint not null default 0,
    shared_read_seq bigint not null default 0,
    shared_delivered_seq bigint not null default 0,
    unread_count integer not null default 0,
    archived_at timestamptz,
    muted_until timestamptz,
    pinned_at timestamptz,
    marked_unread boolean not null default false,
    last_activity_at timestamptz not null default clock_timestamp(),
    changed_position bigint not null default 0,
    is_archived boolean not null generated always as (archived_at is not null) stored,
    is_pinned boolean not null generated always as (pinned_at is not null) stored,
    constraint conversation_members_pkey primary key (conversation_id, user_id),
    constraint conversation_members_conversation_id_fkey
    foreign key (conversation_id) references public.conversations (id) on delete restrict,
    constraint conversation_members_role_check check (role in ('owner', 'admin', 'member')),
    constraint conversation_members_watermarks_check check (
        visible_from_seq >= 1 and last_read_seq >= 0 and shared_read_seq between 0 and shared_delivered_seq and unread_count >= 0
    )
);
revoke all on table public.conversation_members from public, anon, authenticated, service_role;
grant select on table public.conversation_members to authenticated, service_role;
alter table public.conversation_members enable row level security;
alter table public.conversation_members alter column user_id set statistics 0;

-- The inbox and the archive, each in its order, one index range per page. Also "who am I with", which policies ask.
create index conversation_members_inbox_idx on public.conversation_members (
    user_id, is_archived, is_pinned desc, last_activity_at desc, conversation_id desc
) where left_at is null;

-- The badge, and the inbox filtered by unread: only conversations with something unread are in it.
create index conversation_members_unread_idx on public.conversation_members (
    user_id, is_archived, is_pinned desc, last_activity_at desc, conversation_id desc
) include (unread_count, muted_until) where left_at is null and (unread_count > 0 or marked_unread);

-- Which conversations changed for a person since a position, for sync.
create index conversation_members_changed_position_idx on public.conversation_members (user_id, changed_position, conversation_id);

-- Whom one used to be with. Rows come in when a membership ends, so it costs a send nothing.
create index conversation_members_former_idx on public.conversation_members (user_id, conversation_id)
where left_at is not null;

comment on table public.conversation_members is
'One row per person and conversation: watermarks, unread, and the person''s own arrangement. Written by functions only.';
comment on column public.conversation_members.conversation_id is 'The conversation.';
comment on column public.conversation_members.user_id is 'auth.users.id; no foreign key, an account''s end deletes no rows.';
comment on column public.conversation_members.role is 'owner, admin or member; in direct conversations always member.';
comment on column public.conversation_members.visible_from_seq is 'The person reads messages from this seq on; rejoining sets it anew.';
comment on column public.conversation_members.joined_at is 'Start of the current membership.';
comment on column public.conversation_members.left_at is
'End of the membership; null while it lasts. Set from the start for whoever has not been reached yet, since the first message is held.';
comment on column public.conversation_members.last_read_seq is 'The person''s own read watermark.';
comment on column public.conversation_members.shared_read_seq is 'The read watermark that others see.';
comment on column public.conversation_members.shared_delivered_seq is
'The delivered watermark that others see; never below shared_read_seq.';
comment on column public.conversation_members.unread_count is
'Messages above greatest(last_read_seq, visible_from_seq - 1), not mine, visible.';
comment on column public.conversation_members.archived_at is 'Set while archived.';
comment on column public.conversation_members.muted_until is 'Muted until then.';
comment on column public.conversation_members.pinned_at is 'Set while pinned.';
comment on column public.conversation_members.marked_unread is 'The person''s own mark; reading clears it.';
comment on column public.conversation_members.last_activity_at is 'Sort key of the inbox: time of the newest message, or of joining.';
comment on column public.conversation_members.is_archived is 'archived_at is set; for indexes.';
comment on column public.conversation_members.is_pinned is 'pinned_at is set; for indexes.';
comment on column public.conversation_members.changed_position is 'Position of the newest change this person can see; see private.heads.';

create function private.gig_allows(p_gig_id uuid, p_sender_id uuid, p_recipient_id uuid)
returns boolean
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return true;
end;
$$;
comment on function private.gig_allows(uuid, uuid, uuid) is
'The host application''s hook, asked before p_sender_id starts a direct conversation about p_gig_id with p_recipient_id. '
'Definer, so that a replacement may read the host''s tables. Replace with create or replace; false answers recipient_unavailable.';
revoke all on function private.gig_allows(uuid, uuid, uuid) from public, anon, authenticated, service_role;
