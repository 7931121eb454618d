-- Default privileges of hosted projects before 30 October 2026: whatever `postgres` makes in public is open to
-- every API role. Only for tests: migrations must end with the same grants in both worlds.
alter default privileges for role postgres in schema public
grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
grant all on sequences to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
grant all on functions to anon, authenticated, service_role;
