-- What is true now: which conversations and member rows may be read.
-- Mirror of the migrations, held equal by a test. Running this file in one transaction repairs the policies.

drop policy if exists conversations_select_member on public.conversations;
create policy conversations_select_member on public.conversations
for select to authenticated
using (id = any(array(select private.my_conversation_ids())));

drop policy if exists conversation_members_select_self on public.conversation_members;
create policy conversation_members_select_self on public.conversation_members
for select to authenticated
using (user_id = (select auth.uid()) and left_at is null and (select private.has_account()));
