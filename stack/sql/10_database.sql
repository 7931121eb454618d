-- Once per database, as supabase_admin, before @supabase/lite makes its auth and storage tables:
-- schemas, extensions, grants and the SQL side of Realtime as on a hosted project.
create schema if not exists extensions authorization postgres;
create schema if not exists auth;
create schema if not exists storage;
create schema if not exists realtime;
create schema if not exists supabase_migrations authorization postgres;

grant usage on schema extensions, auth, storage, realtime to postgres, anon, authenticated, service_role;
grant usage on schema auth, storage, extensions, public to lite_api;

create extension if not exists "uuid-ossp" with schema extensions;
create extension if not exists pgcrypto with schema extensions;
create extension if not exists pg_stat_statements with schema extensions;

grant all on all routines in schema extensions to postgres with grant option;
alter default privileges in schema extensions grant all on tables to postgres with grant option;
alter default privileges in schema extensions grant all on routines to postgres with grant option;

grant all on schema public to postgres;
grant usage on schema public to anon, authenticated, service_role;

-- What supabase_admin makes in public is open to the API roles; what `postgres` makes there is decided
-- by one of 11_default_acl_new.sql and 11_default_acl_old.sql.
alter default privileges for role supabase_admin in schema public
grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
grant all on functions to postgres, anon, authenticated, service_role;

create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;

-- Realtime. Partitions are made by realtime_partitions.sql at every start, one per UTC day.
create table realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    updated_at timestamp not null default now(),
    inserted_at timestamp not null default now(),
    id uuid not null default gen_random_uuid(),
    binary_payload bytea,
    primary key (id, inserted_at),
    check (payload is null or binary_payload is null)
) partition by range (inserted_at);

create index messages_inserted_at_topic_index on realtime.messages (inserted_at desc, topic)
where extension = 'broadcast' and private is true;

alter table realtime.messages enable row level security;
grant select, insert, update on realtime.messages to postgres, anon, authenticated, service_role;
alter table realtime.messages owner to supabase_realtime_admin;
grant usage, create on schema realtime to supabase_realtime_admin;
create publication supabase_realtime_messages_publication for table realtime.messages;

create function realtime.topic() returns text
language sql stable
as $$ select nullif(current_setting('realtime.topic', true), '') $$;

-- As on hosted: security invoker, every error becomes a warning, realtime.topic stays set for the transaction.
create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
language plpgsql
as $$
declare
    v_id uuid := gen_random_uuid();
    v_payload jsonb;
begin
    begin
        v_payload := case when payload ? 'id' then payload else jsonb_set(payload, '{id}', to_jsonb(v_id)) end;
        execute format('set local realtime.topic to %L', topic);
        insert into realtime.messages (id, payload, event, topic, private, extension)
        values (v_id, v_payload, event, topic, private, 'broadcast');
    exception when others then
        raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
    end;
end
$$;

create function realtime.send_binary(payload bytea, event text, topic text, private boolean default true) returns void
language plpgsql
as $$
begin
    begin
        execute format('set local realtime.topic to %L', topic);
        insert into realtime.messages (binary_payload, event, topic, private, extension)
        values (payload, event, topic, private, 'broadcast');
    exception when others then
        raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
    end;
end
$$;

create function realtime.broadcast_changes(
    topic_name text, event_name text, operation text, table_name text, table_schema text,
    new record, old record, level text default 'ROW'
) returns void
language plpgsql
as $$
begin
    if level = 'STATEMENT' then
        raise exception 'function can only be triggered for each row, not for each statement';
    end if;
    if operation not in ('INSERT', 'UPDATE', 'DELETE') then
        raise exception 'unsupported operation %', operation;
    end if;
    perform realtime.send(
        jsonb_build_object(
            'record', new, 'old_record', old, 'operation', operation, 'table', table_name, 'schema', table_schema
        ),
        event_name,
        topic_name
    );
end
$$;

-- The data API reloads its picture of the schema when it hears this, as hosted PostgREST does.
create function extensions.pgrst_watch() returns event_trigger
language plpgsql
as $$ begin notify pgrst, 'reload schema'; end $$;
create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_watch();
create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_watch();
