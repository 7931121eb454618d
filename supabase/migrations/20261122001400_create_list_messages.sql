-- Purpose:   the history of a conversation, page by page in both directions and around a place.
-- Consumers: GET /api/messages/conversations/{id}/messages; direct callers of the same RPC.
-- Locks:     none.
-- Undo:      drop function public.list_messages(uuid, bigint, bigint, bigint, integer);
--            drop function private.list_messages(uuid, bigint, bigint, bigint, integer);
set lock_timeout = '4s';

create function private.list_messages(
    p_conversation_id uuid, p_before bigint, p_after bigint, p_around bigint, p_limit integer
)
returns json
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_first bigint;
    v_end bigint;
    v_from bigint;
    v_to bigint;
begin
    if p_limit is null or p_limit not between 1 and 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'limit must be from 1 to 100.', hint = '/limit';
    end if;
    if num_nonnulls(p_before, p_after, p_around) > 1 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'Only one of before, after and around can be given.', hint = '/before';
    end if;
    select greatest(c.first_seq, m.visible_from_seq), c.last_seq + 1 into v_first, v_end
    from public.conversation_members as m
    inner join public.conversations as c on m.conversation_id = c.id
    where m.conversation_id = p_conversation_id and m.user_id = v_me and m.left_at is null;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such conversation for you.';
    end if;
    v_end := greatest(v_end, v_first);

    -- seq has no gaps, so a page is arithmetic: [v_from, v_to) inside [v_first, v_end). Bounded first, so nothing overflows.
    if p_after is not null then
        v_from := least(greatest(p_after, v_first - 1), v_end - 1) + 1;
        v_to := least(v_from + p_limit, v_end);
    elsif p_around is not null then
        v_from := greatest(least(greatest(p_around, v_first), v_end) - p_limit / 2, v_first);
        v_to := least(v_from + p_limit, v_end);
        v_from := greatest(v_to - p_limit, v_first);
    else
        v_to := least(greatest(coalesce(p_before, v_end), v_first), v_end);
        v_from := greatest(v_to - p_limit, v_first);
    end if;
    return json_build_object(
        'messages', private.message_page(v_me, p_conversation_id, v_from, v_to, p_limit),
        'hasMoreBefore', v_from > v_first,
        'hasMoreAfter', v_to < v_end
    );
end;
$$;
comment on function private.list_messages(uuid, bigint, bigint, bigint, integer) is
'Definer, because statuses need the receipts of others; reads for auth.uid() only. See public.list_messages.';
revoke all on function private.list_messages(uuid, bigint, bigint, bigint, integer) from public, anon, authenticated, service_role;
grant execute on function private.list_messages(uuid, bigint, bigint, bigint, integer) to authenticated;

create function public.list_messages(
    p_conversation_id uuid default null,
    p_before bigint default null,
    p_after bigint default null,
    p_around bigint default null,
    p_limit integer default 30
)
returns json
language sql
stable
security invoker
set search_path = ''
return private.list_messages(p_conversation_id, p_before, p_after, p_around, p_limit);
comment on function public.list_messages(uuid, bigint, bigint, bigint, integer) is
'A page of messages, ascending: {messages, hasMoreBefore, hasMoreAfter}. Newest first page without a place; seq < p_before; seq > p_after; '
'or p_around in the middle. Raises PT400 validation_failed, PT401 unauthenticated, PT404 not_found.';
revoke all on function public.list_messages(uuid, bigint, bigint, bigint, integer) from public, anon, authenticated, service_role;
grant execute on function public.list_messages(uuid, bigint, bigint, bigint, integer) to authenticated;
