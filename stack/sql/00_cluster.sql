-- Once per cluster, as its superuser supabase_admin: the roles a hosted Supabase project has.
-- Run again it changes nothing. Passwords of the roles that log in are set by stack/database.py.
do $$
declare
    r text[];
begin
    foreach r slice 1 in array array[
        ['anon', 'nologin noinherit'],
        ['authenticated', 'nologin noinherit'],
        ['service_role', 'nologin noinherit bypassrls'],
        ['authenticator', 'login noinherit'],
        ['postgres', 'login createdb createrole replication bypassrls'],
        ['supabase_auth_admin', 'login noinherit createrole'],
        ['supabase_storage_admin', 'login noinherit createrole'],
        ['supabase_functions_admin', 'login noinherit createrole'],
        ['supabase_realtime_admin', 'nologin noinherit'],
        ['supabase_replication_admin', 'login replication'],
        ['supabase_etl_admin', 'login replication'],
        ['supabase_read_only_user', 'login bypassrls'],
        ['dashboard_user', 'nologin createdb createrole replication'],
        ['pgbouncer', 'login'],
        -- The only role hosted does not have: the login of our data API server (stack/server.mjs).
        ['lite_api', 'login inherit bypassrls']
    ] loop
        if not exists (select from pg_roles where rolname = r[1]) then
            execute format('create role %I %s', r[1], r[2]);
        end if;
    end loop;
end
$$;

grant anon, authenticated, service_role to authenticator, postgres, supabase_storage_admin, lite_api;
grant authenticator to supabase_storage_admin;
grant supabase_auth_admin, supabase_storage_admin, supabase_functions_admin, supabase_realtime_admin to postgres;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
grant pg_read_all_data to supabase_read_only_user, supabase_etl_admin;

alter role supabase_admin set search_path = "$user", public, auth, extensions;
alter role postgres set search_path = "$user", public, extensions;
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
