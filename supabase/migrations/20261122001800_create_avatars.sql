-- Purpose:   a public bucket for pictures, in which everybody writes only below a folder of their own id.
-- Consumers: Storage; update_profile. supabase/policies/storage_objects.sql mirrors the policies.
-- Locks:     none on our tables; access exclusive on storage.objects for the moment of creating policies.
-- Undo:      drop policy avatars_insert_own on storage.objects; drop policy avatars_update_own on storage.objects;
--            drop policy avatars_delete_own on storage.objects; drop policy avatars_select_own on storage.objects;
--            drop function private.may_keep_avatar(text);
--
-- The bucket stays when undone: Storage refuses to drop one that has objects.
set lock_timeout = '4s';

insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
values ('avatars', 'avatars', true, 1048576, array['image/png', 'image/jpeg', 'image/webp'])
on conflict (id) do nothing;

create function private.may_keep_avatar(p_name text)
returns boolean
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    -- Plain names only, a few folders deep: what is no name everywhere (.., control characters) is none here.
    return p_name ~ '^[0-9a-f-]{36}(/[^/\\.[:cntrl:]][^/\\[:cntrl:]]{0,127}){1,4}$'
        and split_part(p_name, '/', 1) = auth.uid()::text
        and private.account_is_active(auth.uid());
end;
$$;
comment on function private.may_keep_avatar(text) is
'Definer, because accounts are not the caller''s to read. Whether the caller, an active account, may write this object of avatars.';
revoke all on function private.may_keep_avatar(text) from public, anon, authenticated, service_role;
grant execute on function private.may_keep_avatar(text) to authenticated;

-- Public objects are served without any policy; these are for writing, and for the listing that an upsert needs.
create policy avatars_select_own on storage.objects
for select to authenticated
using (bucket_id = 'avatars' and split_part(name, '/', 1) = (select auth.uid())::text);

create policy avatars_insert_own on storage.objects
for insert to authenticated
with check (bucket_id = 'avatars' and private.may_keep_avatar(name));

create policy avatars_update_own on storage.objects
for update to authenticated
using (bucket_id = 'avatars' and private.may_keep_avatar(name))
with check (bucket_id = 'avatars' and private.may_keep_avatar(name));

create policy avatars_delete_own on storage.objects
for delete to authenticated
using (bucket_id = 'avatars' and private.may_keep_avatar(name));
