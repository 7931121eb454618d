-- Default privileges of hosted projects since 30 October 2026: what `postgres` makes in public is not exposed.
-- Tables keep truncate, references and trigger; functions keep the EXECUTE that Postgres itself gives PUBLIC.
alter default privileges for role postgres in schema public
grant truncate, references, trigger on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
grant update on sequences to anon, authenticated, service_role;
