-- Purpose:   shows what a rule would have caught in past messages, before it is enabled.
-- Consumers: administrators, with SQL.
-- Locks:     none; reads messages newest first, at most p_limit of them.
-- Undo:      drop function private.replay_rule(text, timestamptz, integer);
set lock_timeout = '4s';

create function private.replay_rule(p_name text, p_since timestamptz default '-infinity', p_limit integer default 1000)
returns table (
    message_id uuid, conversation_id uuid, from_user_id uuid, created_at timestamptz, body text, masked_body text,
    looked_at_count bigint, caught_count bigint
)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    c_batch constant integer := 1000;
    v_rule private.moderation_rules;
    v_at timestamptz := 'infinity';
    v_id uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
    v_looked_at bigint := 0;
    v_caught bigint := 0;
    v_in_batch integer;
    v private.judgement;
    r record;
begin
    select t.* into v_rule from private.moderation_rules as t where t.name = p_name;
    if not found then
        raise no_data_found using message = format('there is no moderation rule %L', p_name);
    end if;
    if v_rule.kind not in ('term', 'pattern', 'link', 'contact') then
        raise invalid_parameter_value using
            message = format('moderation rule %L looks at conduct, which past messages alone do not tell', p_name);
    end if;
    loop
        v_in_batch := 0;
        for r in
            select
                m.id,
                m.conversation_id,
                m.from_user_id,
                m.created_at,
                coalesce((select o.body from private.originals as o where o.message_id = m.id), m.body) as body
            from public.messages as m
            where (m.created_at, m.id) < (v_at, v_id) and m.created_at >= p_since
            order by m.created_at desc, m.id desc
            limit least(c_batch, p_limit - v_looked_at)
        loop
            v_in_batch := v_in_batch + 1;
            v_looked_at := v_looked_at + 1;
            v_at := r.created_at;
            v_id := r.id;
            continue when r.body is null;
            v := private.judge_with(r.body, private.moderation_fold(r.body), false, v_rule.id);
            if v.action <> 'allow' then
                v_caught := v_caught + 1;
                message_id := r.id;
                conversation_id := r.conversation_id;
                from_user_id := r.from_user_id;
                created_at := r.created_at;
                body := r.body;
                masked_body := v.masked_body;
                return next;
            end if;
        end loop;
        exit when v_in_batch = 0 or v_looked_at >= p_limit;
    end loop;
    -- The last row tells the totals.
    message_id := null;
    conversation_id := null;
    from_user_id := null;
    created_at := null;
    body := null;
    masked_body := null;
    looked_at_count := v_looked_at;
    caught_count := v_caught;
    return next;
end;
$$;
comment on function private.replay_rule(text, timestamptz, integer) is
'What this rule, enabled or not, would have caught among the newest p_limit messages since p_since, newest first; the last row has the '
'totals in looked_at_count and caught_count. Masked messages are judged by their original text; contact as if it were not allowed. '
'Nothing is changed. To try a rule: insert it with is_enabled = false, select * from private.replay_rule(''its name''), correct it with '
'update, then update it to is_enabled = true.';
revoke all on function private.replay_rule(text, timestamptz, integer) from public, anon, authenticated, service_role;
