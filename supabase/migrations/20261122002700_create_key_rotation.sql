-- Purpose:   rotation of the master keys of sensitive messages, while everything runs.
-- Consumers: `python -m app keys rotate`, with the secret key.
-- Locks:     none on existing tables. At run time: envelopes by message id, then the send keys of the same messages; a batch at a time.
-- Undo:      drop function public.rewrap_envelopes(jsonb); drop function private.rewrap_envelopes(jsonb);
--            drop function public.list_envelopes(integer, uuid, integer);
--            drop function private.list_envelopes(integer, uuid, integer);
set lock_timeout = '4s';

create function private.list_envelopes(p_below_version integer, p_after uuid, p_limit integer)
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
begin
    return jsonb_build_object('envelopes', coalesce((
        select
            jsonb_agg(
                jsonb_build_object('messageId', t.message_id, 'envelope', private.envelope_json(t.message_id))
                order by t.message_id
            )
        from (
            -- A few entries of the index for each older version, not all envelopes in order of their ids.
            select e.message_id
            from private.envelope_keys as k
            cross join lateral (
                select o.message_id
                from private.envelopes as o
                where
                    o.key_version = k.version
                    and o.message_id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
                order by o.message_id
                limit least(p_limit, 500)
            ) as e
            where k.version < p_below_version
            order by e.message_id
            limit least(p_limit, 500)
        ) as t
    ), '[]'::jsonb));
end;
$$;
comment on function private.list_envelopes(integer, uuid, integer) is
'Definer, because envelopes are private. See public.list_envelopes.';
revoke all on function private.list_envelopes(integer, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function private.list_envelopes(integer, uuid, integer) to service_role;

create function public.list_envelopes(
    p_below_version integer default null, p_after uuid default null, p_limit integer default 200
)
returns jsonb
language sql
stable
security invoker
set search_path = ''
return private.list_envelopes(p_below_version, p_after, p_limit);
comment on function public.list_envelopes(integer, uuid, integer) is
'For the rotation of keys: at most p_limit (500) envelopes of versions below p_below_version with ids after p_after, ascending: '
'{envelopes: [{messageId, envelope}]}. They are of no use without the master keys.';
revoke all on function public.list_envelopes(integer, uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.list_envelopes(integer, uuid, integer) to service_role;

create function private.rewrap_envelopes(p_envelopes jsonb)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_count integer;
begin
    -- In two steps, because a value of another type would be an error in the second.
    if
        jsonb_typeof(p_envelopes) is distinct from 'array'
        or exists (
            select 1
            from jsonb_array_elements(p_envelopes) as c (envelope)
            where
                coalesce(c.envelope ->> 'messageId', '') !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                or coalesce(c.envelope ->> 'fromVersion', '') !~ '^[0-9]{1,9}$'
                or coalesce(c.envelope ->> 'keyVersion', '') !~ '^[0-9]{1,9}$'
                or coalesce(c.envelope ->> 'wrappedKey', '') !~ '^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$'
        )
    then
        raise sqlstate 'PT400' using
            message = 'validation_failed',
            detail = 'An array of {messageId, fromVersion, keyVersion, wrappedKey, oldDigest, digest} is needed.',
            hint = '/p_envelopes';
    end if;
    if exists (
        select 1
        from jsonb_to_recordset(p_envelopes) as c ("keyVersion" integer)
        left join private.envelope_keys as k on c."keyVersion" = k.version and k.retired_at is null
        where k.version is null
    ) then
        raise sqlstate 'PT400' using
            message = 'validation_failed', detail = 'All keys must be registered and in use.', hint = '/p_envelopes';
    end if;
    -- One order for all, so that two rotations at once wait for each other instead of deadlocking.
    perform 1
    from private.envelopes as e
    inner join jsonb_to_recordset(p_envelopes) as c ("messageId" uuid) on e.message_id = c."messageId"
    order by e.message_id
    for no key update of e;
    with changed as (
        update private.envelopes as e
        set key_version = c."keyVersion", wrapped_key = decode(c."wrappedKey", 'base64')
        from jsonb_to_recordset(p_envelopes) as c (
            "messageId" uuid, "fromVersion" integer, "keyVersion" integer, "wrappedKey" text, "oldDigest" text, "digest" text
        )
        -- Only what still is as it was read.
        where e.message_id = c."messageId" and e.key_version = c."fromVersion"
        returning e.message_id, e.sender_id, e.client_message_id, e.key_version, c."fromVersion", c."oldDigest", c."digest"
    ), renewed as (
        -- A retry must be known after the old key is gone from the settings of the service.
        update private.send_keys as k
        set request_digest = private.sealed_digest(w.conversation_id, c.key_version, c."digest")
        from changed as c
        cross join lateral (
            select m.conversation_id from public.messages as m where m.id = c.message_id
            union all
            select p.conversation_id from private.pending_messages as p where p.message_id = c.message_id
        ) as w
        where
            k.from_user_id = c.sender_id and k.client_message_id = c.client_message_id
            and k.request_digest = private.sealed_digest(w.conversation_id, c."fromVersion", c."oldDigest")
    )
    select count(*) into v_count from changed;
    return jsonb_build_object('rewrapped', v_count);
end;
$$;
comment on function private.rewrap_envelopes(jsonb) is 'Definer, because envelopes are private. See public.rewrap_envelopes.';
revoke all on function private.rewrap_envelopes(jsonb) from public, anon, authenticated, service_role;
grant execute on function private.rewrap_envelopes(jsonb) to service_role;

create function public.rewrap_envelopes(p_envelopes jsonb default null)
returns jsonb
language sql
volatile
security invoker
set search_path = ''
return private.rewrap_envelopes(p_envelopes);
comment on function public.rewrap_envelopes(jsonb) is
'For the rotation of keys: [{messageId, fromVersion, keyVersion, wrappedKey, oldDigest, digest}] puts envelopes that still are under '
'fromVersion under keyVersion: {rewrapped}. Texts do not change; a retry of their sends stays one. Raises PT400 validation_failed.';
revoke all on function public.rewrap_envelopes(jsonb) from public, anon, authenticated, service_role;
grant execute on function public.rewrap_envelopes(jsonb) to service_role;
