-- Purpose:   who calls, whether they may act, and how a refusal that must leave a trace is answered.
-- Consumers: every function that the API calls.
-- Locks:     none on existing tables.
-- Undo:      drop function private.refuse(integer, text, text, text); drop function private.require_writer(private.settings);
--            drop function private.require_account(); drop function private.require_caller();
set lock_timeout = '4s';

create function private.require_caller()
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
    v_me uuid := auth.uid();
begin
    if v_me is null then
        raise sqlstate 'PT401' using message = 'unauthenticated', detail = 'A signed-in person is needed.';
    end if;
    -- A token outlives the account it was made for by up to its own lifetime.
    if not private.has_account() then
        raise sqlstate 'PT403' using message = 'account_unavailable', detail = 'This account is gone.';
    end if;
    return v_me;
end;
$$;
comment on function private.require_caller() is
'The caller''s id from the verified token. Raises PT401 unauthenticated without one, PT403 account_unavailable when the account is gone. '
'For what only reads.';
revoke all on function private.require_caller() from public, anon, authenticated, service_role;

create function private.require_account()
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
    v_me constant uuid := auth.uid();
begin
    if v_me is null then
        raise sqlstate 'PT401' using message = 'unauthenticated', detail = 'A signed-in person is needed.';
    end if;
    if not private.account_is_active(v_me) then
        raise sqlstate 'PT403' using message = 'account_unavailable', detail = 'This account may not do this.';
    end if;
    return v_me;
end;
$$;
comment on function private.require_account() is
'The caller''s id, for what changes anything. Raises PT401 unauthenticated, PT403 account_unavailable when the account is gone, banned '
'or suspended.';
revoke all on function private.require_account() from public, anon, authenticated, service_role;

create function private.require_writer(p_settings private.settings)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
    v_me constant uuid := auth.uid();
    v_account record;
begin
    if v_me is null then
        raise sqlstate 'PT401' using message = 'unauthenticated', detail = 'A signed-in person is needed.';
    end if;
    -- As account_is_active, and all the rest there is to ask, in one look: every send comes by here.
    select u.is_anonymous, s.is_suspended, s.muted_until into v_account
    from auth.users as u
    cross join lateral (
        select
            coalesce(bool_or(t.kind = 'suspend'), false) as is_suspended,
            max(coalesce(t.ends_at, 'infinity')) as muted_until
        from private.sanctions as t
        where t.user_id = u.id and t.lifted_at is null and (t.ends_at is null or t.ends_at > clock_timestamp())
    ) as s
    where u.id = v_me and u.deleted_at is null and (u.banned_until is null or u.banned_until < now());
    if not found or v_account.is_suspended or (v_account.is_anonymous and not p_settings.anonymous_may_send) then
        raise sqlstate 'PT403' using
            message = 'account_unavailable', detail = 'This account may not write.';
    end if;
    if v_account.muted_until is not null then
        raise sqlstate 'PT403' using
            message = 'account_muted',
            detail = case v_account.muted_until
                when 'infinity' then 'This account may not write for now.'
                else format('This account may not write until %s.', private.iso_time(v_account.muted_until))
            end;
    end if;
    return v_me;
end;
$$;
comment on function private.require_writer(private.settings) is
'The caller''s id, for what puts words before others. Raises PT401 unauthenticated; PT403 account_unavailable unless the account exists, '
'is neither banned nor suspended, and is not anonymous (or the settings allow that); PT403 account_muted while a moderator has muted it.';
revoke all on function private.require_writer(private.settings) from public, anon, authenticated, service_role;

create function private.refuse(p_status integer, p_code text, p_detail text, p_hint text)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
begin
    -- PostgREST answers with this status and commits: what an exception would take back, the trace of the refusal, stays.
    perform set_config('response.status', p_status::text, true);
    return jsonb_build_object('code', 'PT' || p_status, 'message', p_code, 'details', p_detail, 'hint', p_hint);
end;
$$;
comment on function private.refuse(integer, text, text, text) is
'The answer of a refusal whose transaction must commit, in the members PostgREST gives a raised one: {code, message, details, hint}. '
'The caller returns it.';
revoke all on function private.refuse(integer, text, text, text) from public, anon, authenticated, service_role;
