-- What is true now: who may write and list pictures in Storage.
-- Mirror of the migrations, held equal by a test. Running this file in one transaction repairs the policies.

drop policy if exists avatars_select_own on storage.objects;
-- Public objects are served without any policy; these are for writing, and for the listing that an upsert needs.
create policy avatars_select_own on storage.objects
for select to authenticated
using (bucket_id = 'avatars' and split_part(name, '/', 1) = (select auth.uid())::text);

drop policy if exists avatars_insert_own on storage.objects;
create policy avatars_insert_own on storage.objects
for insert to authenticated
with check (bucket_id = 'avatars' and private.may_keep_avatar(name));

drop policy if exists avatars_update_own on storage.objects;
create policy avatars_update_own on storage.objects
for update to authenticated
using (bucket_id = 'avatars' and private.may_keep_avatar(name))
with check (bucket_id = 'avatars' and private.may_keep_avatar(name));

drop policy if exists avatars_delete_own on storage.objects;
create policy avatars_delete_own on storage.objects
for delete to authenticated
using (bucket_id = 'avatars' and private.may_keep_avatar(name));
