-- Purpose:   everything that changed for a person since a cursor, in pages, from one snapshot each; nothing can be missed.
-- Consumers: POST /api/messages/sync; direct callers of the same RPC.
-- Locks:     access exclusive on private.settings, for the moment of adding a column.
-- Undo:      drop function public.sync(text, integer); drop function private.sync(text, integer);
--            drop function private.sync_digest(uuid); alter table private.settings drop column sync_epoch;
--
-- A cursor holds a base B, a finished-through position Q and at most one place to resume. Positions of one person are in
-- commit order, so member rows above Q, ascending, are the conversations that changed; in each of them the messages above B.
-- A row that changes while it is being paged moves behind the page and is met again. B becomes Q only when nothing is left:
-- a message that changed between two pages has a position above every Q of that walk.
set lock_timeout = '4s';

alter table private.settings add column sync_epoch uuid not null default gen_random_uuid();
comment on column private.settings.sync_epoch is
'Part of every sync cursor: a new value, set after a restore from a backup, makes all clients start over.';

create function private.sync_digest(p_user_id uuid)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
    return left(md5(concat_ws(
        ' ', p_user_id, (select s.sync_epoch from private.settings as s),
        (select s.system_identifier from pg_control_system() as s), (select c.timeline_id from pg_control_checkpoint() as c)
    )), 16);
end;
$$;
comment on function private.sync_digest(uuid) is
'Ties a cursor to a person and to the history of this database: another cluster, a restored one or a new epoch has another digest.';
revoke all on function private.sync_digest(uuid) from public, anon, authenticated, service_role;

create function private.sync(p_cursor text, p_limit integer)
returns json
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_digest constant text := private.sync_digest(v_me);
    v_head constant bigint := coalesce((select h.position from private.heads as h where h.user_id = v_me), 0);
    v_parts text[];
    v_base bigint;
    v_through bigint;
    v_resume_id uuid;
    v_resume_at bigint;
    v_row record;
    v_page_seqs bigint[];
    v_page_end bigint;
    v_left integer;
    v_rows integer := 0;
    v_has_more boolean := false;
    v_conversations json := '[]';
    v_changed_ids uuid[] := '{}';
    v_lost_ids uuid[] := '{}';
    v_message_of uuid[] := '{}';
    v_message_seqs bigint[] := '{}';
begin
    if p_limit is null or p_limit not between 1 and 500 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'limit must be from 1 to 500.', hint = '/limit';
    end if;
    if p_cursor is null then
        v_conversations := private.list_inbox(30, null, null, null, null, null, null) -> 'conversations';
        v_base := v_head;
        v_through := v_head;
    else
        v_parts := regexp_match(
            p_cursor, '^([0-9a-f]{16})\.([0-9]{1,16})\.([0-9]{1,16})(?:\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([0-9]{1,16}))?$'
        );
        if v_parts is null or v_parts[1] <> v_digest then
            raise sqlstate 'PT400' using
                message = 'cursor_invalid', detail = 'This cursor is not for this person and database; begin without one.',
                hint = '/cursor';
        end if;
        v_base := v_parts[2]::bigint;
        v_through := v_parts[3]::bigint;
        v_resume_id := v_parts[4]::uuid;
        v_resume_at := v_parts[5]::bigint;
        if v_through > v_head then
            -- A replica that has not come that far yet: nothing is known, and nothing is lost by asking again.
            return json_build_object(
                'messages', '[]'::json, 'conversations', '[]'::json, 'receipts', '[]'::json, 'lost', '[]'::json,
                'cursor', p_cursor, 'hasMore', false, 'position', v_head
            );
        end if;
        v_left := p_limit;
        for v_row in
            select m.*
            from public.conversation_members as m
            where m.user_id = v_me and m.changed_position > v_through
            order by m.changed_position, m.conversation_id
            limit 51
        loop
            if v_rows = 50 or v_left = 0 then
                v_has_more := true;
                exit;
            end if;
            v_rows := v_rows + 1;
            if v_row.left_at is not null then
                v_lost_ids := v_lost_ids || v_row.conversation_id;
            else
                -- Whatever of the resumed conversation changed after its page has a position above it, wherever its row is now.
                select coalesce(array_agg(t.seq order by t.changed_position), '{}'), max(t.changed_position)
                into v_page_seqs, v_page_end
                from (
                    select m.changed_position, m.seq
                    from public.messages as m
                    where
                        m.conversation_id = v_row.conversation_id
                        and m.changed_position > case
                            when v_row.conversation_id = v_resume_id then v_resume_at else v_base
                        end
                        and m.seq >= v_row.visible_from_seq
                    order by m.changed_position
                    fetch first v_left rows with ties
                ) as t;
                v_message_of := v_message_of || array_fill(v_row.conversation_id, array[cardinality(v_page_seqs)]);
                v_message_seqs := v_message_seqs || v_page_seqs;
                v_left := greatest(0, v_left - cardinality(v_page_seqs));
                v_changed_ids := v_changed_ids || v_row.conversation_id;
                if v_left = 0 and exists (
                    select 1
                    from public.messages as m
                    where m.conversation_id = v_row.conversation_id and m.changed_position > v_page_end
                ) then
                    v_resume_id := v_row.conversation_id;
                    v_resume_at := v_page_end;
                    v_has_more := true;
                    exit;
                end if;
                if v_row.conversation_id = v_resume_id then
                    v_resume_id := null;
                end if;
            end if;
            v_through := v_row.changed_position;
        end loop;
        if not v_has_more then
            v_through := v_head;
            v_base := v_head;
            v_resume_id := null;
        end if;
        v_conversations := private.conversations_json(v_me, v_changed_ids);
    end if;
    return json_build_object(
        'messages', (
            select coalesce(json_agg(t.message order by t.ordinal), '[]')
            from private.messages_json(v_me, v_message_of, v_message_seqs) as t
        ),
        'conversations', v_conversations,
        'receipts', (
            select coalesce(json_agg(
                jsonb_build_object('conversationId', k.id) || private.receipt_json(m) order by k.ordinal, m.joined_at, m.user_id
            ), '[]')
            from unnest(v_changed_ids) with ordinality as k (id, ordinal)
            cross join lateral (
                select t.*
                from public.conversation_members as t
                where t.conversation_id = k.id and t.left_at is null
            ) as m
        ),
        'lost', v_lost_ids,
        'cursor', concat_ws('.', v_digest, v_base, v_through, v_resume_id, case when v_resume_id is not null then v_resume_at end),
        'hasMore', v_has_more,
        -- With nothing left, all that was committed for this person up to here is in the answers.
        'position', case when not v_has_more then v_head end
    );
end;
$$;
comment on function private.sync(text, integer) is
'Definer, because shapes need the rows of others; reads for auth.uid() only. Stable, so that a page is one snapshot. See public.sync.';
revoke all on function private.sync(text, integer) from public, anon, authenticated, service_role;
grant execute on function private.sync(text, integer) to authenticated;

create function public.sync(p_cursor text default null, p_limit integer default 200)
returns json
language sql
stable
security invoker
set search_path = ''
return private.sync(p_cursor, p_limit);
comment on function public.sync(text, integer) is
'What changed for the caller since a cursor, as it is now, at least once: {messages, conversations, receipts, lost, '
'cursor, hasMore, position}. '
'Without a cursor: the first page of the inbox and a cursor. Raises PT400 validation_failed or cursor_invalid, PT401 unauthenticated.';
revoke all on function public.sync(text, integer) from public, anon, authenticated, service_role;
grant execute on function public.sync(text, integer) to authenticated;
