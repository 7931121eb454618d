-- Purpose:   who may listen and speak on which Realtime topic, and plain Postgres Changes on messages.
-- Consumers: Realtime. supabase/policies/realtime_messages.sql mirrors the policies.
-- Locks:     share update exclusive on the publication; access exclusive on realtime.messages for the moment of creating policies.
-- Undo:      alter publication supabase_realtime drop table public.messages;
--            drop policy messaging_select_topic on realtime.messages; drop policy messaging_insert_topic on realtime.messages;
--            drop function private.may_write_live_topic(text, text); drop function private.may_use_live_topic(text);
set lock_timeout = '4s';

create function private.may_use_live_topic(p_topic text)
returns boolean
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
    v_parts constant text[] := regexp_match(
        p_topic, '^conversation:([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}):live:([1-9][0-9]{0,8})$'
    );
begin
    -- Every policy is evaluated for every topic, and one that raises would close all of them: foreign topics are just not ours.
    return v_parts is not null and exists (
        select 1
        from public.conversation_members as m
        inner join public.conversations as c on m.conversation_id = c.id
        where
            m.conversation_id = v_parts[1]::uuid
            and m.user_id = auth.uid()
            and m.left_at is null
            and private.has_account()
            and private.live_topic(
                c, m.user_id, private.has_blocked(m.user_id, private.direct_other(c, m.user_id))
            ) = p_topic
    );
end;
$$;
comment on function private.may_use_live_topic(text) is
'Definer, because the joining role sees only its own rows. Whether this is the current live topic, for the caller, of a conversation they '
'are in.';
revoke all on function private.may_use_live_topic(text) from public, anon, authenticated, service_role;
grant execute on function private.may_use_live_topic(text) to authenticated;

create function private.may_write_live_topic(p_topic text, p_extension text)
returns boolean
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    -- Presence is for active accounts; what is broadcast is said to others, so it takes what typing takes.
    return private.may_use_live_topic(p_topic) and private.account_is_active(auth.uid()) and (
        p_extension = 'presence'
        or (
            p_extension = 'broadcast'
            and not private.is_sanctioned(auth.uid(), 'mute')
            and not exists (
                select 1
                from auth.users as u
                cross join private.settings as s
                where u.id = auth.uid() and u.is_anonymous and not s.anonymous_may_send
            )
        )
    );
end;
$$;
comment on function private.may_write_live_topic(text, text) is
'Definer, because accounts and sanctions are not the caller''s to read. Whether the caller may broadcast or be present on this live topic.';
revoke all on function private.may_write_live_topic(text, text) from public, anon, authenticated, service_role;
grant execute on function private.may_write_live_topic(text, text) to authenticated;

-- user:<uuid> is fed by the database alone and read by its owner; the live topic is spoken and heard by current members.
create policy messaging_select_topic on realtime.messages
for select to authenticated
using (
    (extension = 'broadcast' and (select realtime.topic()) = 'user:' || (select auth.uid()) and (select private.has_account()))
    or (extension in ('broadcast', 'presence') and (select private.may_use_live_topic((select realtime.topic()))))
);

create policy messaging_insert_topic on realtime.messages
for insert to authenticated
with check (
    extension in ('broadcast', 'presence') and private.may_write_live_topic((select realtime.topic()), extension)
);

alter publication supabase_realtime add table public.messages;
