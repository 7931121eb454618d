-- Purpose:   the inbox page and one conversation with its newest messages.
-- Consumers: POST /api/messages/conversations, GET /api/messages/conversations/{id}; direct callers of the same RPCs.
-- Locks:     none.
-- Undo:      drop function public.get_conversation(uuid); drop function private.get_conversation(uuid);
--            drop function public.list_conversations(integer, integer); drop function private.list_conversations(integer, integer);
--            drop function private.receipts_json(uuid);
set lock_timeout = '4s';

create function private.list_conversations(p_limit integer, p_offset integer)
returns json
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
begin
    if p_limit is null or p_limit not between 1 and 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'limit must be from 1 to 100.', hint = '/limit';
    end if;
    if p_offset is null or p_offset not between 0 and 1000000 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'offset must be from 0 to 1,000,000.', hint = '/offset';
    end if;
    return json_build_object(
        'conversations', private.conversations_json(v_me, array(
            select m.conversation_id
            from public.conversation_members as m
            where m.user_id = v_me and m.left_at is null and not m.is_archived
            order by m.is_pinned desc, m.last_activity_at desc, m.conversation_id desc
            limit p_limit offset p_offset
        )),
        'total', (
            select count(*)
            from public.conversation_members as m
            where m.user_id = v_me and m.left_at is null and not m.is_archived
        )
    );
end;
$$;
comment on function private.list_conversations(integer, integer) is
'Definer, because members see only their own rows of members; reads for auth.uid() only. See public.list_conversations.';
revoke all on function private.list_conversations(integer, integer) from public, anon, authenticated, service_role;
grant execute on function private.list_conversations(integer, integer) to authenticated;

create function public.list_conversations(p_limit integer default 30, p_offset integer default 0)
returns json
language sql
stable
security invoker
set search_path = ''
return private.list_conversations(p_limit, p_offset);
comment on function public.list_conversations(integer, integer) is
'The caller''s conversations that are not archived: {conversations, total}; pinned first, then newest activity, then id, both '
'descending. p_limit 1 to 100, p_offset 0 to 1,000,000. Raises PT400 validation_failed, PT401 unauthenticated.';
revoke all on function public.list_conversations(integer, integer) from public, anon, authenticated, service_role;
grant execute on function public.list_conversations(integer, integer) to authenticated;

create function private.receipts_json(p_conversation_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return coalesce((
        select jsonb_agg(private.receipt_json(m) order by m.joined_at, m.user_id)
        from public.conversation_members as m
        where m.conversation_id = p_conversation_id and m.left_at is null
    ), '[]'::jsonb);
end;
$$;
comment on function private.receipts_json(uuid) is 'The shared watermarks of all current members as an array of Receipt.';
revoke all on function private.receipts_json(uuid) from public, anon, authenticated, service_role;

create function private.get_conversation(p_conversation_id uuid)
returns json
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_first_seq bigint;
    v_messages json;
begin
    select greatest(c.first_seq, m.visible_from_seq) into v_first_seq
    from public.conversation_members as m
    inner join public.conversations as c on m.conversation_id = c.id
    where m.conversation_id = p_conversation_id and m.user_id = v_me and m.left_at is null;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
    end if;
    v_messages := private.message_page(v_me, p_conversation_id, v_first_seq, 9223372036854775807, 30);
    return json_build_object(
        'conversation', private.joined(private.conversation_json(v_me, p_conversation_id), json_build_object(
            'messages', v_messages,
            'receipts', private.receipts_json(p_conversation_id),
            'hasMore', coalesce((v_messages -> 0 ->> 'seq')::bigint > v_first_seq, false),
            'pending', coalesce((
                select json_agg(private.pending_json(p) order by p.message_id)
                from private.pending_messages as p
                where p.conversation_id = p_conversation_id and p.from_user_id = v_me and p.state = 'pending'
            ), '[]')
        ))
    );
end;
$$;
comment on function private.get_conversation(uuid) is
'Definer, because others'' receipts and cards are not in the caller''s rows; reads for auth.uid() only. See public.get_conversation.';
revoke all on function private.get_conversation(uuid) from public, anon, authenticated, service_role;
grant execute on function private.get_conversation(uuid) to authenticated;

create function public.get_conversation(p_conversation_id uuid default null)
returns json
language sql
stable
security invoker
set search_path = ''
return private.get_conversation(p_conversation_id);
comment on function public.get_conversation(uuid) is
'One conversation with its newest 30 messages, ascending: {conversation}. Raises PT401 unauthenticated, PT404 not_found (also for '
'a conversation of others).';
revoke all on function public.get_conversation(uuid) from public, anon, authenticated, service_role;
grant execute on function public.get_conversation(uuid) to authenticated;
