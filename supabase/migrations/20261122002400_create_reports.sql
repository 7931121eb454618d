-- Purpose:   people report messages and each other; what they saw is kept as it was.
-- Consumers: POST /api/messages/{id}/report, POST /api/users/{id}/report; direct callers of the same RPCs; the moderators.
-- Locks:     none on existing tables. At run time: the reporter's pace row, then, last, the row of the queue.
-- Undo:      drop function public.report_user(uuid, text, text); drop function private.report_user(uuid, text, text);
--            drop function public.report_message(uuid, text, text); drop function private.report_message(uuid, text, text);
--            drop function private.file_report(uuid, uuid, uuid, uuid, text, text);
--            drop function private.user_evidence(uuid, uuid); drop function private.shared_conversations(uuid, uuid);
--            drop function private.message_evidence(uuid);
--            drop function private.original_json(public.messages); drop function private.note_of(text, text);
--            drop function private.report_json(private.reports); drop table private.reports;
set lock_timeout = '4s';

create table private.reports (
    id uuid not null default private.uuid_v7(),
    item_id uuid not null,
    reporter_id uuid not null,
    kind text not null,
    message_id uuid,
    user_id uuid not null,
    reason text not null,
    note text,
    evidence jsonb not null,
    status text not null default 'open',
    created_at timestamptz not null default clock_timestamp(),
    closed_at timestamptz,
    constraint reports_pkey primary key (id),
    constraint reports_kind_check check (kind = case when message_id is null then 'user' else 'message' end),
    constraint reports_reason_check check (
        reason in (
            'spam', 'scam', 'harassment', 'hate', 'sexual', 'violence', 'off_platform', 'impersonation', 'illegal', 'other'
        )
    ),
    constraint reports_note_check check (char_length(note) between 1 and 1000),
    constraint reports_user_id_check check (user_id <> reporter_id),
    constraint reports_status_check check (
        (status = 'open' and closed_at is null) or (status = 'closed' and closed_at is not null)
    )
);
revoke all on table private.reports from public, anon, authenticated, service_role;
create unique index reports_open_key on private.reports (reporter_id, coalesce(message_id, user_id)) where status = 'open';
create index reports_item_id_idx on private.reports (item_id, id);
comment on table private.reports is
'Who reported what and why. One open report per person and thing; it is closed when the item of the queue is decided.';
comment on column private.reports.id is 'Time-ordered UUID.';
comment on column private.reports.item_id is 'private.moderation_items.id.';
comment on column private.reports.reporter_id is 'Who reported; never told to the person it is about.';
comment on column private.reports.kind is 'message or user.';
comment on column private.reports.message_id is 'The message, if it is about one.';
comment on column private.reports.user_id is 'Whose conduct it is about: the author, or the person.';
comment on column private.reports.reason is 'A stable word.';
comment on column private.reports.note is 'In the reporter''s words: normalised, 1 to 1,000 code points.';
comment on column private.reports.evidence is 'What there was to see when it was reported; see message_evidence and user_evidence.';
comment on column private.reports.status is 'open or closed.';
comment on column private.reports.created_at is 'When.';
comment on column private.reports.closed_at is 'When a moderator decided.';

create function private.report_json(p_report private.reports)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return jsonb_build_object(
        'id', p_report.id,
        'kind', p_report.kind,
        'messageId', p_report.message_id,
        'userId', p_report.user_id,
        'reason', p_report.reason,
        'note', p_report.note,
        'status', p_report.status,
        'createdAt', private.iso_time(p_report.created_at)
    );
end;
$$;
comment on function private.report_json(private.reports) is 'Shape Report: what its reporter may know.';
revoke all on function private.report_json(private.reports) from public, anon, authenticated, service_role;

create function private.note_of(p_note text, p_pointer text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_note constant text := private.normalize_text(p_note);
begin
    if char_length(v_note) > 1000 or (v_note is null and p_note is not null) then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'It must have at most 1,000 characters after normalisation.', hint = p_pointer;
    end if;
    return nullif(v_note, '');
end;
$$;
comment on function private.note_of(text, text) is
'A remark, normalised; null when there is nothing in it. Raises PT400 validation_failed, pointing there, beyond 1,000 code points.';
revoke all on function private.note_of(text, text) from public, anon, authenticated, service_role;

create function private.original_json(p_message public.messages)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    if p_message.is_sensitive then
        -- Without an envelope it is not an object, and stays as it is.
        return jsonb_build_object('body', null, 'unreadable', true, 'envelope', private.envelope_json(p_message.id));
    end if;
    return jsonb_build_object(
        'body', coalesce((
            select o.body
            from private.originals as o
            where o.message_id = p_message.id
        ), p_message.body),
        'unreadable', false
    );
end;
$$;
comment on function private.original_json(public.messages) is
'What a message really says, also when it is covered or hidden: {body, unreadable}; of a sensitive one with its envelope, which the '
'service opens. The body of a deleted one is null. For moderators.';
revoke all on function private.original_json(public.messages) from public, anon, authenticated, service_role;

create function private.message_evidence(p_message_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    -- One statement, so that all of it is of one moment.
    return (
        select jsonb_build_object(
            'conversationId', m.conversation_id,
            'seq', m.seq,
            'eventSeq', m.event_seq,
            'fromUserId', m.from_user_id,
            'toUserId', m.to_user_id,
            'senderName', private.profile_json(m.from_user_id) ->> 'displayName',
            'body', m.body,
            'original', private.original_json(m),
            'state', m.state,
            'warning', m.warning,
            'masked', m.is_masked,
            'sensitive', m.is_sensitive,
            'createdAt', private.iso_time(m.created_at),
            'editedAt', private.iso_time(m.edited_at),
            'deletedAt', private.iso_time(m.deleted_at),
            'versions', coalesce((
                select jsonb_agg(
                    jsonb_build_object('version', v.version, 'body', v.body, 'replacedAt', private.iso_time(v.replaced_at))
                    order by v.version
                )
                from (
                    -- The newest twenty: texts can be long and edits many.
                    select t.version, t.body, t.replaced_at
                    from private.message_versions as t
                    where t.message_id = m.id
                    order by t.version desc
                    limit 20
                ) as v
            ), '[]'::jsonb),
            'around', coalesce((
                select jsonb_agg(jsonb_build_object('id', a.id, 'seq', a.seq, 'eventSeq', a.event_seq) order by a.seq)
                from public.messages as a
                where a.conversation_id = m.conversation_id and a.seq between m.seq - 10 and m.seq + 10 and a.seq <> m.seq
            ), '[]'::jsonb)
        )
        from public.messages as m
        where m.id = p_message_id
    );
end;
$$;
comment on function private.message_evidence(uuid) is
'A message as it is now, with its newest twenty earlier texts, and which messages are around it.';
revoke all on function private.message_evidence(uuid) from public, anon, authenticated, service_role;

create function private.shared_conversations(p_me uuid, p_user_id uuid)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
begin
    -- At the same time, so that the answer tells nobody who came after they had left. In a direct conversation an end of the
    -- membership means that the person has not been reached.
    return array(
        select c.id
        from (
            select m.conversation_id, m.joined_at, m.left_at
            from public.conversation_members as m
            where m.user_id = p_me and m.left_at is null
            union all
            select m.conversation_id, m.joined_at, m.left_at
            from public.conversation_members as m
            where m.user_id = p_me and m.left_at is not null
        ) as mine
        inner join public.conversation_members as theirs
            on mine.conversation_id = theirs.conversation_id and theirs.user_id = p_user_id
        inner join public.conversations as c on mine.conversation_id = c.id
        where
            case c.kind
                when 'direct' then mine.left_at is null and theirs.left_at is null
                else
                    mine.joined_at < coalesce(theirs.left_at, 'infinity')
                    and theirs.joined_at < coalesce(mine.left_at, 'infinity')
            end
        order by c.last_message_at desc nulls last, c.id
        limit 20
    );
end;
$$;
comment on function private.shared_conversations(uuid, uuid) is
'The newest twenty conversations in which the two are, or were, at the same time.';
revoke all on function private.shared_conversations(uuid, uuid) from public, anon, authenticated, service_role;

create function private.user_evidence(p_me uuid, p_user_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return jsonb_build_object(
        'profile', private.profile_json(p_user_id),
        'conversationIds', to_jsonb(private.shared_conversations(p_me, p_user_id))
    );
end;
$$;
comment on function private.user_evidence(uuid, uuid) is
'A person''s name and picture as they are now, and the conversations shared with who reports them.';
revoke all on function private.user_evidence(uuid, uuid) from public, anon, authenticated, service_role;

create function private.file_report(
    p_me uuid, p_user_id uuid, p_conversation_id uuid, p_message_id uuid, p_reason text, p_note text
)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_settings private.settings;
    v_report private.reports;
    v_is_created boolean := false;
begin
    if
        p_reason is null or p_reason not in (
            'spam', 'scam', 'harassment', 'hate', 'sexual', 'violence', 'off_platform', 'impersonation', 'illegal', 'other'
        )
    then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'reason must be one of the documented words.', hint = '/reason';
    end if;
    -- One report of a person at a time: a repetition finds the first one.
    perform private.lock_pace(p_me, 'report');
    select r.* into v_report
    from private.reports as r
    where
        r.reporter_id = p_me
        and coalesce(r.message_id, r.user_id) = coalesce(p_message_id, p_user_id)
        and r.status = 'open';
    if not found then
        select s.* into v_settings from private.settings as s;
        perform private.take_pace(p_me, 'report', v_settings.report_count_max, v_settings.report_window_s);
        v_report.evidence := case
            when p_message_id is null then private.user_evidence(p_me, p_user_id)
            else private.message_evidence(p_message_id)
        end;
        -- Locked last by everything that touches the queue, so nobody who holds it waits for anything.
        v_report.item_id := private.open_item(
            case when p_message_id is null then 'user_report' else 'message_report' end,
            p_user_id, p_conversation_id, p_message_id, '{}'
        );
        insert into private.reports (item_id, reporter_id, kind, message_id, user_id, reason, note, evidence)
        values (
            v_report.item_id, p_me, case when p_message_id is null then 'user' else 'message' end, p_message_id, p_user_id,
            p_reason, p_note, v_report.evidence
        )
        returning * into v_report;
        update private.moderation_items as i
        set details = i.details || jsonb_build_object('reasons', (
            select jsonb_object_agg(t.reason, t.people)
            from (
                select r.reason, count(*) as people
                from private.reports as r
                where r.item_id = v_report.item_id
                group by r.reason
            ) as t
        ))
        where i.id = v_report.item_id;
        v_is_created := true;
    end if;
    return jsonb_build_object('report', private.report_json(v_report), 'created', v_is_created);
end;
$$;
comment on function private.file_report(uuid, uuid, uuid, uuid, text, text) is
'Keeps a report with its evidence and puts it before the moderators, or finds the open one. The caller has checked that p_me may know of '
'the thing. Raises PT400 validation_failed, PT429 rate_limited.';
revoke all on function private.file_report(uuid, uuid, uuid, uuid, text, text) from public, anon, authenticated, service_role;

create function private.report_message(p_message_id uuid, p_reason text, p_note text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
    v_note constant text := private.note_of(p_note, '/note');
    v_message public.messages;
begin
    select m.* into v_message
    from public.messages as m
    inner join public.conversation_members as me on m.conversation_id = me.conversation_id
    where m.id = p_message_id and me.user_id = v_me and me.left_at is null and me.visible_from_seq <= m.seq;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such message for you.';
    end if;
    if v_message.from_user_id = v_me then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'One''s own message cannot be reported.';
    end if;
    return private.file_report(v_me, v_message.from_user_id, v_message.conversation_id, p_message_id, p_reason, v_note);
end;
$$;
comment on function private.report_message(uuid, text, text) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.report_message.';
revoke all on function private.report_message(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function private.report_message(uuid, text, text) to authenticated;

create function public.report_message(p_message_id uuid default null, p_reason text default null, p_note text default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.report_message(p_message_id, p_reason, p_note);
comment on function public.report_message(uuid, text, text) is
'Reports somebody else''s message to the moderators: {report, created}; while the caller''s report about it is open, that one. Raises '
'PT400 validation_failed, PT401 unauthenticated, PT403 account_unavailable or forbidden, PT404 not_found, PT429 rate_limited.';
revoke all on function public.report_message(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.report_message(uuid, text, text) to authenticated;

create function private.report_user(p_user_id uuid, p_reason text, p_note text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
    v_note constant text := private.note_of(p_note, '/note');
begin
    if p_user_id = v_me then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'One cannot report oneself.', hint = '/id';
    end if;
    if cardinality(private.shared_conversations(v_me, p_user_id)) = 0 then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such person for you.';
    end if;
    return private.file_report(v_me, p_user_id, null, null, p_reason, v_note);
end;
$$;
comment on function private.report_user(uuid, text, text) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.report_user.';
revoke all on function private.report_user(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function private.report_user(uuid, text, text) to authenticated;

create function public.report_user(p_user_id uuid default null, p_reason text default null, p_note text default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.report_user(p_user_id, p_reason, p_note);
comment on function public.report_user(uuid, text, text) is
'Reports a person one is, or was, in a conversation with: {report, created}; while the caller''s report about them is open, that one. '
'Raises PT400 validation_failed, PT401 unauthenticated, PT403 account_unavailable, PT404 not_found, PT429 rate_limited.';
revoke all on function public.report_user(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.report_user(uuid, text, text) to authenticated;
