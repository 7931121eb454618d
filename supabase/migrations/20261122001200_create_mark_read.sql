-- Purpose:   read watermarks: up to a message, or all of a conversation.
-- Consumers: PATCH /api/messages/{id}/read, PATCH /api/messages/conversations/{id}/read-all; direct callers of the same RPCs.
-- Locks:     none on existing tables. At run time: the conversation, heads by user id, members; none when nothing changes.
-- Undo:      drop function public.mark_all_read(uuid, bigint); drop function private.mark_all_read(uuid, bigint);
--            drop function public.mark_read(uuid); drop function private.mark_read(uuid);
--            drop function private.read_up_to(uuid, uuid, bigint);
--            drop function private.receipt_audience(public.conversations, uuid, uuid[], bigint, bigint);
--            drop function private.unread_count(uuid, uuid, bigint);
set lock_timeout = '4s';

create function private.unread_count(p_conversation_id uuid, p_user_id uuid, p_read_seq bigint)
returns integer
language plpgsql
stable
set search_path = ''
as $$
begin
    return (
        select count(*)
        from public.messages as m
        where
            m.conversation_id = p_conversation_id
            and m.seq > p_read_seq
            and m.from_user_id <> p_user_id
            and m.state = 'visible'
            and not exists (
                select 1
                from private.blocks as b
                where b.blocker_id = p_user_id and b.blocked_id = m.from_user_id
            )
    );
end;
$$;
comment on function private.unread_count(uuid, uuid, bigint) is
'The definition of unread: visible messages of others, but not of people whom the reader blocks, above a watermark (the caller passes '
'greatest(last_read_seq, visible_from_seq - 1)).';
revoke all on function private.unread_count(uuid, uuid, bigint) from public, anon, authenticated, service_role;

create function private.receipt_audience(
    p_conversation public.conversations, p_user_id uuid, p_member_ids uuid[], p_from_seq bigint, p_to_seq bigint
)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
begin
    if cardinality(p_member_ids) <= 16 then
        return p_member_ids;
    end if;
    -- In a larger group only the authors of what was read learn of it at once, one event for all of it. A reader who comes
    -- back after a long time is told about the newest hundred messages; the watermark itself says the rest.
    return array(
        select distinct t.user_id
        from (
            select p_user_id as user_id
            union all
            select m.from_user_id
            from public.messages as m
            where m.conversation_id = p_conversation.id and m.seq > greatest(p_from_seq, p_to_seq - 100) and m.seq <= p_to_seq
        ) as t
        where t.user_id = any(p_member_ids)
    );
end;
$$;
comment on function private.receipt_audience(public.conversations, uuid, uuid[], bigint, bigint) is
'Who is told that p_user_id has read on from p_from_seq to p_to_seq: all members up to 16, else the authors and the reader.';
revoke all on function private.receipt_audience(public.conversations, uuid, uuid[], bigint, bigint)
from public, anon, authenticated, service_role;

create function private.read_up_to(p_user_id uuid, p_conversation_id uuid, p_seq bigint)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_conversation public.conversations;
    v_before public.conversation_members;
    v_me public.conversation_members;
    v_other uuid;
    v_concerned uuid[];
    v_position bigint;
    v_seq bigint;
    v_shares boolean;
begin
    select m.* into v_me
    from public.conversation_members as m
    where m.conversation_id = p_conversation_id and m.user_id = p_user_id and m.left_at is null;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
    end if;
    select least(p_seq, c.last_seq) into v_seq from public.conversations as c where c.id = p_conversation_id;

    -- A repeat changes nothing, so it locks nothing.
    if v_seq > v_me.last_read_seq or v_me.marked_unread then
        select c.* into v_conversation
        from public.conversations as c
        where c.id = p_conversation_id
        for no key update;
        select m.* into v_before
        from public.conversation_members as m
        where m.conversation_id = p_conversation_id and m.user_id = p_user_id and m.left_at is null;
        if not found then
            raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
        end if;
        v_other := private.direct_other(v_conversation, p_user_id);
        v_shares := v_seq > v_before.shared_read_seq and not coalesce(
            (select s.private_reading from private.profile_settings as s where s.user_id = p_user_id), false
        ) and not private.has_blocked(p_user_id, v_other);
        v_concerned := case
            -- Who is blocked reads as ever and must see no difference; the other is not told.
            when v_shares and private.has_blocked(v_other, p_user_id) then array[p_user_id]
            when v_shares then private.receipt_audience(
                v_conversation, p_user_id, array(
                    select m.user_id
                    from public.conversation_members as m
                    where m.conversation_id = p_conversation_id and m.left_at is null
                ), v_before.shared_read_seq, v_seq
            )
            else array[p_user_id]
        end;
        v_position := private.move_heads(v_concerned, v_conversation.position);

        -- Others can read this row: what they are not told must not move it.
        update public.conversations as c
        set event_seq = c.event_seq + 1, position = v_position
        where c.id = p_conversation_id and v_shares;
        update public.conversation_members as m
        set
            last_read_seq = greatest(m.last_read_seq, v_seq),
            shared_read_seq = case when v_shares then v_seq else m.shared_read_seq end,
            shared_delivered_seq = case when v_shares then greatest(m.shared_delivered_seq, v_seq) else m.shared_delivered_seq end,
            unread_count = case
                when v_seq > m.last_read_seq
                    then private.unread_count(p_conversation_id, p_user_id, greatest(v_seq, m.visible_from_seq - 1))
                else m.unread_count
            end,
            marked_unread = false
        where m.conversation_id = p_conversation_id and m.user_id = p_user_id
        returning m.* into v_me;
        update public.conversation_members as m
        set changed_position = v_position
        where m.conversation_id = p_conversation_id and m.user_id = any(v_concerned) and m.left_at is null;
        perform private.note_seen(p_user_id);
        perform private.emit(
            case when v_shares then 'receipt.updated' else 'conversation.updated' end, p_conversation_id, v_concerned, null,
            case when v_shares then private.receipt_json(v_me) end
        );
    end if;

    return jsonb_build_object(
        'receipt', jsonb_build_object(
            'userId', p_user_id,
            'lastReadSeq', v_me.last_read_seq,
            'lastDeliveredSeq', greatest(v_me.last_read_seq, v_me.shared_delivered_seq)
        ),
        'unreadCount', v_me.unread_count,
        'unreadTotal', private.unread_totals(p_user_id) -> 'messages'
    );
end;
$$;
comment on function private.read_up_to(uuid, uuid, bigint) is
'Moves a person''s watermark up to p_seq, never back and never beyond the newest message, and clears their own unread mark. With private '
'reading, or when they block the other person of a direct conversation, it stays their own. unreadTotal leaves out muted and archived '
'conversations.';
revoke all on function private.read_up_to(uuid, uuid, bigint) from public, anon, authenticated, service_role;

create function private.mark_read(p_message_id uuid)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
    v_conversation_id uuid;
    v_seq bigint;
begin
    select m.conversation_id, m.seq into v_conversation_id, v_seq
    from public.messages as m
    inner join public.conversation_members as me on m.conversation_id = me.conversation_id
    where m.id = p_message_id and me.user_id = v_me and me.left_at is null and me.visible_from_seq <= m.seq;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such message for you.';
    end if;
    return private.read_up_to(v_me, v_conversation_id, v_seq);
end;
$$;
comment on function private.mark_read(uuid) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.mark_read.';
revoke all on function private.mark_read(uuid) from public, anon, authenticated, service_role;
grant execute on function private.mark_read(uuid) to authenticated;

create function public.mark_read(p_message_id uuid default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.mark_read(p_message_id);
comment on function public.mark_read(uuid) is
'Marks everything up to this message as read: {receipt, unreadCount, unreadTotal}. Raises PT401 unauthenticated, PT404 not_found '
'(also for a message of others).';
revoke all on function public.mark_read(uuid) from public, anon, authenticated, service_role;
grant execute on function public.mark_read(uuid) to authenticated;

create function private.mark_all_read(p_conversation_id uuid, p_up_to_seq bigint)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_account();
begin
    if p_up_to_seq < 0 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'upToSeq must not be negative.', hint = '/upToSeq';
    end if;
    return private.read_up_to(v_me, p_conversation_id, coalesce(p_up_to_seq, 9223372036854775807));
end;
$$;
comment on function private.mark_all_read(uuid, bigint) is
'Definer, because no API role may write our tables; acts for auth.uid() only. See public.mark_all_read.';
revoke all on function private.mark_all_read(uuid, bigint) from public, anon, authenticated, service_role;
grant execute on function private.mark_all_read(uuid, bigint) to authenticated;

create function public.mark_all_read(p_conversation_id uuid default null, p_up_to_seq bigint default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.mark_all_read(p_conversation_id, p_up_to_seq);
comment on function public.mark_all_read(uuid, bigint) is
'Marks a conversation as read up to p_up_to_seq (default: all there is now): {receipt, unreadCount, unreadTotal}. Raises PT400 '
'validation_failed, PT401 unauthenticated, PT404 not_found.';
revoke all on function public.mark_all_read(uuid, bigint) from public, anon, authenticated, service_role;
grant execute on function public.mark_all_read(uuid, bigint) to authenticated;
