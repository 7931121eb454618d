-- Purpose:   what an outside classifier still has to look at: messages that are sent already, one job each.
-- Consumers: send_message, edit_message and the release of held messages put in; the worker's functions take out.
-- Locks:     access exclusive on private.settings, for the moment of adding two columns.
-- Undo:      drop function private.enqueue_classification(uuid, text); drop table private.classifier_totals;
--            drop table private.classifier_jobs;
--            alter table private.settings drop column classifier_mode, drop column classifier_attempts_max;
set lock_timeout = '4s';

alter table private.settings
add column classifier_mode text not null default 'off',
add column classifier_attempts_max integer not null default 8,
add constraint settings_classifier_mode_check check (classifier_mode in ('off', 'open', 'closed')),
add constraint settings_classifier_attempts_max_check check (classifier_attempts_max between 1 and 100);
comment on column private.settings.classifier_mode is
'off: nothing is queued and nothing is done. Otherwise each message is classified after it was sent; one that cannot be stays '
'(open) or is hidden (closed).';
comment on column private.settings.classifier_attempts_max is
'Failed attempts after which a message counts as one that cannot be classified.';

create table private.classifier_jobs (
    message_id uuid not null,
    reason text not null,
    event_seq bigint not null,
    attempts integer not null default 0,
    last_error text,
    run_at timestamptz not null default clock_timestamp(),
    leased_until timestamptz,
    lease uuid,
    created_at timestamptz not null default clock_timestamp(),
    constraint classifier_jobs_pkey primary key (message_id),
    constraint classifier_jobs_reason_check check (reason in ('created', 'edited')),
    constraint classifier_jobs_lease_check check ((lease is null) = (leased_until is null))
);
revoke all on table private.classifier_jobs from public, anon, authenticated, service_role;
-- In the order in which they are due: free ones at run_at, leased ones when their worker must be taken for dead.
create index classifier_jobs_due_idx on private.classifier_jobs (coalesce(leased_until, run_at));
comment on table private.classifier_jobs is
'Messages that wait for the classifier or are with it. No text is kept here: the worker is given what the message says by then.';
comment on column private.classifier_jobs.message_id is 'public.messages.id; no foreign key.';
comment on column private.classifier_jobs.reason is 'created or edited.';
comment on column private.classifier_jobs.event_seq is
'The message''s event_seq when it was queued or handed out last: a verdict holds for that text only.';
comment on column private.classifier_jobs.attempts is 'Attempts that failed.';
comment on column private.classifier_jobs.last_error is 'The worker''s word for the last failure.';
comment on column private.classifier_jobs.run_at is 'Not before.';
comment on column private.classifier_jobs.leased_until is 'A worker has it until then; null: it is free.';
comment on column private.classifier_jobs.lease is 'Known to the worker that has it; whoever lost the lease can no longer say anything.';
comment on column private.classifier_jobs.created_at is 'Since when this text waits.';

create table private.classifier_totals (
    day date not null,
    outcome text not null,
    total bigint not null,
    constraint classifier_totals_pkey primary key (day, outcome)
);
revoke all on table private.classifier_totals from public, anon, authenticated, service_role;
comment on table private.classifier_totals is 'How many messages ended how, a few rows per day.';
comment on column private.classifier_totals.day is 'In UTC.';
comment on column private.classifier_totals.outcome is
'allow, warn, hide or review: what the classifier said; unclassified_shown or unclassified_hidden: it could not be asked, and the mode '
'was open or closed.';
comment on column private.classifier_totals.total is 'Messages, each version counted.';

create function private.enqueue_classification(p_message_id uuid, p_mode text default null)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    if p_mode = 'off' then
        return;
    end if;
    if p_mode is null and exists (select 1 from private.settings as s where s.classifier_mode = 'off') then
        return;
    end if;
    -- A sensitive text is not in the database, and leaves the service for nobody.
    insert into private.classifier_jobs (message_id, event_seq, reason)
    select
        m.id,
        m.event_seq,
        case when m.edited_at is null then 'created' else 'edited' end
    from public.messages as m
    where m.id = p_message_id and m.state = 'visible' and not m.is_sensitive
    on conflict (message_id) do update
        set
            event_seq = excluded.event_seq, reason = excluded.reason, attempts = 0, last_error = null,
            run_at = excluded.run_at, leased_until = null, lease = null, created_at = excluded.created_at;
end;
$$;
comment on function private.enqueue_classification(uuid, text) is
'Queues a message for the classifier, or once more after an edit; nothing when the mode is off or the message is sensitive. p_mode: '
'settings.classifier_mode, for callers who hold the settings. They hold the conversation''s lock, too, and have written the message.';
revoke all on function private.enqueue_classification(uuid, text) from public, anon, authenticated, service_role;
