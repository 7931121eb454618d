-- What is true now: who may listen and speak on which Realtime topic.
-- Mirror of the migrations, held equal by a test. Running this file in one transaction repairs the policies.

drop policy if exists messaging_select_topic on realtime.messages;
-- user:<uuid> is fed by the database alone and read by its owner; the live topic is spoken and heard by current members.
create policy messaging_select_topic on realtime.messages
for select to authenticated
using (
    (extension = 'broadcast' and (select realtime.topic()) = 'user:' || (select auth.uid()) and (select private.has_account()))
    or (extension in ('broadcast', 'presence') and (select private.may_use_live_topic((select realtime.topic()))))
);

drop policy if exists messaging_insert_topic on realtime.messages;
create policy messaging_insert_topic on realtime.messages
for insert to authenticated
with check (
    extension in ('broadcast', 'presence') and private.may_write_live_topic((select realtime.topic()), extension)
);
