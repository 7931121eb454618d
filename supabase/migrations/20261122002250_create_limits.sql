-- Purpose:   what a person may still do now: every limit of one's own that answers rate_limited, and what is left of it. (How many
--            strangers may begin to write to one person is that person's limit, and nobody else's business.)
-- Consumers: GET /api/messages/limits; direct callers of the same RPC.
-- Locks:     none.
-- Undo:      drop function public.get_limits(); drop function private.get_limits();
set lock_timeout = '4s';

create function private.get_limits()
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_me constant uuid := private.require_caller();
    v_settings private.settings;
begin
    select s.* into v_settings from private.settings as s;
    return jsonb_build_object('limits', (
        select jsonb_agg(
            jsonb_build_object('name', l.name)
            || private.pace_json(coalesce(p.happened_at, '{}'), l.count_max, l.window_s, clock_timestamp())
            order by l.ordinal
        )
        from (
            values
            (1, 'send', v_settings.send_count_max, v_settings.send_window_s),
            (2, 'new_conversation', v_settings.new_conversation_count_max, v_settings.new_conversation_window_s),
            (3, 'edit', v_settings.edit_count_max, v_settings.edit_pace_window_s),
            (4, 'report', v_settings.report_count_max, v_settings.report_window_s),
            (5, 'profile', v_settings.edit_count_max, v_settings.edit_pace_window_s),
            (6, 'refused', v_settings.send_count_max, v_settings.send_window_s)
        ) as l (ordinal, name, count_max, window_s)
        left join private.paces as p on l.name = p.kind and p.user_id = v_me
    ));
end;
$$;
comment on function private.get_limits() is
'Definer, because paces and settings are private; reads for auth.uid() only. See public.get_limits.';
revoke all on function private.get_limits() from public, anon, authenticated, service_role;
grant execute on function private.get_limits() to authenticated;

create function public.get_limits()
returns jsonb
language sql
stable
security invoker
set search_path = ''
return private.get_limits();
comment on function public.get_limits() is
'The caller''s limits now, {limits: [{name, limit, remaining, windowS, resetS}]}: sends, conversations started, edits, reports, '
'changes of one''s profile, and texts refused by moderation. Raises PT401 unauthenticated.';
revoke all on function public.get_limits() from public, anon, authenticated, service_role;
grant execute on function public.get_limits() to authenticated;
