"""Functions and a table that show how the data API treats values, errors and grants."""

PROBE_SQL = """
create table public.probe_secrets (id int primary key, hidden text);
insert into public.probe_secrets values (1, 'secret');
alter table public.probe_secrets enable row level security;
create policy probe_secrets_select_authenticated on public.probe_secrets for select to authenticated using (true);
revoke all on public.probe_secrets from public, anon, authenticated, service_role;
grant select (id) on public.probe_secrets to authenticated;

create function public.probe_kind(value jsonb) returns text language sql return jsonb_typeof(value);
create function public.probe_echo(value jsonb) returns jsonb language sql return value;
create function public.probe_bytes(value bytea) returns bytea language sql return value;
create function public.probe_time() returns timestamptz language sql
  return timestamptz '2026-01-02 03:04:05.678901+00';
create function public.probe_local_time() returns timestamp language sql return timestamp '2026-01-02 03:04:05';
create function public.probe_numeric() returns numeric language sql return 1.10::numeric;
create function public.probe_raise(state text) returns void language plpgsql as $$
begin
  raise exception using errcode = state, message = 'the message', detail = 'the details', hint = 'the hint';
end $$;
create function public.probe_status() returns jsonb language plpgsql as $$
begin
  perform set_config('response.status', '202', true);
  return '{"accepted": true}';
end $$;
grant execute on function
  public.probe_kind(jsonb), public.probe_echo(jsonb), public.probe_bytes(bytea), public.probe_time(),
  public.probe_local_time(), public.probe_numeric(), public.probe_raise(text), public.probe_status()
to anon, authenticated;
"""
