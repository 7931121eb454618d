-- Once per database, as supabase_admin, after @supabase/lite made its auth and storage tables:
-- owners, grants, functions and columns as on a hosted project.
alter table storage.objects owner to supabase_storage_admin;
alter table storage.buckets owner to supabase_storage_admin;
grant all on schema storage to supabase_storage_admin;
grant all on storage.buckets, storage.objects to postgres with grant option;
grant all on storage.buckets, storage.objects to anon, authenticated, service_role;
grant all on all tables in schema auth to postgres;
grant all on all tables in schema auth, storage to lite_api;
grant execute on all functions in schema auth, storage to postgres, anon, authenticated, service_role, lite_api;
alter table supabase_migrations.schema_migrations owner to postgres;
alter table supabase_migrations.seed_files owner to postgres;

-- lite reads only the old one-setting-per-claim form.
create or replace function auth.uid() returns uuid
language sql stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
    )::uuid
$$;
create or replace function auth.role() returns text
language sql stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.role', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
    )
$$;
create or replace function auth.email() returns text
language sql stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.email', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'
    )
$$;
create or replace function auth.jwt() returns jsonb
language sql stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')
    )::jsonb
$$;

-- Columns of hosted auth.users, in case lite's table lacks them.
alter table auth.users
add column if not exists instance_id uuid,
add column if not exists aud varchar(255),
add column if not exists invited_at timestamptz,
add column if not exists confirmation_sent_at timestamptz,
add column if not exists recovery_sent_at timestamptz,
add column if not exists email_change_sent_at timestamptz,
add column if not exists last_sign_in_at timestamptz,
add column if not exists is_super_admin boolean,
add column if not exists phone text unique,
add column if not exists phone_confirmed_at timestamptz,
add column if not exists phone_change text default '',
add column if not exists phone_change_token varchar(255) default '',
add column if not exists phone_change_sent_at timestamptz,
add column if not exists email_change_token_current varchar(255) default '',
add column if not exists email_change_confirm_status smallint default 0,
add column if not exists banned_until timestamptz,
add column if not exists reauthentication_token varchar(255) default '',
add column if not exists reauthentication_sent_at timestamptz,
add column if not exists is_sso_user boolean not null default false,
add column if not exists deleted_at timestamptz,
add column if not exists is_anonymous boolean not null default false;
