-- Purpose:   the inbox by cursor, with filters and search; and the badge.
-- Consumers: GET /api/messages/conversations, GET /api/messages/unread; direct callers of the same RPCs.
-- Locks:     none.
-- Undo:      drop function public.unread_counts(); drop function private.unread_counts();
--            drop function public.list_inbox(integer, text, boolean, boolean, uuid, uuid, text);
--            drop function private.list_inbox(integer, text, boolean, boolean, uuid, uuid, text);
--            drop function private.inbox_matches(uuid, uuid, text);
--            drop function private.inbox_place_of(text);
--            drop function private.inbox_cursor(boolean, timestamptz, uuid); drop type private.inbox_place;
set lock_timeout = '4s';

create type private.inbox_place as (is_pinned boolean, last_activity_at timestamptz, conversation_id uuid);
comment on type private.inbox_place is 'The sort key of one inbox row.';
revoke all on type private.inbox_place from public, anon, authenticated, service_role;

create function private.inbox_cursor(p_is_pinned boolean, p_last_activity_at timestamptz, p_conversation_id uuid)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
    return rtrim(translate(encode(convert_to(format(
        '%s %s %s', p_is_pinned::integer, (extract(epoch from p_last_activity_at) * 1000000)::bigint, p_conversation_id
    ), 'UTF8'), 'base64'), E'+/\n', '-_'), '=');
end;
$$;
comment on function private.inbox_cursor(boolean, timestamptz, uuid) is 'A place in the inbox as an opaque, URL-safe word.';
revoke all on function private.inbox_cursor(boolean, timestamptz, uuid) from public, anon, authenticated, service_role;

create function private.inbox_place_of(p_cursor text)
returns private.inbox_place
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_parts text[];
begin
    if p_cursor is null then
        -- Above every row.
        return row(true, 'infinity'::timestamptz, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)::private.inbox_place;
    end if;
    if p_cursor ~ '^[A-Za-z0-9_-]{1,200}$' and length(p_cursor) % 4 <> 1 then
        v_parts := regexp_match(
            encode(decode(rpad(translate(p_cursor, '-_', '+/'), (length(p_cursor) + 3) / 4 * 4, '='), 'base64'), 'escape'),
            '^([01]) (\d{1,17}) ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$'
        );
    end if;
    if v_parts is null then
        raise sqlstate 'PT400' using
            message = 'cursor_invalid', detail = 'This cursor is not one of ours; begin without one.', hint = '/cursor';
    end if;
    return row(
        v_parts[1] = '1', 'epoch'::timestamptz + v_parts[2]::bigint * interval '1 microsecond', v_parts[3]::uuid
    )::private.inbox_place;
end;
$$;
comment on function private.inbox_place_of(text) is
'What inbox_cursor wrote; a place above every row for null; raises PT400 cursor_invalid.';
revoke all on function private.inbox_place_of(text) from public, anon, authenticated, service_role;

create function private.inbox_matches(p_user_id uuid, p_conversation_id uuid, p_folded text)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return exists (
        select 1
        from public.conversations as c
        where c.id = p_conversation_id and strpos(c.search_title, p_folded) > 0
    ) or exists (
        select 1
        from public.conversation_members as o
        inner join public.profiles as p on o.user_id = p.user_id
        where
            o.conversation_id = p_conversation_id
            and o.user_id <> p_user_id
            and o.left_at is null
            and strpos(p.search_name, p_folded) > 0
    );
end;
$$;
comment on function private.inbox_matches(uuid, uuid, text) is
'Whether the title, or the name of a current member other than p_user_id, contains the folded text.';
revoke all on function private.inbox_matches(uuid, uuid, text) from public, anon, authenticated, service_role;

create function private.list_inbox(
    p_limit integer, p_cursor text, p_unread boolean, p_archived boolean, p_gig_id uuid, p_with_user_id uuid, p_q text
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
    v_after constant private.inbox_place := private.inbox_place_of(p_cursor);
    v_q constant text := nullif(private.fold_text(private.normalize_text(p_q)), '');
    v_archived constant boolean := coalesce(p_archived, false);
    v_rows private.inbox_place[];
begin
    if p_limit is null or p_limit not between 1 and 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'limit must be from 1 to 100.', hint = '/limit';
    end if;
    if char_length(p_q) > 100 then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'q must have at most 100 characters.', hint = '/q';
    end if;

    -- Three statements, so that each has one plan: by gig or person from the conversations there can be, else along the
    -- index of the inbox, or along the much shorter one of what is unread. One row more than asked tells about a next page.
    if p_gig_id is not null or p_with_user_id is not null then
        select array_agg(r.place order by r.ordinal) into v_rows
        from (
            select
                row(m.is_pinned, m.last_activity_at, m.conversation_id)::private.inbox_place as place,
                row_number() over (order by m.is_pinned desc, m.last_activity_at desc, m.conversation_id desc) as ordinal
            from public.conversation_members as m
            where
                m.user_id = v_me
                and m.left_at is null
                and m.is_archived = v_archived
                and m.conversation_id = any(array(
                    select c.id
                    from public.conversations as c
                    where c.gig_id = p_gig_id and c.direct_low = v_me and (p_with_user_id is null or c.direct_high = p_with_user_id)
                    union all
                    select c.id
                    from public.conversations as c
                    where c.gig_id = p_gig_id and c.direct_high = v_me and (p_with_user_id is null or c.direct_low = p_with_user_id)
                    union all
                    select c.id
                    from public.conversations as c
                    where c.gig_id = p_gig_id and c.direct_low is null and p_with_user_id is null
                    union all
                    select c.id
                    from public.conversations as c
                    where
                        p_gig_id is null
                        and c.kind = 'direct'
                        and c.direct_low = least(v_me, p_with_user_id)
                        and c.direct_high = greatest(v_me, p_with_user_id)
                ))
                and (m.is_pinned, m.last_activity_at, m.conversation_id)
                < (v_after.is_pinned, v_after.last_activity_at, v_after.conversation_id)
                and (p_unread is not true or m.unread_count > 0 or m.marked_unread)
                and (v_q is null or private.inbox_matches(v_me, m.conversation_id, v_q))
            order by m.is_pinned desc, m.last_activity_at desc, m.conversation_id desc
            limit p_limit + 1
        ) as r;
    elsif p_unread then
        select array_agg(r.place) into v_rows
        from (
            select row(m.is_pinned, m.last_activity_at, m.conversation_id)::private.inbox_place as place
            from public.conversation_members as m
            where
                m.user_id = v_me
                and m.left_at is null
                and m.is_archived = v_archived
                and (m.unread_count > 0 or m.marked_unread)
                and (m.is_pinned, m.last_activity_at, m.conversation_id)
                < (v_after.is_pinned, v_after.last_activity_at, v_after.conversation_id)
                and (v_q is null or private.inbox_matches(v_me, m.conversation_id, v_q))
            order by m.is_pinned desc, m.last_activity_at desc, m.conversation_id desc
            limit p_limit + 1
        ) as r;
    else
        select array_agg(r.place) into v_rows
        from (
            select row(m.is_pinned, m.last_activity_at, m.conversation_id)::private.inbox_place as place
            from public.conversation_members as m
            where
                m.user_id = v_me
                and m.left_at is null
                and m.is_archived = v_archived
                and (m.is_pinned, m.last_activity_at, m.conversation_id)
                < (v_after.is_pinned, v_after.last_activity_at, v_after.conversation_id)
                and (v_q is null or private.inbox_matches(v_me, m.conversation_id, v_q))
            order by m.is_pinned desc, m.last_activity_at desc, m.conversation_id desc
            limit p_limit + 1
        ) as r;
    end if;

    return json_build_object(
        'conversations', private.conversations_json(v_me, array(
            select r.conversation_id
            from unnest(v_rows) with ordinality as r (is_pinned, last_activity_at, conversation_id, ordinal)
            where r.ordinal <= p_limit
            order by r.ordinal
        )),
        'nextCursor', case when cardinality(v_rows) > p_limit then private.inbox_cursor(
            v_rows[p_limit].is_pinned, v_rows[p_limit].last_activity_at, v_rows[p_limit].conversation_id
        ) end
    );
end;
$$;
comment on function private.list_inbox(integer, text, boolean, boolean, uuid, uuid, text) is
'Definer, because members see only their own rows of members; reads for auth.uid() only. See public.list_inbox.';
revoke all on function private.list_inbox(integer, text, boolean, boolean, uuid, uuid, text)
from public, anon, authenticated, service_role;
grant execute on function private.list_inbox(integer, text, boolean, boolean, uuid, uuid, text) to authenticated;

create function public.list_inbox(
    p_limit integer default 30,
    p_cursor text default null,
    p_unread boolean default null,
    p_archived boolean default null,
    p_gig_id uuid default null,
    p_with_user_id uuid default null,
    p_q text default null
)
returns json
language sql
stable
security invoker
set search_path = ''
return private.list_inbox(p_limit, p_cursor, p_unread, p_archived, p_gig_id, p_with_user_id, p_q);
comment on function public.list_inbox(integer, text, boolean, boolean, uuid, uuid, text) is
'A page of the caller''s inbox, {conversations, nextCursor}: pinned first, then newest activity, then id, all descending. p_unread: '
'only what is unread; p_archived: the archive instead; p_gig_id, p_with_user_id (direct conversations); p_q: in titles and names, '
'folded. Raises PT400 validation_failed or cursor_invalid, PT401 unauthenticated.';
revoke all on function public.list_inbox(integer, text, boolean, boolean, uuid, uuid, text)
from public, anon, authenticated, service_role;
grant execute on function public.list_inbox(integer, text, boolean, boolean, uuid, uuid, text) to authenticated;

create function private.unread_counts()
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return private.unread_totals(private.require_caller());
end;
$$;
comment on function private.unread_counts() is
'Definer, because private.unread_totals takes any person; reads for auth.uid() only. See public.unread_counts.';
revoke all on function private.unread_counts() from public, anon, authenticated, service_role;
grant execute on function private.unread_counts() to authenticated;

create function public.unread_counts()
returns jsonb
language sql
stable
security invoker
set search_path = ''
return private.unread_counts();
comment on function public.unread_counts() is
'The caller''s badge, {messages, conversations}, without muted and archived conversations. Raises PT401 unauthenticated.';
revoke all on function public.unread_counts() from public, anon, authenticated, service_role;
grant execute on function public.unread_counts() to authenticated;
