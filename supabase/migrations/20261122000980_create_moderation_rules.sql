-- Purpose:   what a message may say, as rules in tables, and the verdict of the rules on a text and on somebody's conduct.
-- Consumers: send_message, edit_message, replays; get_moderation_rules for the service's own judging of sensitive texts.
-- Locks:     none on existing tables.
-- Undo:      drop function public.get_moderation_rules(); drop function private.get_moderation_rules();
--            drop function private.judge_behaviour(uuid, bigint[], bigint, uuid, boolean, boolean, timestamptz);
--            drop function private.recent_with(bigint[], bigint, uuid, timestamptz);
--            drop function private.text_digest(text); drop function private.has_link(text);
--            drop function private.judge_text(text, boolean);
--            drop function private.stronger(private.judgement, private.judgement);
--            drop function private.moderation_revision(); drop function private.moderation_fold(text);
--            drop table private.moderation_rule_versions; drop table private.moderation_state; drop table private.moderation_rules;
--            drop type private.judgement;
set lock_timeout = '4s';

create type private.judgement as (action text, label text, explanation text, rules jsonb, masked_body text);
comment on type private.judgement is
'A verdict: allow, warn, mask, hold or reject; label and sentence of the strongest rule; all rules that caught something.';

create table private.moderation_rules (
    id uuid primary key default private.uuid_v7(),
    name text not null unique,
    version integer not null default 1,
    kind text not null,
    action text not null,
    is_enabled boolean not null default true,
    label text not null,
    explanation text not null,
    terms text[] not null default '{}',
    pattern text,
    domains text[] not null default '{}',
    settings jsonb not null default '{}',
    created_at timestamptz not null default now(),
    changed_at timestamptz not null default now()
);
revoke all on table private.moderation_rules from public, anon, authenticated, service_role;
create table private.moderation_rule_versions (
    rule_id uuid not null,
    version integer not null,
    definition jsonb not null,
    created_at timestamptz not null default now(),
    primary key (rule_id, version)
);
revoke all on table private.moderation_rule_versions from public, anon, authenticated, service_role;
create table private.moderation_state (
    is_only_row boolean primary key default true,
    revision bigint not null default 1
);
revoke all on table private.moderation_state from public, anon, authenticated, service_role;
insert into private.moderation_state default values;

create function private.moderation_revision()
returns bigint
language plpgsql
stable
set search_path = ''
as $$
begin
    return (select s.revision from private.moderation_state as s);
end;
$$;
comment on function private.moderation_revision() is 'Rises with every change of a rule.';
revoke all on function private.moderation_revision() from public, anon, authenticated, service_role;

create function private.moderation_fold(p_text text)
returns text
language plpgsql
stable
strict
set search_path = ''
as $$
begin
    return lower(p_text);
end;
$$;
comment on function private.moderation_fold(text) is 'First form.';
revoke all on function private.moderation_fold(text) from public, anon, authenticated, service_role;

create function private.stronger(p_a private.judgement, p_b private.judgement)
returns private.judgement
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_order constant text[] := array['allow', 'warn', 'mask', 'hold', 'reject'];
    v private.judgement := p_a;
begin
    if array_position(v_order, p_b.action) > array_position(v_order, p_a.action) then
        v := p_b;
    end if;
    v.rules := p_a.rules || p_b.rules;
    v.masked_body := coalesce(p_a.masked_body, p_b.masked_body);
    return v;
end;
$$;
comment on function private.stronger(private.judgement, private.judgement) is
'The stronger of two verdicts, with the rules of both and the masked text of either.';
revoke all on function private.stronger(private.judgement, private.judgement) from public, anon, authenticated, service_role;

create function private.judge_text(p_text text, p_contact_allowed boolean)
returns private.judgement
language plpgsql
stable
set search_path = ''
as $$
declare
    v private.judgement := row('allow', null, null, '[]'::jsonb, null);
begin
    if not p_contact_allowed and p_text ~ '[[:alnum:]._-]+@[[:alnum:]-]+[.][a-z]+' then
        v := row(
            'mask', 'contact_details', 'Contact details are shown once both of you have agreed.',
            '[{"id": "00000000-0000-0000-0000-000000000000", "name": "contact_details", "version": 1, '
            '"kind": "contact", "action": "mask"}]'::jsonb,
            regexp_replace(p_text, '[[:alnum:]._-]+@[[:alnum:]-]+[.][a-z]+', '•••', 'g')
        );
    end if;
    return v;
end;
$$;
comment on function private.judge_text(text, boolean) is 'First form.';
revoke all on function private.judge_text(text, boolean) from public, anon, authenticated, service_role;

create function private.has_link(p_text text)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return p_text ~* '(https?://|www[.])';
end;
$$;
comment on function private.has_link(text) is 'First form.';
revoke all on function private.has_link(text) from public, anon, authenticated, service_role;

create function private.text_digest(p_text text)
returns bigint
language plpgsql
stable
set search_path = ''
as $$
begin
    return case when char_length(p_text) >= 12 then hashtextextended(private.moderation_fold(p_text), 20261122) end;
end;
$$;
comment on function private.text_digest(text) is 'First form.';
revoke all on function private.text_digest(text) from public, anon, authenticated, service_role;

create function private.recent_with(p_recent bigint[], p_digest bigint, p_conversation_id uuid, p_now timestamptz)
returns bigint[]
language plpgsql
stable
set search_path = ''
as $$
declare
    v bigint[] := p_recent || array[
        coalesce(p_digest, 0), hashtextextended(p_conversation_id::text, 20261122), floor(extract(epoch from p_now))::bigint
    ];
begin
    return v[greatest(1, cardinality(v) - 95):];
end;
$$;
comment on function private.recent_with(bigint[], bigint, uuid, timestamptz) is 'First form.';
revoke all on function private.recent_with(bigint[], bigint, uuid, timestamptz) from public, anon, authenticated, service_role;

create function private.judge_behaviour(
    p_me uuid, p_recent bigint[], p_digest bigint, p_conversation_id uuid, p_is_first_contact boolean, p_has_link boolean,
    p_now timestamptz
)
returns private.judgement
language plpgsql
stable
set search_path = ''
as $$
begin
    return row('allow', null, null, '[]'::jsonb, null)::private.judgement;
end;
$$;
comment on function private.judge_behaviour(uuid, bigint[], bigint, uuid, boolean, boolean, timestamptz) is 'First form.';
revoke all on function private.judge_behaviour(uuid, bigint[], bigint, uuid, boolean, boolean, timestamptz)
from public, anon, authenticated, service_role;

create function private.get_moderation_rules()
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return jsonb_build_object('revision', private.moderation_revision(), 'rules', coalesce((
        select jsonb_agg(to_jsonb(r) - 'created_at' - 'changed_at' order by r.name)
        from private.moderation_rules as r
        where r.is_enabled
    ), '[]'::jsonb));
end;
$$;
comment on function private.get_moderation_rules() is
'Definer, because rules are private; for the service alone. See public.get_moderation_rules.';
revoke all on function private.get_moderation_rules() from public, anon, authenticated, service_role;
grant execute on function private.get_moderation_rules() to service_role;

create function public.get_moderation_rules()
returns jsonb
language sql
stable
security invoker
set search_path = ''
return private.get_moderation_rules();
comment on function public.get_moderation_rules() is
'For the service alone: {revision, rules} with all enabled rules, to judge sensitive texts that the database may not see.';
revoke all on function public.get_moderation_rules() from public, anon, authenticated, service_role;
grant execute on function public.get_moderation_rules() to service_role;
