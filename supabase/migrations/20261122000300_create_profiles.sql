-- Purpose:   the name and picture that others see; created on sign-up, gone with the account.
-- Consumers: every shape with a person in it.
-- Locks:     share row exclusive on auth.users for the triggers (no sign-up or sign-in during that moment).
-- Undo:      drop function private.create_profile() cascade; drop function private.forget_profile() cascade;
--            drop function private.insert_profile(uuid, jsonb); drop function private.profile_json(uuid);
--            drop function private.profile_shape(uuid, public.profiles);
--            drop function private.has_account();
--            drop function private.active_among(uuid[]);
--            drop function private.account_is_active(uuid); drop table private.profile_settings;
--            drop table public.profiles;
--
-- The undo drops the triggers through their functions: auth.users is not ours, so drop trigger is refused.
set lock_timeout = '4s';

create table public.profiles (
    user_id uuid,
    display_name text,
    avatar_url text,
    locale text,
    search_name text generated always as (private.fold_text(display_name)) stored,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint profiles_pkey primary key (user_id),
    constraint profiles_display_name_check check (char_length(display_name) between 1 and 80),
    constraint profiles_avatar_url_check check (char_length(avatar_url) <= 2048 and avatar_url ~ '^https?://'),
    constraint profiles_locale_check check (char_length(locale) between 2 and 35)
);
revoke all on table public.profiles from public, anon, authenticated, service_role;
grant select on table public.profiles to authenticated, service_role;
alter table public.profiles enable row level security;

-- The planner's row estimates (Prefer: count=planned) are made from statistics of all rows, not only of readable ones:
-- without statistics they cannot tell a stranger which names there are.
alter table public.profiles
alter column display_name set statistics 0,
alter column search_name set statistics 0,
alter column avatar_url set statistics 0,
alter column locale set statistics 0;

comment on table public.profiles is
'What others see of a person. Written by the sign-up trigger and update_profile. No foreign key to auth.users: a missing row '
'renders as a fallback.';
comment on column public.profiles.user_id is 'auth.users.id.';
comment on column public.profiles.display_name is 'Normalised, 1 to 80 code points; null renders as the fallback name.';
comment on column public.profiles.avatar_url is 'An absolute http(s) URL, at most 2,048 characters.';
comment on column public.profiles.locale is 'BCP 47 language tag; for the host application''s own use.';
comment on column public.profiles.search_name is 'display_name folded for searches.';
comment on column public.profiles.created_at is 'When the row was made.';
comment on column public.profiles.updated_at is 'When a shown value changed last.';

create table private.profile_settings (
    user_id uuid not null,
    private_reading boolean not null default false,
    hides_last_seen boolean not null default false,
    constraint profile_settings_pkey primary key (user_id)
);
revoke all on table private.profile_settings from public, anon, authenticated, service_role;
comment on table private.profile_settings is
'What only its owner sees of a profile: whoever may read profiles must not see who hides something.';
comment on column private.profile_settings.user_id is 'auth.users.id.';
comment on column private.profile_settings.private_reading is 'Others are not told how far the person has read.';
comment on column private.profile_settings.hides_last_seen is
'Others are not told when the person was last here, nor the person about others.';

create function private.account_is_active(p_user_id uuid)
returns boolean
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return exists (
        select 1
        from auth.users as u
        where u.id = p_user_id and u.deleted_at is null and (u.banned_until is null or u.banned_until < now())
    ) and not exists (
        select 1
        from private.sanctions as s
        where
            s.user_id = p_user_id
            and s.kind = 'suspend'
            and s.lifted_at is null
            and (s.ends_at is null or s.ends_at > clock_timestamp())
    );
end;
$$;
comment on function private.account_is_active(uuid) is
'Definer, because only it may read Auth''s table. Whether the account exists, is neither deleted nor banned in Auth, nor suspended.';
revoke all on function private.account_is_active(uuid) from public, anon, authenticated, service_role;

create function private.active_among(p_user_ids uuid[])
returns uuid[]
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    return array(
        select u.id
        from auth.users as u
        where
            u.id = any(p_user_ids)
            and u.deleted_at is null
            and (u.banned_until is null or u.banned_until < now())
            and not exists (
                select 1
                from private.sanctions as s
                where
                    s.user_id = u.id
                    and s.kind = 'suspend'
                    and s.lifted_at is null
                    and (s.ends_at is null or s.ends_at > clock_timestamp())
            )
    );
end;
$$;
comment on function private.active_among(uuid[]) is
'Definer, because only it may read Auth''s table. Those of these people for whom account_is_active is true, for a page of them.';
revoke all on function private.active_among(uuid[]) from public, anon, authenticated, service_role;

create function private.has_account()
returns boolean
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
    -- Not in SQL, which would be planned anew in every statement that asks: ten times the cost.
    return exists (select 1 from auth.users as u where u.id = (select auth.uid()) and u.deleted_at is null);
end;
$$;
comment on function private.has_account() is
'Definer, because only it may read Auth''s table. Whether the caller''s account is still there: a token outlives it for a while.';
revoke all on function private.has_account() from public, anon, authenticated, service_role;
grant execute on function private.has_account() to authenticated;

create function private.profile_shape(p_user_id uuid, p_profile public.profiles)
returns json
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
    return json_build_object(
        'id', p_user_id,
        'displayName', coalesce(p_profile.display_name, 'Member'),
        'avatarUrl', p_profile.avatar_url,
        'isFallback', p_profile.display_name is null
    );
end;
$$;
comment on function private.profile_shape(uuid, public.profiles) is
'Shape Profile of a row that was looked up. A person without a profile row or name is shown as "Member" with isFallback true.';
revoke all on function private.profile_shape(uuid, public.profiles) from public, anon, authenticated, service_role;

create function private.profile_json(p_user_id uuid)
returns json
language plpgsql
stable
parallel safe
set search_path = ''
as $$
declare
    v_profile public.profiles;
begin
    select p.* into v_profile from public.profiles as p where p.user_id = p_user_id;
    return private.profile_shape(p_user_id, v_profile);
end;
$$;
comment on function private.profile_json(uuid) is 'Shape Profile of one person. The caller has checked access.';
revoke all on function private.profile_json(uuid) from public, anon, authenticated, service_role;

create function private.insert_profile(p_user_id uuid, p_metadata jsonb)
returns void
language sql
volatile
set search_path = ''
as $$
    -- Sign-up must never fail because of a name: whatever is not usable becomes null. The e-mail address is never a name.
    insert into public.profiles (user_id, display_name, avatar_url)
    select
        p_user_id,
        (
            select t.name
            from (
                select
                    k.ordinal,
                    -- Cut before as well as after: a name of megabytes is not worth normalising.
                    private.normalize_line(left(private.normalize_line(left(p_metadata ->> k.key, 200)), 80)) as name
                from unnest(array['display_name', 'full_name', 'name']) with ordinality as k (key, ordinal)
                where jsonb_typeof(p_metadata -> k.key) = 'string'
            ) as t
            where t.name <> ''
            order by t.ordinal
            limit 1
        ),
        (
            select u.url
            from (select coalesce(p_metadata ->> 'avatar_url', p_metadata ->> 'picture') as url) as u
            -- As update_profile takes it; an object of one's own in Storage cannot be there yet.
            where
                char_length(u.url) <= 2048
                and u.url ~ '^https://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[!-~]*)?$'
                and u.url !~ '/storage/v1/object/public/avatars/'
        )
    on conflict (user_id) do nothing;
$$;
comment on function private.insert_profile(uuid, jsonb) is
'Makes a profile from sign-up metadata; keeps an existing one.';
revoke all on function private.insert_profile(uuid, jsonb) from public, anon, authenticated, service_role;

create function private.create_profile()
returns trigger
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
    perform private.insert_profile(new.id, new.raw_user_meta_data);
    -- A name that moderation would refuse is left out, and whatever goes wrong with a name must not end the sign-up.
    begin
        update public.profiles as p
        set display_name = null
        where p.user_id = new.id and p.display_name is not null and not private.is_allowed_line(p.display_name);
    exception
        when others then
            raise warning 'messaging: a name was not checked: % (%)', sqlerrm, sqlstate;
    end;
    return null;
end;
$$;
comment on function private.create_profile() is 'Definer, because Auth''s role may not write our tables. Trigger on auth.users.';
revoke all on function private.create_profile() from public, anon, authenticated, service_role;

create function private.forget_profile()
returns trigger
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
    delete from public.profiles as p where p.user_id = old.id;
    delete from private.profile_settings as s where s.user_id = old.id;
    return null;
end;
$$;
comment on function private.forget_profile() is
'Definer, because Auth''s role may not write our tables. An ended account leaves no name or picture; its messages stay.';
revoke all on function private.forget_profile() from public, anon, authenticated, service_role;

create trigger profiles_create_after_insert
after insert on auth.users
for each row execute function private.create_profile();

create trigger profiles_forget_after_delete
after delete on auth.users
for each row execute function private.forget_profile();

-- Auth's soft delete keeps the row and sets deleted_at.
create trigger profiles_forget_after_update
after update of deleted_at on auth.users
for each row when (new.deleted_at is not null and old.deleted_at is null)
execute function private.forget_profile();
