-- Purpose:   a public bucket for pictures, in which everybody writes only below a folder of their own id.
-- Consumers: Storage; update_profile. supabase/policies/storage_objects.sql mirrors the policies.
-- Locks:     none on our tables; access exclusive on storage.objects for the moment of creating policies.
-- Undo:      drop policy avatars_insert_own on storage.objects; drop policy avatars_update_own on storage.objects;
--            drop policy avatars_delete_own on storage.objects; drop policy avatars_select_own on storage.objects;
--
-- The bucket stays when undone: Storage refuses to drop one that has objects.
set lock_timeout = '4s';

insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
values ('avatars', 'avatars', true, 1048576, array['image/png', 'image/jpeg', 'image/webp'])
on conflict (id) do nothing;

-- Public objects are served without any policy; these are for writing, and for the listing that an upsert needs.
create policy avatars_select_own on storage.objects
for select to authenticated
using (bucket_id = 'avatars' and split_part(name, '/', 1) = (select auth.uid())::text);

create policy avatars_insert_own on storage.objects
for insert to authenticated
with check (bucket_id = 'avatars' and split_part(name, '/', 1) = (select auth.uid())::text);

create policy avatars_update_own on storage.objects
for update to authenticated
using (bucket_id = 'avatars' and split_part(name, '/', 1) = (select auth.uid())::text)
with check (bucket_id = 'avatars' and split_part(name, '/', 1) = (select auth.uid())::text);

create policy avatars_delete_own on storage.objects
for delete to authenticated
using (bucket_id = 'avatars' and split_part(name, '/', 1) = (select auth.uid())::text);
