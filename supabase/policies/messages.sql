-- What is true now: which messages may be read.
-- Mirror of the migrations, held equal by a test. Running this file in one transaction repairs the policies.

drop policy if exists messages_select_member on public.messages;
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
