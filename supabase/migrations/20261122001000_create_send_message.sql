-- Purpose:   one entry for sending: it starts the conversation when need be, moderates, and a retry is never a second message.
-- Consumers: POST /api/messages/send; direct callers of /rest/v1/rpc/send_message meet the same rules and answers;
--            insert_message also the release of held messages.
-- Locks:     none on existing tables. At run time, in this order: the sender's pace row, the advisory lock of the pair
--            (new conversations only), the conversation, heads by user id, members, the recipient's pace row.
-- Undo:      drop function public.send_message(text, uuid, uuid, uuid, uuid, jsonb);
--            drop function private.send_message(text, uuid, uuid, uuid, uuid, jsonb);
--            drop function private.judge_sealed(private.sealed, boolean);
--            drop function private.request_digests(uuid, text, private.sealed);
--            drop function private.hold_message(public.conversations, private.pending_messages, private.settings);
--            drop function private.tell_author(public.conversations, uuid);
--            drop function private.insert_message(public.conversations, private.pending_messages, private.settings);
--            drop function private.keep_verdict(uuid, uuid, uuid, uuid, text, private.judgement);
--            drop function private.pending_json(private.pending_messages);
--            drop function private.open_direct(uuid, uuid, uuid, private.settings);
--            drop function private.lock_direct(uuid, uuid, uuid);
set lock_timeout = '4s';

create function private.lock_direct(p_a uuid, p_b uuid, p_gig_id uuid)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_conversation public.conversations;
begin
    select c.* into v_conversation
    from public.conversations as c
    where
        c.kind = 'direct'
        and c.direct_low = least(p_a, p_b)
        and c.direct_high = greatest(p_a, p_b)
        and (c.gig_id = p_gig_id or (c.gig_id is null and p_gig_id is null))
    for no key update;
    return v_conversation;
end;
$$;
comment on function private.lock_direct(uuid, uuid, uuid) is
'Locks and returns the direct conversation of two people about a gig (or none), if there is one.';
revoke all on function private.lock_direct(uuid, uuid, uuid) from public, anon, authenticated, service_role;

create function private.open_direct(p_me uuid, p_other uuid, p_gig_id uuid, p_settings private.settings)
returns public.conversations
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_conversation public.conversations;
    v_is_first_contact boolean;
begin
    -- Both may write first at the same instant, and one may block the other: one at a time.
    perform private.lock_pair(p_me, p_other);
    if private.is_blocked_pair(p_me, p_other) then
        raise sqlstate 'PT403' using message = 'recipient_unavailable', detail = 'This person cannot be written to.';
    end if;
    v_conversation := private.lock_direct(p_me, p_other, p_gig_id);
    if v_conversation.id is not null then
        return v_conversation;
    end if;

    if p_gig_id is not null and not private.gig_allows(p_gig_id, p_me, p_other) then
        raise sqlstate 'PT403' using
            message = 'recipient_unavailable', detail = 'This person cannot be written to.';
    end if;
    v_is_first_contact := not exists (
        select 1
        from public.conversations as c
        where c.kind = 'direct' and c.direct_low = least(p_me, p_other) and c.direct_high = greatest(p_me, p_other)
    );
    perform private.take_pace(
        p_me, 'new_conversation', p_settings.new_conversation_count_max, p_settings.new_conversation_window_s
    );

    insert into public.conversations (kind, gig_id, created_by, direct_low, direct_high)
    values ('direct', p_gig_id, p_me, least(p_me, p_other), greatest(p_me, p_other))
    returning * into v_conversation;
    insert into public.conversation_members (conversation_id, user_id)
    values (v_conversation.id, p_me), (v_conversation.id, p_other);
    perform private.create_heads(array[p_me, p_other]);
    if v_is_first_contact then
        perform private.lock_heads(array[p_me, p_other]);
        perform private.take_pace(
            p_other, 'first_contact', p_settings.first_contact_count_max, p_settings.first_contact_window_s
        );
    end if;
    return v_conversation;
end;
$$;
comment on function private.open_direct(uuid, uuid, uuid, private.settings) is
'Finds and locks, or makes, the direct conversation, under the pair''s lock. Raises PT403 recipient_unavailable when one blocks the other '
'or the host''s gig_allows says no, PT429 rate_limited when p_me starts too many conversations or p_other hears from too many strangers.';
revoke all on function private.open_direct(uuid, uuid, uuid, private.settings) from public, anon, authenticated, service_role;

create function private.pending_json(p_pending private.pending_messages)
returns json
language plpgsql
stable
set search_path = ''
as $$
declare
    v_conversation public.conversations;
    v_message public.messages;
    v_shape json;
begin
    select c.* into v_conversation from public.conversations as c where c.id = p_pending.conversation_id;
    v_message.id := p_pending.message_id;
    v_message.conversation_id := p_pending.conversation_id;
    v_message.seq := 0;
    v_message.event_seq := 0;
    v_message.from_user_id := p_pending.from_user_id;
    v_message.to_user_id := private.direct_other(v_conversation, p_pending.from_user_id);
    v_message.gig_id := v_conversation.gig_id;
    v_message.client_message_id := p_pending.client_message_id;
    v_message.body := p_pending.body;
    v_message.state := p_pending.state;
    v_message.is_masked := false;
    v_message.is_sensitive := p_pending.is_sensitive;
    v_message.created_at := p_pending.created_at;
    v_shape := private.message_shape(v_message, null, null, private.profile_json(p_pending.from_user_id), false);
    if p_pending.is_sensitive then
        return private.joined(v_shape, json_build_object('envelope', private.envelope_json(p_pending.message_id)));
    end if;
    return v_shape;
end;
$$;
comment on function private.pending_json(private.pending_messages) is
'A held message in the shape Message, for its author: the text as it was written, seq and eventSeq 0.';
revoke all on function private.pending_json(private.pending_messages) from public, anon, authenticated, service_role;

create function private.keep_verdict(
    p_me uuid, p_conversation_id uuid, p_message_id uuid, p_client_message_id uuid, p_body text, p_verdict private.judgement
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    insert into private.verdicts (user_id, conversation_id, message_id, client_message_id, action, rules, body)
    values (p_me, p_conversation_id, p_message_id, p_client_message_id, p_verdict.action, p_verdict.rules, p_body);
end;
$$;
comment on function private.keep_verdict(uuid, uuid, uuid, uuid, text, private.judgement) is
'Records what the rules said about a text, whether or not it became a message.';
revoke all on function private.keep_verdict(uuid, uuid, uuid, uuid, text, private.judgement)
from public, anon, authenticated, service_role;

create function private.insert_message(
    p_conversation public.conversations, p_message private.pending_messages, p_settings private.settings
)
returns json[]
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_me constant uuid := p_message.from_user_id;
    v_seq constant bigint := p_conversation.last_seq + 1;
    v_is_direct constant boolean := p_conversation.kind = 'direct';
    v_member_ids uuid[];
    v_blocker_ids uuid[] := '{}';
    v_position bigint;
    v_now timestamptz;
    v_inserted public.messages;
    v_cards json[];
    v_shape json;
    v_rest json;
    v_events jsonb[];
begin
    if v_is_direct then
        v_member_ids := array[p_conversation.direct_low, p_conversation.direct_high];
    else
        v_member_ids := array(
            select m.user_id
            from public.conversation_members as m
            where m.conversation_id = p_conversation.id and m.left_at is null
        );
    end if;
    v_position := private.move_heads(v_member_ids, p_conversation.position);
    if not v_is_direct then
        -- Under the heads, which a block locks as well. Of a direct conversation it locks the row, and none is there.
        v_blocker_ids := private.blockers_among(v_member_ids, v_me);
    end if;
    v_now := clock_timestamp();

    update public.conversations as c
    set last_seq = v_seq, event_seq = c.event_seq + 1, position = v_position, last_message_at = v_now
    where c.id = p_conversation.id;
    insert into public.messages (
        id, conversation_id, seq, event_seq, from_user_id, to_user_id, gig_id, client_message_id,
        body, warning, is_masked, is_sensitive, created_at, changed_position
    )
    values (
        p_message.message_id, p_conversation.id, v_seq, p_conversation.event_seq + 1, v_me,
        private.direct_other(p_conversation, v_me), p_conversation.gig_id, p_message.client_message_id,
        case when not p_message.is_sensitive then coalesce(p_message.masked_body, p_message.body) end, p_message.warning,
        p_message.masked_body is not null, p_message.is_sensitive, v_now, v_position
    )
    returning * into v_inserted;
    if p_message.masked_body is not null and not p_message.is_sensitive then
        insert into private.originals (message_id, body) values (p_message.message_id, p_message.body);
    end if;
    -- A message reaches both people of a direct conversation, also who was not there yet since the first one is held.
    update public.conversation_members as m
    set
        unread_count = m.unread_count + (m.user_id <> v_me and m.user_id <> all(v_blocker_ids))::integer,
        last_activity_at = v_now,
        archived_at = case when m.muted_until > v_now then m.archived_at end,
        left_at = null,
        changed_position = v_position
    where m.conversation_id = p_conversation.id and (m.left_at is null or v_is_direct);
    perform private.note_seen(v_me);
    if p_settings.classifier_mode <> 'off' then
        perform private.enqueue_classification(v_inserted.id, p_settings.classifier_mode);
    end if;
    v_cards := array(
        select private.profile_shape(k.user_id, p.profile)
        from unnest(case when v_is_direct then v_member_ids else array[v_me] end) with ordinality as k (user_id, ordinal)
        left join lateral (
            select t as profile
            from public.profiles as t
            where t.user_id = k.user_id
            limit 1
        ) as p on true
        order by k.ordinal
    );
    -- Nobody has received or read it yet.
    v_shape := private.message_shape(
        v_inserted, null, null, v_cards[case when v_me = p_conversation.direct_high then 2 else 1 end], false
    );
    v_events := private.emit('message.created', p_conversation.id, v_member_ids, v_shape, null);
    if v_inserted.is_sensitive then
        v_shape := private.joined(v_shape, json_build_object('envelope', private.envelope_json(v_inserted.id)));
    end if;
    if v_is_direct then
        v_rest := json_build_object('members', to_json(v_cards), 'memberCount', 2, 'lastMessage', v_shape);
    else
        select json_build_object('members', p.members, 'memberCount', p.member_count, 'lastMessage', v_shape) into v_rest
        from private.people_json(array[p_conversation.id]) as p;
    end if;
    return array[
        v_shape, private.joined((v_events[array_position(v_member_ids, v_me)] -> 'conversation')::text::json, v_rest)
    ];
end;
$$;
comment on function private.insert_message(public.conversations, private.pending_messages, private.settings) is
'The one place that makes a message, in a conversation its caller has locked and may write to; tells everybody, and '
'returns both as the author sees them, the message and then the conversation.';
revoke all on function private.insert_message(public.conversations, private.pending_messages, private.settings)
from public, anon, authenticated, service_role;

create function private.tell_author(p_conversation public.conversations, p_user_id uuid)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_position constant bigint := private.move_heads(array[p_user_id], p_conversation.position);
begin
    -- Not the conversation's own row: the others can read that, and are to notice nothing.
    update public.conversation_members as m
    set changed_position = v_position
    where m.conversation_id = p_conversation.id and m.user_id = p_user_id;
    perform private.emit('conversation.updated', p_conversation.id, array[p_user_id], null, null);
end;
$$;
comment on function private.tell_author(public.conversations, uuid) is
'Tells the devices of the author of a held message, and nobody else, that something has become of it: they look at `pending` again. The '
'conversation is locked.';
revoke all on function private.tell_author(public.conversations, uuid) from public, anon, authenticated, service_role;

create function private.hold_message(
    p_conversation public.conversations, p_message private.pending_messages, p_settings private.settings
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_position bigint;
begin
    if p_settings.pending_count_max <= (
        select count(*)
        from private.pending_messages as p
        where p.from_user_id = p_message.from_user_id and p.state = 'pending'
    ) then
        raise sqlstate 'PT429' using
            message = 'rate_limited', detail = 'Too many messages of yours wait for a moderator.', hint = '600';
    end if;
    insert into private.pending_messages select p_message.*;
    perform private.open_item('held', p_message.from_user_id, p_conversation.id, p_message.message_id, '{}');
    if p_conversation.kind = 'direct' and p_conversation.last_seq = 0 and (
        p_conversation.event_seq = 0 or exists (
            select 1
            from public.conversation_members as m
            where
                m.conversation_id = p_conversation.id
                and m.user_id = p_message.from_user_id
                and m.left_at is not null
        )
    ) then
        -- Nobody else has been reached: the conversation comes into being for the author alone.
        v_position := private.move_heads(array[p_message.from_user_id], p_conversation.position);
        update public.conversations as c
        set event_seq = c.event_seq + 1, position = v_position
        where c.id = p_conversation.id;
        update public.conversation_members as m
        set
            left_at = case
                when m.user_id = p_message.from_user_id then null
                when p_conversation.event_seq = 0 then clock_timestamp()
                else m.left_at
            end,
            changed_position = case when m.user_id = p_message.from_user_id then v_position else m.changed_position end
        where m.conversation_id = p_conversation.id;
        perform private.emit('conversation.created', p_conversation.id, array[p_message.from_user_id], null, null);
    end if;
end;
$$;
comment on function private.hold_message(public.conversations, private.pending_messages, private.settings) is
'Puts a message before the moderators instead of into its conversation, which its caller has locked. Raises PT429 rate_limited when too '
'many of the author''s wait already.';
revoke all on function private.hold_message(public.conversations, private.pending_messages, private.settings)
from public, anon, authenticated, service_role;

create function private.request_digests(p_conversation_id uuid, p_body text, p_sealed private.sealed)
returns bytea[]
language plpgsql
immutable
set search_path = ''
as $$
begin
    if p_body is null then
        return private.sealed_digests(p_conversation_id, p_sealed);
    end if;
    return array[sha256(convert_to(p_conversation_id::text || ' ' || p_body, 'UTF8'))];
end;
$$;
comment on function private.request_digests(uuid, text, private.sealed) is
'What a request is known by when it is repeated; the first is stored. A sensitive one has several, one for each key of the service.';
revoke all on function private.request_digests(uuid, text, private.sealed) from public, anon, authenticated, service_role;

create function private.judge_sealed(p_sealed private.sealed, p_contact_allowed boolean)
returns private.judgement
language plpgsql
stable
set search_path = ''
as $$
declare
    -- The service judged by the same rules, since nobody here can read the text. A mask is inside the envelope.
    v_sealed constant private.sealed := private.sealed_for(p_sealed, p_contact_allowed);
begin
    return row(
        v_sealed.action, v_sealed.label, v_sealed.explanation, v_sealed.rules, case when v_sealed.is_masked then '' end
    )::private.judgement;
end;
$$;
comment on function private.judge_sealed(private.sealed, boolean) is
'The verdict that a verified envelope carries, as judge_text gives it on a text; masked_body is only null or not.';
revoke all on function private.judge_sealed(private.sealed, boolean) from public, anon, authenticated, service_role;

create function private.send_message(
    p_body text, p_conversation_id uuid, p_to_user_id uuid, p_gig_id uuid, p_client_message_id uuid, p_envelope jsonb
)
returns json
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me uuid;
    v_body constant text := private.normalize_text(p_body);
    v_folded text;
    v_has_link boolean;
    v_settings private.settings;
    v_pace private.paces;
    v_now timestamptz;
    v_conversation_id uuid;
    v_conversation public.conversations;
    v_other uuid := p_to_user_id;
    v_is_first_contact boolean;
    v_send_key private.send_keys;
    v_message private.pending_messages;
    v_pending private.pending_messages;
    v_sealed private.sealed;
    v_digests bytea[];
    v_text_digest bigint;
    v_behaviour private.judgement;
    v_verdict private.judgement;
    v_answer json[];
    v_seq bigint;
    v_is_created boolean := false;
begin
    select s.* into v_settings from private.settings as s;
    v_me := private.require_writer(v_settings);
    if p_envelope is null and coalesce(char_length(v_body), 0) not between 1 and 4000 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'The text must have 1 to 4,000 characters after normalisation.', hint = '/body';
    end if;
    if p_envelope is not null and (p_body is not null or p_client_message_id is null) then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'An envelope comes with a clientMessageId and instead of a body.', hint = '/body';
    end if;
    if p_conversation_id is null and p_to_user_id is null then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'Either conversationId or toUserId is needed.', hint = '/conversationId';
    end if;

    -- One send of a person at a time: what the key and the pace say below stays true until commit.
    v_pace := private.lock_pace(v_me, 'send');
    -- Locked at once: a block, the end of a membership and the permission of contact details take this lock as well.
    if p_conversation_id is null then
        v_conversation := private.lock_direct(v_me, p_to_user_id, p_gig_id);
        v_conversation_id := v_conversation.id;
    else
        select c.* into v_conversation
        from public.conversations as c
        inner join public.conversation_members as m on c.id = m.conversation_id
        where c.id = p_conversation_id and m.user_id = v_me and m.left_at is null
        for no key update of c;
        if not found then
            raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
        end if;
        if
            (p_to_user_id is not null and (
                v_conversation.kind <> 'direct' or p_to_user_id = v_me
                or p_to_user_id not in (v_conversation.direct_low, v_conversation.direct_high)
            ))
            or (p_gig_id is not null and p_gig_id is distinct from v_conversation.gig_id)
        then
            raise sqlstate 'PT422' using
                message = 'recipient_mismatch', detail = 'toUserId or gigId is not that of the conversation.';
        end if;
        v_conversation_id := p_conversation_id;
    end if;

    v_message.message_id := private.uuid_v7();
    v_message.from_user_id := v_me;
    v_message.client_message_id := coalesce(p_client_message_id, gen_random_uuid());
    v_message.body := v_body;
    v_message.is_sensitive := p_envelope is not null;
    v_message.state := 'pending';
    if p_envelope is not null then
        v_sealed := private.verify_envelope(
            v_me, p_envelope, p_client_message_id, p_conversation_id, p_to_user_id, p_gig_id
        );
    end if;

    -- A known key is answered before pace and recipient are asked: an honest retry always learns what became of it.
    select k.* into v_send_key
    from private.send_keys as k
    where k.from_user_id = v_me and k.client_message_id = v_message.client_message_id;
    if found then
        v_digests := private.request_digests(v_conversation_id, v_body, v_sealed);
        if not coalesce(v_send_key.request_digest = any(v_digests), false) then
            raise sqlstate 'PT409' using
                message = 'idempotency_conflict', detail = 'This clientMessageId was used for another message.';
        end if;
        select m.seq into v_seq
        from public.messages as m
        inner join public.conversation_members as me on m.conversation_id = me.conversation_id
        where m.id = v_send_key.message_id and me.user_id = v_me and me.left_at is null and me.visible_from_seq <= m.seq;
        if not found then
            select p.* into v_pending from private.pending_messages as p where p.message_id = v_send_key.message_id;
            if not found then
                raise sqlstate 'PT404' using message = 'not_found', detail = 'The message is no longer there for you.';
            elsif v_pending.state = 'rejected' then
                raise sqlstate 'PT422' using message = 'message_rejected', detail = 'A moderator did not let this message pass.';
            end if;
        end if;
        v_answer := array[
            case
                when v_seq is null then private.pending_json(v_pending)
                else private.message_page(v_me, v_conversation_id, v_seq, v_seq + 1, 1) -> 0
            end,
            private.conversation_json(v_me, v_conversation_id)
        ];
    else
        -- Fewer than the limit in all cannot be too many in its window.
        if cardinality(v_pace.happened_at) >= v_settings.send_count_max then
            perform private.check_pace(v_pace.happened_at, v_settings.send_count_max, v_settings.send_window_s, clock_timestamp());
        end if;

        if v_conversation.kind = 'direct' then
            v_other := private.direct_other(v_conversation, v_me);
        elsif v_conversation_id is not null and not exists (
            -- Asked again: a membership may have ended while we waited for the lock.
            select 1
            from public.conversation_members as m
            where m.conversation_id = v_conversation_id and m.user_id = v_me and m.left_at is null
        ) then
            raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
        end if;
        if v_other is not null and (
            v_other = v_me or not private.account_is_active(v_other) or private.is_blocked_pair(v_me, v_other)
        ) then
            raise sqlstate 'PT403' using message = 'recipient_unavailable', detail = 'This person cannot be written to.';
        end if;

        -- Judged before anything is made, so that what is refused leaves its verdict and nothing else.
        v_now := clock_timestamp();
        v_is_first_contact := v_other is not null and coalesce(v_conversation.last_seq, 0) = 0;
        if v_is_first_contact then
            v_is_first_contact := not exists (
                select 1
                from public.conversations as c
                where
                    c.kind = 'direct' and c.direct_low = least(v_me, v_other) and c.direct_high = greatest(v_me, v_other)
                    and c.last_seq > 0
            );
        end if;
        if p_envelope is null then
            v_folded := private.moderation_fold(v_body);
            v_text_digest := private.text_digest(v_folded);
            v_has_link := v_is_first_contact and private.has_link(v_folded);
            v_verdict := private.judge_text(v_body, v_folded, v_conversation.contact_allowed_at is not null);
        else
            v_text_digest := v_sealed.text_digest;
            v_has_link := v_sealed.has_link;
            v_verdict := private.judge_sealed(v_sealed, v_conversation.contact_allowed_at is not null);
        end if;
        v_behaviour := private.judge_behaviour(
            v_me, v_pace.recent, v_text_digest, coalesce(v_other, v_conversation_id), v_is_first_contact, v_has_link, v_now
        );
        -- What allows has neither rules nor a mask to add.
        if v_behaviour.action <> 'allow' then
            v_verdict := private.stronger(v_verdict, v_behaviour);
        end if;
        v_pace.recent := private.recent_with(v_pace.recent, v_text_digest, coalesce(v_other, v_conversation_id), v_now);
        if v_verdict.action = 'reject' then
            -- Not a send, but as many as sends and no more: or words could be tried without end, each leaving a verdict.
            perform private.take_pace(v_me, 'refused', v_settings.send_count_max, v_settings.send_window_s);
            update private.paces as p set recent = v_pace.recent where p.user_id = v_me and p.kind = 'send';
            perform private.keep_verdict(
                v_me, v_conversation_id, null, v_message.client_message_id, v_body, v_verdict
            );
            return private.refuse(422, 'message_rejected', v_verdict.explanation, null)::json;
        end if;

        if v_conversation_id is null then
            v_conversation := private.open_direct(v_me, v_other, p_gig_id, v_settings);
            v_conversation_id := v_conversation.id;
        end if;
        v_message.conversation_id := v_conversation_id;
        v_message.created_at := v_now;
        v_message.warning := case when v_verdict.action = 'warn' then v_verdict.label end;
        v_message.masked_body := v_verdict.masked_body;

        insert into private.send_keys (from_user_id, client_message_id, request_digest, message_id)
        values (
            v_me, v_message.client_message_id, (private.request_digests(v_conversation_id, v_body, v_sealed))[1],
            v_message.message_id
        );
        if p_envelope is not null then
            perform private.keep_envelope(v_message.message_id, v_me, p_client_message_id, v_sealed);
        end if;
        if v_verdict.action <> 'allow' then
            perform private.keep_verdict(
                v_me, v_conversation_id, v_message.message_id, v_message.client_message_id, v_body, v_verdict
            );
        end if;
        if v_verdict.action = 'hold' then
            perform private.hold_message(v_conversation, v_message, v_settings);
            v_answer := array[private.pending_json(v_message), private.conversation_json(v_me, v_conversation_id)];
        else
            v_answer := private.insert_message(v_conversation, v_message, v_settings);
            v_seq := v_conversation.last_seq + 1;
        end if;
        -- The clock of now, not of before the wait for the heads: the window is never shorter than it says.
        v_now := clock_timestamp();
        v_pace.happened_at := private.keep_pace(v_me, 'send', v_pace.happened_at, v_settings.send_window_s, v_now, v_pace.recent);
        v_is_created := true;
    end if;

    return json_build_object(
        'message', v_answer[1],
        'conversation', v_answer[2],
        'created', v_is_created,
        'held', v_seq is null,
        'pace', private.pace_json(v_pace.happened_at, v_settings.send_count_max, v_settings.send_window_s, clock_timestamp())
    );
end;
$$;
comment on function private.send_message(text, uuid, uuid, uuid, uuid, jsonb) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.send_message.';
revoke all on function private.send_message(text, uuid, uuid, uuid, uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function private.send_message(text, uuid, uuid, uuid, uuid, jsonb) to authenticated;

create function public.send_message(
    p_body text default null,
    p_conversation_id uuid default null,
    p_to_user_id uuid default null,
    p_gig_id uuid default null,
    p_client_message_id uuid default null,
    p_envelope jsonb default null
)
returns json
language sql
volatile
security invoker
set search_path = ''
return private.send_message(p_body, p_conversation_id, p_to_user_id, p_gig_id, p_client_message_id, p_envelope);
comment on function public.send_message(text, uuid, uuid, uuid, uuid, jsonb) is
'Sends one message to a conversation, or to a person (about a gig), once per (caller, p_client_message_id); a sensitive one as an envelope '
'that our service has sealed and signed, instead of p_body. Answers {message, conversation, created, held, pace}; a replay has created '
'= false and the message as it is now. What moderation refuses is answered, not raised, as {code, message, details, hint} with status 422, '
'so that the verdict is kept. Raises PT400 validation_failed, PT401 unauthenticated, PT403 account_unavailable, account_muted, '
'recipient_unavailable or envelope_invalid, PT404 not_found, PT409 idempotency_conflict, PT422 recipient_mismatch, PT429 rate_limited.';
revoke all on function public.send_message(text, uuid, uuid, uuid, uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.send_message(text, uuid, uuid, uuid, uuid, jsonb) to authenticated;
