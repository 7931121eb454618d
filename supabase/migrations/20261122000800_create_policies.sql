-- Purpose:   who may read what. There are only SELECT policies: no API role may write a table, functions do.
-- Consumers: PostgREST and Postgres Changes readers. supabase/policies/ mirrors the policies for administrators.
-- Locks:     access exclusive on the four tables, for the moment of creating policies.
-- Undo:      drop policy profiles_select_contact on public.profiles; drop policy conversations_select_member on public.conversations;
--            drop policy conversation_members_select_self on public.conversation_members;
--            drop policy messages_select_member on public.messages;
--            drop function private.my_contact_ids(); drop function private.my_conversation_ids();
set lock_timeout = '4s';

create function private.my_conversation_ids()
returns setof uuid
language sql
stable
security definer
set search_path = ''
as $$
    select m.conversation_id
    from public.conversation_members as m
    where m.user_id = (select auth.uid()) and m.left_at is null and (select private.has_account());
$$;
comment on function private.my_conversation_ids() is
'Definer, so that policies on members cannot recurse. The conversations the caller is in now; none without a caller.';
revoke all on function private.my_conversation_ids() from public, anon, authenticated, service_role;
grant execute on function private.my_conversation_ids() to authenticated;

create function private.my_contact_ids()
returns setof uuid
language sql
stable
security definer
set search_path = ''
as $$
    select o.user_id
    from public.conversation_members as m
    inner join public.conversation_members as o on m.conversation_id = o.conversation_id
    where m.user_id = (select auth.uid()) and m.left_at is null and o.left_at is null and (select private.has_account());
$$;
comment on function private.my_contact_ids() is
'Definer, because members see only their own rows. Everybody who is in a conversation with the caller now.';
revoke all on function private.my_contact_ids() from public, anon, authenticated, service_role;
grant execute on function private.my_contact_ids() to authenticated;

create policy profiles_select_contact on public.profiles
for select to authenticated
using (
    user_id = (select auth.uid())
    or user_id = any(array(select private.my_contact_ids()))
);

create policy conversations_select_member on public.conversations
for select to authenticated
using (id = any(array(select private.my_conversation_ids())));

create policy conversation_members_select_self on public.conversation_members
for select to authenticated
using (user_id = (select auth.uid()) and left_at is null and (select private.has_account()));

-- The first condition makes an index range of it; the second bounds the range by where the reader may begin.
create policy messages_select_member on public.messages
for select to authenticated
using (
    conversation_id = any(array(select private.my_conversation_ids()))
    and exists (
        select 1
        from public.conversation_members as m
        where
            m.conversation_id = messages.conversation_id
            and m.user_id = (select auth.uid())
            and m.left_at is null
            and m.visible_from_seq <= messages.seq
    )
);
