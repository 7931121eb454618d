-- Purpose:   the worker takes messages to an outside classifier and brings back what is to be done with them.
-- Consumers: python -m app.worker, with the secret key; nobody else may call these.
-- Locks:     none on existing tables. At run time: claiming locks jobs, and waits for none of them; a verdict locks the conversation,
--            the job, then heads by user id, the message and members.
-- Undo:      drop function public.release_classification(uuid, uuid); drop function private.release_classification(uuid, uuid);
--            drop function public.fail_classification(uuid, uuid, text); drop function private.fail_classification(uuid, uuid, text);
--            drop function public.finish_classification(uuid, uuid, jsonb); drop function private.finish_classification(uuid, uuid, jsonb);
--            drop function public.claim_classifications(integer, integer);
--            drop function private.claim_classifications(integer, integer);
--            drop function private.count_classification(text); drop function private.queue_classified(public.messages, jsonb);
--            drop function private.warn_message(public.messages, text); drop function private.lock_classification(uuid, uuid);
set lock_timeout = '4s';

create function private.lock_classification(p_message_id uuid, p_lease uuid)
returns public.messages
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_conversation_id uuid;
    v_event_seq bigint;
    v_message public.messages;
begin
    -- In the order of every write: an edit holds the conversation when it comes to the job.
    select m.conversation_id into v_conversation_id from public.messages as m where m.id = p_message_id;
    perform 1 from public.conversations as c where c.id = v_conversation_id for no key update;
    select j.event_seq into v_event_seq
    from private.classifier_jobs as j
    where j.message_id = p_message_id and j.lease = p_lease
    for update;
    if not found then
        return null;
    end if;
    select m.* into v_message from public.messages as m where m.id = p_message_id;
    if v_message.state is distinct from 'visible' then
        delete from private.classifier_jobs as j where j.message_id = p_message_id;
        return null;
    end if;
    if v_message.event_seq <> v_event_seq then
        -- It has changed since it was handed out, and what was said about it may be about another text.
        update private.classifier_jobs as j
        set attempts = 0, last_error = null, run_at = clock_timestamp(), leased_until = null, lease = null
        where j.message_id = p_message_id;
        return null;
    end if;
    return v_message;
end;
$$;
comment on function private.lock_classification(uuid, uuid) is
'Locks the conversation and the job of a leased message and returns the message, if it still is as it was handed out. Otherwise null: '
'the job is somebody else''s or gone, was taken away (the message is not visible any more) or waits again (it has changed).';
revoke all on function private.lock_classification(uuid, uuid) from public, anon, authenticated, service_role;

create function private.warn_message(p_message public.messages, p_label text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    if p_message.warning is not distinct from p_label then
        return;
    end if;
    update public.messages as m set warning = p_label where m.id = p_message.id;
    perform private.show_message(p_message, p_message.body, p_message.state, p_message.is_masked);
end;
$$;
comment on function private.warn_message(public.messages, text) is
'Gives a message of a locked conversation another content warning (null: none) and tells everybody; the same again changes nothing.';
revoke all on function private.warn_message(public.messages, text) from public, anon, authenticated, service_role;

create function private.queue_classified(p_message public.messages, p_details jsonb)
returns uuid
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_item_id constant uuid := private.open_item(
        'classified', p_message.from_user_id, p_message.conversation_id, p_message.id, p_details
    );
begin
    -- An item that was open already is about this text from now on.
    update private.moderation_items as i set details = p_details where i.id = v_item_id and i.details <> p_details;
    return v_item_id;
end;
$$;
comment on function private.queue_classified(public.messages, jsonb) is
'Puts a message into the moderators'' queue with what the classifier said last; answers the item.';
revoke all on function private.queue_classified(public.messages, jsonb) from public, anon, authenticated, service_role;

create function private.count_classification(p_outcome text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    insert into private.classifier_totals as t (day, outcome, total)
    values ((clock_timestamp() at time zone 'utc')::date, p_outcome, 1)
    on conflict (day, outcome) do update set total = t.total + 1;
end;
$$;
comment on function private.count_classification(text) is
'Counts one message that is done with. All workers count in the same rows, so this comes last in a transaction.';
revoke all on function private.count_classification(text) from public, anon, authenticated, service_role;

create function private.claim_classifications(p_limit integer, p_lease_s integer)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_lease uuid;
    v_job private.classifier_jobs;
    v_message public.messages;
    v_jobs jsonb := '[]';
begin
    if p_limit is null or p_limit not between 1 and 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'Between 1 and 100 messages can be claimed at once.', hint = '/limit';
    end if;
    if p_lease_s is null or p_lease_s not between 1 and 900 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'A lease lasts between 1 and 900 seconds.', hint = '/leaseS';
    end if;
    if exists (select 1 from private.settings as s where s.classifier_mode = 'off') then
        return jsonb_build_object('jobs', v_jobs);
    end if;
    for v_job in
        select j.*
        from private.classifier_jobs as j
        where coalesce(j.leased_until, j.run_at) <= v_now
        order by coalesce(j.leased_until, j.run_at)
        limit p_limit
        for update skip locked
    loop
        select m.* into v_message from public.messages as m where m.id = v_job.message_id;
        if v_message.id is null or v_message.state <> 'visible' or v_message.is_sensitive then
            delete from private.classifier_jobs as j where j.message_id = v_job.message_id;
            continue;
        end if;
        v_lease := gen_random_uuid();
        update private.classifier_jobs as j
        set event_seq = v_message.event_seq, lease = v_lease, leased_until = v_now + make_interval(secs => p_lease_s)
        where j.message_id = v_job.message_id;
        v_jobs := v_jobs || jsonb_build_object(
            'lease', v_lease,
            'attempt', v_job.attempts + 1,
            'reason', v_job.reason,
            'messageId', v_message.id,
            'eventSeq', v_message.event_seq,
            'conversationId', v_message.conversation_id,
            'fromUserId', v_message.from_user_id,
            'gigId', v_message.gig_id,
            'body', v_message.body,
            'createdAt', private.iso_time(v_message.created_at)
        );
    end loop;
    return jsonb_build_object('jobs', v_jobs);
end;
$$;
comment on function private.claim_classifications(integer, integer) is
'Definer, because jobs are private; granted to service_role only. See public.claim_classifications.';
revoke all on function private.claim_classifications(integer, integer) from public, anon, authenticated, service_role;
grant execute on function private.claim_classifications(integer, integer) to service_role;

create function public.claim_classifications(p_limit integer default 10, p_lease_s integer default 60)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.claim_classifications(p_limit, p_lease_s);
comment on function public.claim_classifications(integer, integer) is
'Hands out at most p_limit due messages for p_lease_s seconds, each to one worker: {jobs: [{lease, attempt, reason, messageId, eventSeq, '
'conversationId, fromUserId, gigId, body, createdAt}]}. body is what the members read. What is not finished by then is handed out again. '
'Raises PT400 validation_failed.';
revoke all on function public.claim_classifications(integer, integer) from public, anon, authenticated, service_role;
grant execute on function public.claim_classifications(integer, integer) to service_role;

create function private.finish_classification(p_message_id uuid, p_lease uuid, p_outcome jsonb)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_action constant text := p_outcome ->> 'action';
    v_label constant text := private.normalize_line(p_outcome ->> 'label');
    v_details jsonb;
    v_message public.messages;
    v_item_id uuid;
begin
    if v_action is null or v_action not in ('allow', 'warn', 'hide', 'review') then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The action is allow, warn, hide or review.', hint = '/outcome/action';
    end if;
    if
        jsonb_typeof(p_outcome -> 'label') not in ('string', 'null')
        or char_length(v_label) not between 1 and 64
        or (v_action = 'warn' and v_label is null)
    then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'A label has 1 to 64 characters; a warning needs one.', hint = '/outcome/label';
    end if;
    if
        jsonb_typeof(p_outcome -> 'score') not in ('number', 'null')
        or jsonb_typeof(p_outcome -> 'model') not in ('string', 'null')
        or char_length(p_outcome ->> 'model') > 64
    then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The score is a number, the model a string of at most 64 characters.', hint = '/outcome';
    end if;

    if exists (select 1 from private.settings as s where s.classifier_mode = 'off') then
        -- Whoever switches it off wants nothing more to happen from now on. Asked again when it is on.
        update private.classifier_jobs as j
        set leased_until = null, lease = null
        where j.message_id = p_message_id and j.lease = p_lease;
        return jsonb_build_object('result', 'off');
    end if;
    v_message := private.lock_classification(p_message_id, p_lease);
    if v_message.id is null then
        return jsonb_build_object('result', 'outdated');
    end if;
    v_details := jsonb_build_object(
        'action', v_action,
        'label', v_label,
        'score', p_outcome -> 'score',
        'model', p_outcome ->> 'model',
        'eventSeq', v_message.event_seq
    );
    delete from private.classifier_jobs as j where j.message_id = p_message_id;
    if v_action in ('hide', 'review') then
        v_item_id := private.queue_classified(v_message, v_details);
    end if;
    if v_action in ('hide', 'warn') then
        perform private.record_action(
            null, case v_action when 'hide' then 'classifier_hid' else 'classifier_warned' end,
            v_item_id, v_message.from_user_id, v_message.id, null, null, v_details, null
        );
    end if;
    if v_action = 'hide' then
        perform private.hide_message(v_message.id);
    elsif v_action = 'warn' then
        perform private.warn_message(v_message, v_label);
    end if;
    perform private.count_classification(v_action);
    return jsonb_build_object('result', 'done');
end;
$$;
comment on function private.finish_classification(uuid, uuid, jsonb) is
'Definer, because no API role may write our tables; granted to service_role only. See public.finish_classification.';
revoke all on function private.finish_classification(uuid, uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function private.finish_classification(uuid, uuid, jsonb) to service_role;

create function public.finish_classification(
    p_message_id uuid default null, p_lease uuid default null, p_outcome jsonb default null
)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.finish_classification(p_message_id, p_lease, p_outcome);
comment on function public.finish_classification(uuid, uuid, jsonb) is
'Does what the classifier said, {action: allow, warn, hide or review, label, score, model}: {result} is done, outdated (the lease is lost, '
'or the message has changed and is handed out again) or off. Hidden and to be reviewed: an item for the moderators. '
'Raises PT400 validation_failed.';
revoke all on function public.finish_classification(uuid, uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.finish_classification(uuid, uuid, jsonb) to service_role;

create function private.fail_classification(p_message_id uuid, p_lease uuid, p_error text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_settings private.settings;
    v_message public.messages;
    v_details jsonb;
begin
    if p_error is null or p_error !~ '^[a-z0-9_]{1,40}$' then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The error is one word.', hint = '/error';
    end if;
    select s.* into v_settings from private.settings as s;
    -- 10 s, 20 s, 40 s ... at most an hour, each a quarter more or less, so that not all come back at once.
    update private.classifier_jobs as j
    set
        attempts = j.attempts + 1,
        last_error = p_error,
        run_at = clock_timestamp() + make_interval(secs => least(3600, 10 * 2 ^ j.attempts) * (0.75 + random() / 2)),
        leased_until = null,
        lease = null
    where
        j.message_id = p_message_id
        and j.lease = p_lease
        and (v_settings.classifier_mode = 'off' or j.attempts + 1 < v_settings.classifier_attempts_max);
    if found then
        return jsonb_build_object('result', 'retry');
    end if;

    v_message := private.lock_classification(p_message_id, p_lease);
    if v_message.id is null then
        return jsonb_build_object('result', 'outdated');
    end if;
    delete from private.classifier_jobs as j where j.message_id = p_message_id;
    if v_settings.classifier_mode = 'closed' then
        v_details := jsonb_build_object('action', null, 'error', p_error, 'eventSeq', v_message.event_seq);
        perform private.record_action(
            null, 'unclassified_hidden', private.queue_classified(v_message, v_details),
            v_message.from_user_id, v_message.id, null, null, v_details, null
        );
        perform private.hide_message(v_message.id);
        perform private.count_classification('unclassified_hidden');
        return jsonb_build_object('result', 'hidden');
    end if;
    perform private.count_classification('unclassified_shown');
    return jsonb_build_object('result', 'shown');
end;
$$;
comment on function private.fail_classification(uuid, uuid, text) is
'Definer, because no API role may write our tables; granted to service_role only. See public.fail_classification.';
revoke all on function private.fail_classification(uuid, uuid, text) from public, anon, authenticated, service_role;
grant execute on function private.fail_classification(uuid, uuid, text) to service_role;

create function public.fail_classification(p_message_id uuid default null, p_lease uuid default null, p_error text default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.fail_classification(p_message_id, p_lease, p_error);
comment on function public.fail_classification(uuid, uuid, text) is
'Notes a failed attempt: {result} is retry (later, with doubled pauses), outdated, or after settings.classifier_attempts_max of them shown '
'(mode open) or hidden (mode closed, with an item for the moderators). Raises PT400 validation_failed.';
revoke all on function public.fail_classification(uuid, uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.fail_classification(uuid, uuid, text) to service_role;

create function private.release_classification(p_message_id uuid, p_lease uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
begin
    update private.classifier_jobs as j
    set leased_until = null, lease = null
    where j.message_id = p_message_id and j.lease = p_lease;
    return jsonb_build_object('result', case when found then 'released' else 'outdated' end);
end;
$$;
comment on function private.release_classification(uuid, uuid) is
'Definer, because jobs are private; granted to service_role only. See public.release_classification.';
revoke all on function private.release_classification(uuid, uuid) from public, anon, authenticated, service_role;
grant execute on function private.release_classification(uuid, uuid) to service_role;

create function public.release_classification(p_message_id uuid default null, p_lease uuid default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.release_classification(p_message_id, p_lease);
comment on function public.release_classification(uuid, uuid) is
'Gives a message back that was not asked about, at once and without counting an attempt: {result} is released or outdated.';
revoke all on function public.release_classification(uuid, uuid) from public, anon, authenticated, service_role;
grant execute on function public.release_classification(uuid, uuid) to service_role;
