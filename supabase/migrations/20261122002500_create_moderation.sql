-- Purpose:   the moderators' desk: the queue, what an item is about, decisions, sanctions, undo, and the audit log.
-- Consumers: the routes under /api/moderation; direct callers of the same RPCs.
-- Locks:     none on existing tables. At run time: the advisory lock of the desk for the person concerned first, then
--            whatever the effect takes in its own order, then, last, the row of the queue.
-- Undo:      drop function public.list_moderation_actions(uuid, uuid, integer, text);
--            drop function private.list_moderation_actions(uuid, uuid, integer, text);
--            drop function public.undo_moderation_action(uuid, text); drop function private.undo_moderation_action(uuid, text);
--            drop function private.reopen_item(uuid, text);
--            drop function public.moderate_restore_message(uuid, text); drop function private.moderate_restore_message(uuid, text);
--            drop function public.moderate_hide_message(uuid, text); drop function private.moderate_hide_message(uuid, text);
--            drop function private.moderate_message(uuid, uuid, text, text); drop function private.switch_message(uuid, text);
--            drop function public.lift_sanction(uuid, text); drop function private.lift_sanction(uuid, text);
--            drop function public.sanction_user(uuid, text, integer, text);
--            drop function private.sanction_user(uuid, text, integer, text);
--            drop function private.impose_sanction(uuid, uuid, text, interval, text, text, uuid);
--            drop function private.require_rank_above(uuid, uuid); drop function private.sanction_json(private.sanctions);
--            drop function public.decide_moderation_item(uuid, text, text);
--            drop function private.decide_moderation_item(uuid, text, text);
--            drop function public.get_moderation_item(uuid); drop function private.get_moderation_item(uuid);
--            drop function private.desk_message(uuid); drop function private.desk_page(uuid, bigint, bigint);
--            drop function public.list_moderation_queue(text, text, uuid, integer, text);
--            drop function private.list_moderation_queue(text, text, uuid, integer, text);
--            drop function private.action_json(uuid); drop function private.item_json(private.moderation_items);
--            drop function private.lock_desk(uuid);
set lock_timeout = '4s';

create function private.lock_desk(p_user_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    perform pg_advisory_xact_lock(hashtextextended(p_user_id::text, 20261125));
end;
$$;
comment on function private.lock_desk(uuid) is
'One decision about a person at a time. The first lock of every function of the desk and taken by nothing else, so it is in no circle.';
revoke all on function private.lock_desk(uuid) from public, anon, authenticated, service_role;

create function private.item_json(p_item private.moderation_items)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return jsonb_build_object(
        'id', p_item.id,
        'kind', p_item.kind,
        'status', p_item.status,
        'user', private.profile_json(p_item.user_id),
        'conversationId', p_item.conversation_id,
        'messageId', p_item.message_id,
        'details', p_item.details,
        'reportCount', (
            select count(*)
            from private.reports as r
            where r.item_id = p_item.id
        ),
        'openedAt', private.iso_time(p_item.opened_at),
        'decidedAt', private.iso_time(p_item.decided_at),
        'decision', p_item.decision
    );
end;
$$;
comment on function private.item_json(private.moderation_items) is 'Shape Item. For moderators.';
revoke all on function private.item_json(private.moderation_items) from public, anon, authenticated, service_role;

create function private.action_json(p_action_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return (
        select jsonb_build_object(
            'id', a.id,
            'moderator', case when a.moderator_id is not null then private.profile_json(a.moderator_id) end,
            'action', a.action,
            'itemId', a.item_id,
            'user', case when a.user_id is not null then private.profile_json(a.user_id) end,
            'messageId', a.message_id,
            'sanctionId', a.sanction_id,
            'note', a.note,
            'details', a.details,
            'undoes', a.undoes,
            'undoneBy', (
                select u.id
                from private.moderation_actions as u
                where u.undoes = a.id
            ),
            'createdAt', private.iso_time(a.created_at)
        )
        from private.moderation_actions as a
        where a.id = p_action_id
    );
end;
$$;
comment on function private.action_json(uuid) is 'Shape Action: one line of the audit log. For moderators.';
revoke all on function private.action_json(uuid) from public, anon, authenticated, service_role;

create function private.list_moderation_queue(p_status text, p_kind text, p_user_id uuid, p_limit integer, p_cursor text)
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_moderator();
    v_is_decided constant boolean := p_status = 'decided';
    v_after constant private.inbox_place := private.inbox_place_of(p_cursor);
    v_items private.moderation_items[];
begin
    if p_limit is null or p_limit not between 1 and 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'limit must be from 1 to 100.', hint = '/limit';
    end if;
    if p_status is null or p_status not in ('open', 'decided') then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'status must be open or decided.', hint = '/status';
    end if;
    if p_kind not in ('message_report', 'user_report', 'held', 'classified') then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'kind must be one of the documented words.', hint = '/kind';
    end if;
    if p_cursor is not null and v_after.is_pinned <> v_is_decided then
        raise sqlstate 'PT400' using
            message = 'cursor_invalid', detail = 'This cursor belongs to the other status; begin without one.', hint = '/cursor';
    end if;

    -- Three statements, so that each has one plan. Nobody sees what is about themselves. One row more than asked tells about a
    -- next page.
    if not v_is_decided then
        select array_agg(i order by i.id) into v_items
        from (
            select i.*
            from private.moderation_items as i
            where
                i.status = 'open'
                and (p_cursor is null or i.id > v_after.conversation_id)
                and (p_kind is null or i.kind = p_kind)
                and (p_user_id is null or i.user_id = p_user_id)
                and i.user_id <> v_me
            order by i.id
            limit p_limit + 1
        ) as i;
    elsif p_user_id is not null then
        select array_agg(i order by i.decided_at desc, i.id desc) into v_items
        from (
            select i.*
            from private.moderation_items as i
            where
                i.user_id = p_user_id
                and i.status = 'decided'
                and (i.decided_at, i.id) < (v_after.last_activity_at, v_after.conversation_id)
                and (p_kind is null or i.kind = p_kind)
                and i.user_id <> v_me
            order by i.decided_at desc, i.id desc
            limit p_limit + 1
        ) as i;
    else
        select array_agg(i order by i.decided_at desc, i.id desc) into v_items
        from (
            select i.*
            from private.moderation_items as i
            where
                i.status = 'decided'
                and (i.decided_at, i.id) < (v_after.last_activity_at, v_after.conversation_id)
                and (p_kind is null or i.kind = p_kind)
                and i.user_id <> v_me
            order by i.decided_at desc, i.id desc
            limit p_limit + 1
        ) as i;
    end if;
    return jsonb_build_object(
        'items', coalesce((
            select jsonb_agg(private.item_json(v_items[n]) order by n)
            from generate_series(1, least(coalesce(cardinality(v_items), 0), p_limit)) as n
        ), '[]'::jsonb),
        'nextCursor', case when cardinality(v_items) > p_limit then private.inbox_cursor(
            v_is_decided, coalesce(v_items[p_limit].decided_at, 'epoch'), v_items[p_limit].id
        ) end
    );
end;
$$;
comment on function private.list_moderation_queue(text, text, uuid, integer, text) is
'Definer, because the queue is private; for moderators only. See public.list_moderation_queue.';
revoke all on function private.list_moderation_queue(text, text, uuid, integer, text) from public, anon, authenticated, service_role;
grant execute on function private.list_moderation_queue(text, text, uuid, integer, text) to authenticated;

create function public.list_moderation_queue(
    p_status text default 'open', p_kind text default null, p_user_id uuid default null, p_limit integer default 30,
    p_cursor text default null
)
returns jsonb
language sql
stable
security invoker
set search_path = ''
return private.list_moderation_queue(p_status, p_kind, p_user_id, p_limit, p_cursor);
comment on function public.list_moderation_queue(text, text, uuid, integer, text) is
'A page of the moderators'' queue, {items, nextCursor}: the open ones, oldest first, or the decided ones, newest decision first; of one '
'kind, about one person. Without what is about the caller. Raises PT400 validation_failed or cursor_invalid, PT401 unauthenticated, '
'PT403 account_unavailable or forbidden.';
revoke all on function public.list_moderation_queue(text, text, uuid, integer, text) from public, anon, authenticated, service_role;
grant execute on function public.list_moderation_queue(text, text, uuid, integer, text) to authenticated;

create function private.desk_page(p_conversation_id uuid, p_from_seq bigint, p_before_seq bigint)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return coalesce((
        select jsonb_agg(
            private.joined(page.message, json_build_object('original', private.original_json(m)))
            order by m.seq
        )
        from json_array_elements(
            private.message_page(null, p_conversation_id, p_from_seq, p_before_seq, 100)
        ) as page (message)
        -- Each by its key: a plain join would let the planner read all messages.
        cross join lateral (
            select t.*
            from public.messages as t
            where t.id = (page.message ->> 'id')::uuid
            limit 1
        ) as m
    ), '[]'::jsonb);
end;
$$;
comment on function private.desk_page(uuid, bigint, bigint) is
'Messages with p_from_seq <= seq < p_before_seq (at most 100) as an ascending array of Message with original: what a covered or hidden one '
'really says. For moderators.';
revoke all on function private.desk_page(uuid, bigint, bigint) from public, anon, authenticated, service_role;

create function private.desk_message(p_message_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
    v_message public.messages;
    v_pending private.pending_messages;
    v_json jsonb;
begin
    select m.* into v_message from public.messages as m where m.id = p_message_id;
    if found then
        v_json := private.desk_page(v_message.conversation_id, v_message.seq, v_message.seq + 1) -> 0;
    else
        select p.* into v_pending from private.pending_messages as p where p.message_id = p_message_id;
        if not found then
            return null;
        end if;
        v_message.id := p_message_id;
        v_message.body := v_pending.body;
        v_message.is_sensitive := v_pending.is_sensitive;
        v_json := private.joined(private.pending_json(v_pending), json_build_object('original', private.original_json(v_message)));
    end if;
    return v_json || jsonb_build_object('versions', coalesce((
        select jsonb_agg(
            jsonb_build_object('version', v.version, 'body', v.body, 'replacedAt', private.iso_time(v.replaced_at))
            order by v.version
        )
        from (
            select t.version, t.body, t.replaced_at
            from private.message_versions as t
            where t.message_id = p_message_id
            order by t.version desc
            limit 20
        ) as v
    ), '[]'::jsonb));
end;
$$;
comment on function private.desk_message(uuid) is
'Shape DeskMessage: a message or a held one as it really is, with its newest twenty earlier texts; null when there is none. For '
'moderators.';
revoke all on function private.desk_message(uuid) from public, anon, authenticated, service_role;

create function private.sanction_json(p_sanction private.sanctions)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return jsonb_build_object(
        'id', p_sanction.id,
        'userId', p_sanction.user_id,
        'kind', p_sanction.kind,
        'reason', p_sanction.reason,
        'startsAt', private.iso_time(p_sanction.starts_at),
        'endsAt', private.iso_time(p_sanction.ends_at),
        'liftedAt', private.iso_time(p_sanction.lifted_at)
    );
end;
$$;
comment on function private.sanction_json(private.sanctions) is 'Shape Sanction. For moderators.';
revoke all on function private.sanction_json(private.sanctions) from public, anon, authenticated, service_role;

create function private.get_moderation_item(p_item_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_moderator();
    v_item private.moderation_items;
    v_message jsonb;
    v_renewed jsonb := '{}';
    v_from bigint;
    v_to bigint;
begin
    select i.* into v_item from private.moderation_items as i where i.id = p_item_id;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such item.';
    end if;
    if v_item.user_id = v_me then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Others look after what is about oneself.';
    end if;

    -- Moderators read what people wrote to each other, so each look is on record: once an hour, whatever is asked at once.
    perform pg_advisory_xact_lock(hashtextextended(v_me::text || p_item_id::text, 20261126));
    if not exists (
        select 1
        from private.moderation_actions as a
        where
            a.item_id = p_item_id
            and a.moderator_id = v_me
            and a.action = 'viewed'
            and a.created_at > clock_timestamp() - interval '1 hour'
    ) then
        perform private.record_action(
            v_me, 'viewed', p_item_id, v_item.user_id, v_item.message_id, null, null, '{}', null
        );
    end if;

    if v_item.message_id is not null then
        v_message := private.desk_message(v_item.message_id);
    end if;
    if v_message #>> '{original,envelope}' is not null then
        -- A sealed text never changes, but a rotation of keys renews its envelope, and not the copy in the evidence.
        v_renewed := jsonb_build_object('original', v_message -> 'original');
    end if;
    if (v_message -> 'seq')::bigint > 0 then
        v_from := (v_message -> 'seq')::bigint - 10;
        v_to := (v_message -> 'seq')::bigint + 11;
    elsif v_message is not null then
        -- Where a held one would be.
        v_from := coalesce((
            select m.seq
            from public.messages as m
            where m.conversation_id = v_item.conversation_id and m.created_at <= (v_message ->> 'createdAt')::timestamptz
            order by m.seq desc
            limit 1
        ), 0) - 9;
        v_to := v_from + 20;
    end if;
    return jsonb_build_object(
        'item', private.item_json(v_item),
        'message', v_message,
        'context', coalesce((
            select jsonb_agg(t.value order by t.ordinal)
            from jsonb_array_elements(
                private.desk_page(v_item.conversation_id, v_from, v_to)
            ) with ordinality as t (value, ordinal)
            where t.value -> 'id' <> v_message -> 'id'
        ), '[]'::jsonb),
        'reports', coalesce((
            select jsonb_agg(
                jsonb_build_object(
                    'id', r.id,
                    'reporter', private.profile_json(r.reporter_id),
                    'reason', r.reason,
                    'note', r.note,
                    -- Bounded in bytes, so that no crowd of reporters can make an item too large to be answered.
                    'evidence', case when r.bytes <= 1000000 then r.evidence || v_renewed end,
                    'createdAt', private.iso_time(r.created_at)
                )
                order by r.id
            )
            from (
                select t.*, sum(octet_length(t.evidence::text)) over (order by t.id) as bytes
                from private.reports as t
                where t.item_id = p_item_id
                order by t.id
                limit 50
            ) as r
        ), '[]'::jsonb),
        'verdicts', coalesce((
            select jsonb_agg(
                jsonb_build_object(
                    'id', v.id,
                    'conversationId', v.conversation_id,
                    'messageId', v.message_id,
                    'action', v.action,
                    'rules', v.rules,
                    'body', v.body,
                    'createdAt', private.iso_time(v.created_at)
                )
                order by v.id desc
            )
            from (
                (
                    select t.*
                    from private.verdicts as t
                    where t.message_id = v_item.message_id
                    order by t.id desc
                    limit 10
                )
                union
                (
                    select t.*
                    from private.verdicts as t
                    where t.user_id = v_item.user_id
                    order by t.id desc
                    limit 20
                )
            ) as v
        ), '[]'::jsonb),
        'sanctions', coalesce((
            select jsonb_agg(private.sanction_json(s) order by s.id desc)
            from (
                select t.*
                from private.sanctions as t
                where t.user_id = v_item.user_id
                order by t.id desc
                limit 20
            ) as s
        ), '[]'::jsonb),
        'actions', coalesce((
            select jsonb_agg(private.action_json(a.id) order by a.id desc)
            from (
                select t.id
                from private.moderation_actions as t
                where t.user_id = v_item.user_id and t.action <> 'viewed'
                order by t.id desc
                limit 50
            ) as a
        ), '[]'::jsonb)
    );
end;
$$;
comment on function private.get_moderation_item(uuid) is
'Definer, because all of it is private; for moderators only. See public.get_moderation_item.';
revoke all on function private.get_moderation_item(uuid) from public, anon, authenticated, service_role;
grant execute on function private.get_moderation_item(uuid) to authenticated;

create function public.get_moderation_item(p_item_id uuid default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.get_moderation_item(p_item_id);
comment on function public.get_moderation_item(uuid) is
'What an item of the queue is about: {item, message, context (ten messages before and after), reports (the first 50), verdicts, sanctions, '
'actions (about the person, newest first)}. Writes into the audit log that the caller looked. Raises PT401 unauthenticated, '
'PT403 account_unavailable or forbidden, PT404 not_found.';
revoke all on function public.get_moderation_item(uuid) from public, anon, authenticated, service_role;
grant execute on function public.get_moderation_item(uuid) to authenticated;

create function private.switch_message(p_message_id uuid, p_to text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    if p_to = 'hidden' then
        perform private.hide_message(p_message_id);
    else
        perform private.restore_message(p_message_id);
    end if;
    -- Its author may have deleted it just now; then neither did anything.
    if not exists (select 1 from public.messages as m where m.id = p_message_id and m.state = p_to) then
        raise sqlstate 'PT409' using message = 'message_deleted', detail = 'Its author has deleted the message.';
    end if;
end;
$$;
comment on function private.switch_message(uuid, text) is
'Hides a message (p_to hidden) or shows it again (visible); nothing to do is fine. Raises PT409 message_deleted.';
revoke all on function private.switch_message(uuid, text) from public, anon, authenticated, service_role;

create function private.decide_moderation_item(p_item_id uuid, p_decision text, p_note text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_moderator();
    v_note constant text := private.note_of(p_note, '/note');
    v_item private.moderation_items;
    v_action_id uuid;
    v_decider_id uuid;
    v_outcome text;
begin
    if p_decision is null or p_decision not in ('dismiss', 'hide', 'release', 'reject') then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'decision must be dismiss, hide, release or reject.', hint = '/decision';
    end if;
    select i.* into v_item from private.moderation_items as i where i.id = p_item_id;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such item.';
    end if;
    if v_item.user_id = v_me then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Others decide what is about oneself.';
    end if;
    perform private.lock_desk(v_item.user_id);
    -- As it is under the lock; every decision takes it first.
    select i.* into v_item from private.moderation_items as i where i.id = p_item_id;
    if v_item.status = 'decided' then
        select a.id, a.moderator_id into v_action_id, v_decider_id
        from private.moderation_actions as a
        where a.item_id = p_item_id and a.action = v_item.decision
        order by a.id desc
        limit 1;
        if v_item.decision <> p_decision or v_decider_id is distinct from v_me then
            raise sqlstate 'PT409' using
                message = 'already_decided', detail = format('This item has been decided: %s.', v_item.decision);
        end if;
        return jsonb_build_object('item', private.item_json(v_item), 'action', private.action_json(v_action_id));
    end if;
    if
        (v_item.kind = 'held') <> (p_decision in ('release', 'reject'))
        or (p_decision = 'hide' and v_item.message_id is null)
    then
        raise sqlstate 'PT422' using
            message = 'decision_not_possible',
            detail = case
                when v_item.kind = 'held' then 'A held message is released or rejected.'
                when v_item.message_id is null then 'A report about a person is dismissed; sanctions are imposed on their own.'
                else 'Only held messages are released or rejected; others are dismissed or hidden.'
            end;
    end if;

    case p_decision
        when 'hide' then
            perform private.switch_message(v_item.message_id, 'hidden');
        when 'release' then
            v_outcome := private.release_pending(v_item.message_id);
        when 'reject' then
            v_outcome := case when private.reject_pending(v_item.message_id) then 'rejected' else 'gone' end;
        else
            null;
    end case;
    if v_outcome = 'undeliverable' then
        raise sqlstate 'PT422' using
            message = 'decision_not_possible',
            detail = 'Author or recipient is not there any more, or they have blocked each other; it can be rejected.';
    elsif v_outcome = 'gone' then
        raise sqlstate 'PT409' using message = 'already_decided', detail = 'Its author has withdrawn the message.';
    end if;
    -- The row of the queue comes last. A report that joins it at this moment is committed first and closed with the others.
    update private.moderation_items as i
    set status = 'decided', decided_at = clock_timestamp(), decision = p_decision
    where i.id = p_item_id
    returning * into v_item;
    update private.reports as r
    set status = 'closed', closed_at = v_item.decided_at
    where r.item_id = p_item_id and r.status = 'open';
    v_action_id := private.record_action(
        v_me, p_decision, p_item_id, v_item.user_id, v_item.message_id, null, v_note, '{}', null
    );
    return jsonb_build_object('item', private.item_json(v_item), 'action', private.action_json(v_action_id));
end;
$$;
comment on function private.decide_moderation_item(uuid, text, text) is
'Definer, because no API role may write our tables; for moderators only. See public.decide_moderation_item.';
revoke all on function private.decide_moderation_item(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function private.decide_moderation_item(uuid, text, text) to authenticated;

create function public.decide_moderation_item(p_item_id uuid default null, p_decision text default null, p_note text default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.decide_moderation_item(p_item_id, p_decision, p_note);
comment on function public.decide_moderation_item(uuid, text, text) is
'Decides an item and closes its reports: {item, action}. dismiss: nothing is wrong; hide: nobody reads the message any more; release, '
'reject: a held message is sent or not. The same decision again by the same moderator changes nothing. Raises PT400 validation_failed, '
'PT401 unauthenticated, PT403 account_unavailable or forbidden, PT404 not_found, PT409 already_decided or message_deleted, '
'PT422 decision_not_possible.';
revoke all on function public.decide_moderation_item(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.decide_moderation_item(uuid, text, text) to authenticated;

create function private.require_rank_above(p_me uuid, p_user_id uuid)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
    v_role constant text := (
        select m.role
        from private.moderators as m
        where m.user_id = p_user_id
    );
begin
    if
        p_user_id = p_me
        or v_role = 'admin'
        or (v_role = 'moderator' and not exists (
            select 1
            from private.moderators as m
            where m.user_id = p_me and m.role = 'admin'
        ))
    then
        raise sqlstate 'PT403' using
            message = 'forbidden',
            detail = 'Only admins decide about sanctions of moderators, nobody about those of admins or their own.';
    end if;
end;
$$;
comment on function private.require_rank_above(uuid, uuid) is
'Raises PT403 forbidden unless the moderator p_me may impose or lift sanctions of this person.';
revoke all on function private.require_rank_above(uuid, uuid) from public, anon, authenticated, service_role;

create function private.impose_sanction(
    p_me uuid, p_user_id uuid, p_kind text, p_for interval, p_reason text, p_note text, p_undoes uuid
)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_sanction private.sanctions;
    v_action_id uuid;
begin
    insert into private.sanctions (user_id, kind, reason, starts_at, ends_at)
    values (p_user_id, p_kind, p_reason, v_now, v_now + p_for)
    returning * into v_sanction;
    v_action_id := private.record_action(
        p_me, p_kind, null, p_user_id, null, v_sanction.id, p_note,
        jsonb_build_object('durationS', extract(epoch from p_for)::bigint), p_undoes
    );
    return jsonb_build_object(
        'sanction', private.sanction_json(v_sanction), 'action', private.action_json(v_action_id), 'created', true
    );
end;
$$;
comment on function private.impose_sanction(uuid, uuid, text, interval, text, text, uuid) is
'Writes a sanction that begins now (p_for null: until it is lifted) and its line of the audit log. The caller has checked everything.';
revoke all on function private.impose_sanction(uuid, uuid, text, interval, text, text, uuid)
from public, anon, authenticated, service_role;

create function private.sanction_user(p_user_id uuid, p_kind text, p_duration_s integer, p_reason text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_moderator();
    v_reason constant text := private.note_of(p_reason, '/reason');
    v_for constant interval := make_interval(secs => p_duration_s);
    v_sanction private.sanctions;
    v_action_id uuid;
begin
    if p_kind is null or p_kind not in ('mute', 'suspend') then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'kind must be mute or suspend.', hint = '/kind';
    end if;
    if p_duration_s not between 1 and 315360000 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'durationS must be from 1 to 315,360,000 (ten years), or null.', hint = '/durationS';
    end if;
    if v_reason is null then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'A sanction needs a reason.', hint = '/reason';
    end if;
    if not exists (select 1 from auth.users as u where u.id = p_user_id) then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such person.';
    end if;
    perform private.require_rank_above(v_me, p_user_id);
    perform private.lock_desk(p_user_id);

    select s.* into v_sanction
    from private.sanctions as s
    where
        s.user_id = p_user_id
        and s.kind = p_kind
        and s.lifted_at is null
        and (s.ends_at is null or s.ends_at > clock_timestamp())
    order by s.id desc
    limit 1;
    if not found then
        return private.impose_sanction(v_me, p_user_id, p_kind, v_for, v_reason, v_reason, null);
    end if;
    -- The same again, by who imposed it: an answer that was lost.
    select a.id into v_action_id
    from private.moderation_actions as a
    where a.user_id = p_user_id and a.sanction_id = v_sanction.id and a.action = p_kind and a.moderator_id = v_me;
    if
        not found
        or v_sanction.reason <> v_reason
        or v_sanction.ends_at is distinct from v_sanction.starts_at + v_for
    then
        raise sqlstate 'PT409' using
            message = 'already_decided', detail = 'Such a sanction is in force; lift it to impose another one.';
    end if;
    return jsonb_build_object(
        'sanction', private.sanction_json(v_sanction), 'action', private.action_json(v_action_id), 'created', false
    );
end;
$$;
comment on function private.sanction_user(uuid, text, integer, text) is
'Definer, because no API role may write our tables; for moderators only. See public.sanction_user.';
revoke all on function private.sanction_user(uuid, text, integer, text) from public, anon, authenticated, service_role;
grant execute on function private.sanction_user(uuid, text, integer, text) to authenticated;

create function public.sanction_user(
    p_user_id uuid default null, p_kind text default null, p_duration_s integer default null, p_reason text default null
)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.sanction_user(p_user_id, p_kind, p_duration_s, p_reason);
comment on function public.sanction_user(uuid, text, integer, text) is
'Mutes or suspends a person at once, for p_duration_s seconds or until it is lifted (null): {sanction, action, created}. The same again by '
'the same moderator changes nothing. Raises PT400 validation_failed, PT401 unauthenticated, PT403 account_unavailable or forbidden '
'(moderators are sanctioned by admins only, admins and oneself by nobody), PT404 not_found, PT409 already_decided.';
revoke all on function public.sanction_user(uuid, text, integer, text) from public, anon, authenticated, service_role;
grant execute on function public.sanction_user(uuid, text, integer, text) to authenticated;

create function private.lift_sanction(p_sanction_id uuid, p_note text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_moderator();
    v_note constant text := private.note_of(p_note, '/note');
    v_sanction private.sanctions;
    v_action_id uuid;
begin
    select s.* into v_sanction from private.sanctions as s where s.id = p_sanction_id;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such sanction.';
    end if;
    perform private.require_rank_above(v_me, v_sanction.user_id);
    perform private.lock_desk(v_sanction.user_id);
    select s.* into v_sanction from private.sanctions as s where s.id = p_sanction_id;
    if v_sanction.lifted_at is not null then
        -- The same again, by who lifted it: an answer that was lost.
        select a.id into v_action_id
        from private.moderation_actions as a
        where
            a.user_id = v_sanction.user_id
            and a.sanction_id = p_sanction_id
            and a.action = 'lift'
            and a.undoes is null
            and a.moderator_id = v_me;
    end if;
    if v_action_id is null then
        if v_sanction.lifted_at is not null or v_sanction.ends_at <= clock_timestamp() then
            raise sqlstate 'PT409' using message = 'already_decided', detail = 'The sanction is not in force any more.';
        end if;
        update private.sanctions as s
        set lifted_at = clock_timestamp()
        where s.id = p_sanction_id
        returning * into v_sanction;
        v_action_id := private.record_action(
            v_me, 'lift', null, v_sanction.user_id, null, p_sanction_id, v_note, '{}', null
        );
    end if;
    return jsonb_build_object('sanction', private.sanction_json(v_sanction), 'action', private.action_json(v_action_id));
end;
$$;
comment on function private.lift_sanction(uuid, text) is
'Definer, because no API role may write our tables; for moderators only. See public.lift_sanction.';
revoke all on function private.lift_sanction(uuid, text) from public, anon, authenticated, service_role;
grant execute on function private.lift_sanction(uuid, text) to authenticated;

create function public.lift_sanction(p_sanction_id uuid default null, p_note text default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.lift_sanction(p_sanction_id, p_note);
comment on function public.lift_sanction(uuid, text) is
'Ends a sanction early, at once: {sanction, action}. The same again by the same moderator changes nothing. Raises PT400 validation_failed, '
'PT401 unauthenticated, PT403 account_unavailable or forbidden, PT404 not_found, PT409 already_decided.';
revoke all on function public.lift_sanction(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.lift_sanction(uuid, text) to authenticated;

create function private.moderate_message(p_me uuid, p_message_id uuid, p_action text, p_note text)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_state constant text := case p_action when 'hide' then 'hidden' else 'visible' end;
    v_message public.messages;
    v_latest private.moderation_actions;
    v_action_id uuid;
begin
    if p_note is null then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'A note is needed.', hint = '/note';
    end if;
    select m.* into v_message from public.messages as m where m.id = p_message_id;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such message.';
    end if;
    if v_message.from_user_id = p_me then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Others decide what is about oneself.';
    end if;
    perform private.lock_desk(v_message.from_user_id);
    select m.* into v_message from public.messages as m where m.id = p_message_id;
    select a.* into v_latest
    from private.moderation_actions as a
    where a.user_id = v_message.from_user_id and a.message_id = p_message_id and a.action in ('hide', 'restore')
    order by a.id desc
    limit 1;
    if v_message.state = v_state and v_latest.action = p_action then
        v_action_id := v_latest.id;
    else
        perform private.switch_message(p_message_id, v_state);
        v_action_id := private.record_action(
            p_me, p_action, null, v_message.from_user_id, p_message_id, null, p_note, '{}', null
        );
    end if;
    return jsonb_build_object('action', private.action_json(v_action_id));
end;
$$;
comment on function private.moderate_message(uuid, uuid, text, text) is
'Hides a message or shows it again and writes the audit log; when it is so already by an action, answers that one. Raises '
'PT400 validation_failed, PT403 forbidden, PT404 not_found, PT409 message_deleted.';
revoke all on function private.moderate_message(uuid, uuid, text, text) from public, anon, authenticated, service_role;

create function private.moderate_hide_message(p_message_id uuid, p_note text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
begin
    return private.moderate_message(private.require_moderator(), p_message_id, 'hide', private.note_of(p_note, '/note'));
end;
$$;
comment on function private.moderate_hide_message(uuid, text) is
'Definer, because no API role may write our tables; for moderators only. See public.moderate_hide_message.';
revoke all on function private.moderate_hide_message(uuid, text) from public, anon, authenticated, service_role;
grant execute on function private.moderate_hide_message(uuid, text) to authenticated;

create function public.moderate_hide_message(p_message_id uuid default null, p_note text default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.moderate_hide_message(p_message_id, p_note);
comment on function public.moderate_hide_message(uuid, text) is
'Hides a message from everybody in its conversation: {action}. A repetition answers the action that hid it. Raises '
'PT400 validation_failed, PT401 unauthenticated, PT403 account_unavailable or forbidden, PT404 not_found, PT409 message_deleted.';
revoke all on function public.moderate_hide_message(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.moderate_hide_message(uuid, text) to authenticated;

create function private.moderate_restore_message(p_message_id uuid, p_note text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
begin
    return private.moderate_message(private.require_moderator(), p_message_id, 'restore', private.note_of(p_note, '/note'));
end;
$$;
comment on function private.moderate_restore_message(uuid, text) is
'Definer, because no API role may write our tables; for moderators only. See public.moderate_restore_message.';
revoke all on function private.moderate_restore_message(uuid, text) from public, anon, authenticated, service_role;
grant execute on function private.moderate_restore_message(uuid, text) to authenticated;

create function public.moderate_restore_message(p_message_id uuid default null, p_note text default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.moderate_restore_message(p_message_id, p_note);
comment on function public.moderate_restore_message(uuid, text) is
'Shows a hidden message again: {action}. A repetition answers the action that restored it. Raises PT400 validation_failed, '
'PT401 unauthenticated, PT403 account_unavailable or forbidden, PT404 not_found, PT409 message_deleted.';
revoke all on function public.moderate_restore_message(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.moderate_restore_message(uuid, text) to authenticated;

create function private.reopen_item(p_item_id uuid, p_decision text)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
begin
    update private.moderation_items as i
    set status = 'open', decided_at = null, decision = null
    where i.id = p_item_id and i.decision = p_decision;
    if not found then
        return false;
    end if;
    update private.reports as r
    set status = 'open', closed_at = null
    where r.item_id = p_item_id;
    return true;
exception
    -- Meanwhile there is another open item about the same; that one stands.
    when unique_violation then
        return false;
end;
$$;
comment on function private.reopen_item(uuid, text) is
'Puts an item that was decided in this way back into the queue, with its reports. False when it is not so decided, or when another one '
'about the same has been opened since.';
revoke all on function private.reopen_item(uuid, text) from public, anon, authenticated, service_role;

create function private.undo_moderation_action(p_action_id uuid, p_note text)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_moderator();
    v_note constant text := private.note_of(p_note, '/note');
    v_action private.moderation_actions;
    v_earlier private.moderation_actions;
    v_sanction private.sanctions;
    v_done text;
    v_why_not text;
    v_reopened boolean;
    v_undo_id uuid;
begin
    select a.* into v_action from private.moderation_actions as a where a.id = p_action_id;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such action.';
    end if;
    if v_action.user_id = v_me then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Others decide what is about oneself.';
    end if;
    if
        v_action.moderator_id is distinct from v_me and not exists (
            select 1
            from private.moderators as m
            where m.user_id = v_me and m.role = 'admin'
        )
    then
        raise sqlstate 'PT403' using
            message = 'forbidden', detail = 'Moderators undo what they did themselves, admins what anybody did.';
    end if;
    if v_action.sanction_id is not null then
        perform private.require_rank_above(v_me, v_action.user_id);
    end if;
    perform private.lock_desk(v_action.user_id);

    select a.* into v_earlier from private.moderation_actions as a where a.undoes = p_action_id;
    if v_earlier.moderator_id = v_me then
        -- The same again: an answer that was lost.
        return jsonb_build_object('action', private.action_json(v_earlier.id));
    end if;
    v_why_not := case
        when v_earlier.id is not null then 'It has been undone already.'
        when v_action.undoes is not null then 'What undid something is not undone itself: decide anew.'
        when v_action.action = 'release' then 'A released message has been delivered: hide it instead.'
        when v_action.action not in ('dismiss', 'hide', 'reject', 'restore', 'mute', 'suspend', 'lift') then
            'There is nothing to take back.'
    end;

    if v_why_not is not null then
        null;
    elsif v_action.action in ('hide', 'restore') then
        if exists (
            select 1
            from public.messages as m
            where m.id = v_action.message_id and m.state = case v_action.action when 'hide' then 'hidden' else 'visible' end
        ) then
            v_done := case v_action.action when 'hide' then 'restore' else 'hide' end;
            perform private.switch_message(v_action.message_id, case v_done when 'hide' then 'hidden' else 'visible' end);
        end if;
    elsif v_action.action in ('mute', 'suspend') then
        update private.sanctions as s
        set lifted_at = clock_timestamp()
        where s.id = v_action.sanction_id and s.lifted_at is null and (s.ends_at is null or s.ends_at > clock_timestamp());
        v_done := case when found then 'lift' end;
    elsif v_action.action = 'lift' then
        select s.* into v_sanction from private.sanctions as s where s.id = v_action.sanction_id;
        if not private.is_sanctioned(v_sanction.user_id, v_sanction.kind) then
            -- With the time that was left when it was lifted.
            return jsonb_build_object('action', private.impose_sanction(
                v_me, v_sanction.user_id, v_sanction.kind, v_sanction.ends_at - v_sanction.lifted_at, v_sanction.reason, v_note,
                p_action_id
            ) -> 'action');
        end if;
    elsif v_action.action = 'reject' then
        v_done := case when private.reopen_pending(v_action.message_id) then 'reopen' end;
    else
        v_done := 'reopen';
    end if;

    -- The row of the queue comes last. A decision that is taken back leaves the question open again.
    if v_done is not null and v_action.item_id is not null then
        v_reopened := private.reopen_item(v_action.item_id, v_action.action);
    end if;
    if v_why_not is null and (v_done is null or (v_done = 'reopen' and not v_reopened)) then
        v_why_not := 'It is no longer as this action left it.';
    end if;
    if v_why_not is not null then
        raise sqlstate 'PT409' using message = 'undo_not_possible', detail = v_why_not;
    end if;
    v_undo_id := private.record_action(
        v_me, v_done, v_action.item_id, v_action.user_id, v_action.message_id, v_action.sanction_id, v_note,
        case when v_reopened is null then '{}' else jsonb_build_object('reopened', v_reopened) end, p_action_id
    );
    return jsonb_build_object('action', private.action_json(v_undo_id));
end;
$$;
comment on function private.undo_moderation_action(uuid, text) is
'Definer, because no API role may write our tables; for moderators only. See public.undo_moderation_action.';
revoke all on function private.undo_moderation_action(uuid, text) from public, anon, authenticated, service_role;
grant execute on function private.undo_moderation_action(uuid, text) to authenticated;

create function public.undo_moderation_action(p_action_id uuid default null, p_note text default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.undo_moderation_action(p_action_id, p_note);
comment on function public.undo_moderation_action(uuid, text) is
'Takes back what an action did, once: {action}. A hidden message is shown again and a restored one hidden, a sanction lifted, a lifted one '
'imposed again for the time it had left, a rejected message waits again; the item of a decision is open again. Raises '
'PT400 validation_failed, PT401 unauthenticated, PT403 account_unavailable or forbidden (moderators undo their own, admins everybody''s), '
'PT404 not_found, PT409 undo_not_possible or message_deleted.';
revoke all on function public.undo_moderation_action(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.undo_moderation_action(uuid, text) to authenticated;

create function private.list_moderation_actions(p_user_id uuid, p_item_id uuid, p_limit integer, p_cursor text)
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_moderator();
    v_before constant uuid := (private.inbox_place_of(p_cursor)).conversation_id;
    v_ids uuid[];
begin
    if p_limit is null or p_limit not between 1 and 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'limit must be from 1 to 100.', hint = '/limit';
    end if;
    -- Three statements, so that each has one plan. Nobody sees what is about themselves.
    if p_item_id is not null then
        v_ids := array(
            select a.id
            from private.moderation_actions as a
            where
                a.item_id = p_item_id
                and (p_user_id is null or a.user_id = p_user_id)
                and a.id < v_before
                and a.user_id is distinct from v_me
            order by a.id desc
            limit p_limit + 1
        );
    elsif p_user_id is not null then
        v_ids := array(
            select a.id
            from private.moderation_actions as a
            where a.user_id = p_user_id and a.id < v_before and a.user_id <> v_me
            order by a.id desc
            limit p_limit + 1
        );
    else
        v_ids := array(
            select a.id
            from private.moderation_actions as a
            where a.id < v_before and a.user_id is distinct from v_me
            order by a.id desc
            limit p_limit + 1
        );
    end if;
    return jsonb_build_object(
        'actions', coalesce((
            select jsonb_agg(private.action_json(a.id) order by a.id desc)
            from unnest(v_ids[:p_limit]) as a (id)
        ), '[]'::jsonb),
        'nextCursor', case when cardinality(v_ids) > p_limit then private.inbox_cursor(false, 'epoch', v_ids[p_limit]) end
    );
end;
$$;
comment on function private.list_moderation_actions(uuid, uuid, integer, text) is
'Definer, because the audit log is private; for moderators only. See public.list_moderation_actions.';
revoke all on function private.list_moderation_actions(uuid, uuid, integer, text) from public, anon, authenticated, service_role;
grant execute on function private.list_moderation_actions(uuid, uuid, integer, text) to authenticated;

create function public.list_moderation_actions(
    p_user_id uuid default null, p_item_id uuid default null, p_limit integer default 30, p_cursor text default null
)
returns jsonb
language sql
stable
security invoker
set search_path = ''
return private.list_moderation_actions(p_user_id, p_item_id, p_limit, p_cursor);
comment on function public.list_moderation_actions(uuid, uuid, integer, text) is
'A page of the audit log, newest first, {actions, nextCursor}; about one person, or one item. Without what is about the caller. Raises '
'PT400 validation_failed or cursor_invalid, PT401 unauthenticated, PT403 account_unavailable or forbidden.';
revoke all on function public.list_moderation_actions(uuid, uuid, integer, text) from public, anon, authenticated, service_role;
grant execute on function public.list_moderation_actions(uuid, uuid, integer, text) to authenticated;
