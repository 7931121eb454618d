-- Demo data for development: five people who can sign in, gigs as a host application has them, two conversations.
-- Never part of a migration. Repeatable: fixed ids, and a repeated send is answered with the message it made before.
-- The picture of the first person is uploaded by the embedded stack (stack/demo.py), because SQL cannot write to Storage.

-- ----- people; the password of each is demo-password -----

insert into auth.users (
    instance_id, id, aud, role, email, encrypted_password, email_confirmed_at, confirmation_token, recovery_token,
    email_change, email_change_token_new, raw_app_meta_data, raw_user_meta_data, created_at, updated_at
)
select
    '00000000-0000-0000-0000-000000000000' as instance_id,
    d.id,
    'authenticated' as aud,
    'authenticated' as role,
    d.email,
    extensions.crypt('demo-password', extensions.gen_salt('bf', 6)) as encrypted_password,
    now() as email_confirmed_at,
    '' as confirmation_token,
    '' as recovery_token,
    '' as email_change,
    '' as email_change_token_new,
    '{"provider": "email", "providers": ["email"], "demo": true}' as raw_app_meta_data,
    jsonb_build_object('display_name', d.display_name) as raw_user_meta_data,
    now() as created_at,
    now() as updated_at
from (
    values
    ('00000000-0000-4000-8000-00000000000a'::uuid, 'ada@example.com', 'Ada Moreau'),
    ('00000000-0000-4000-8000-00000000000b'::uuid, 'ben@example.com', 'Ben Okafor'),
    ('00000000-0000-4000-8000-00000000000c'::uuid, 'chloe@example.com', 'Chloé 陈'),
    ('00000000-0000-4000-8000-00000000000d'::uuid, 'dora@example.com', 'Dora'),
    ('00000000-0000-4000-8000-00000000000e'::uuid, 'emil@example.com', 'Emil Sørensen')
) as d (id, email, display_name)
on conflict (id) do nothing;

insert into auth.identities (id, provider, provider_id, user_id, identity_data, created_at, updated_at)
select
    u.id,
    'email' as provider,
    u.id::text as provider_id,
    u.id as user_id,
    jsonb_build_object('sub', u.id::text, 'email', u.email, 'email_verified', true) as identity_data,
    now() as created_at,
    now() as updated_at
from auth.users as u
where u.raw_app_meta_data ->> 'demo' = 'true'
on conflict do nothing;

-- Dora signed up before the profiles existed, so to speak: she shows how a missing profile renders.
delete from public.profiles as p
where p.user_id = '00000000-0000-4000-8000-00000000000d';

-- ----- where pictures are kept; the same as [storage.buckets.avatars] of config.toml -----

insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
values ('avatars', 'avatars', true, 1048576, array['image/png', 'image/jpeg', 'image/webp'])
on conflict (id) do nothing;

-- ----- the host application's own table, as an example -----

create table if not exists public.gigs (
    id uuid primary key default gen_random_uuid(),
    owner_id uuid not null,
    title text not null,
    price_cents integer not null check (price_cents >= 0),
    created_at timestamptz not null default now()
);
comment on table public.gigs is 'Demo of a host application''s table. Messaging refers to it by id and reads nothing from it.';
revoke all on table public.gigs from public, anon, authenticated, service_role;
grant select on table public.gigs to authenticated, service_role;
alter table public.gigs enable row level security;
drop policy if exists gigs_select_authenticated on public.gigs;
create policy gigs_select_authenticated on public.gigs for select to authenticated using (true);
create index if not exists gigs_owner_id_idx on public.gigs (owner_id);

insert into public.gigs (id, owner_id, title, price_cents)
values
('00000000-0000-4000-8000-0000000000f1', '00000000-0000-4000-8000-00000000000b', 'String quartet for a wedding, two hours', 90000),
('00000000-0000-4000-8000-0000000000f2', '00000000-0000-4000-8000-00000000000c', 'Portrait photography, half a day', 45000),
('00000000-0000-4000-8000-0000000000f3', '00000000-0000-4000-8000-00000000000e', 'Repair of a vintage guitar amplifier', 12000)
on conflict (id) do nothing;

-- ----- conversations, written as the people themselves through the function that everybody uses -----

do $$
declare
    v_ada constant uuid := '00000000-0000-4000-8000-00000000000a';
    v_ben constant uuid := '00000000-0000-4000-8000-00000000000b';
    v_chloe constant uuid := '00000000-0000-4000-8000-00000000000c';
    v_dora constant uuid := '00000000-0000-4000-8000-00000000000d';
    v_quartet constant uuid := '00000000-0000-4000-8000-0000000000f1';
    v_line record;
    v_sent jsonb;
begin
    for v_line in
        select l.*
        from (
            values
            (1, v_ada, v_ben, v_quartet, 'Hello Ben! Are you free on 12 June? The ceremony starts at three.'),
            (2, v_ben, v_ada, v_quartet, 'Congratulations! Yes, the 12th works. How many guests, and is it outdoors?'),
            (3, v_ada, v_ben, v_quartet, E'About eighty. Outdoors if the weather allows.\nIs there a plan B for rain?'),
            (4, v_ben, v_ada, v_quartet, 'A marquee of four by four metres is enough for us.'),
            (5, v_ben, v_ada, v_quartet, 'I can hold the date until Friday 🎻'),
            (6, v_dora, v_ada, null, 'Hi Ada, do you still have the contact of the florist?'),
            (7, v_ada, v_chloe, null, 'Hi Chloé, the pictures turned out wonderfully. Thank you!')
        ) as l (number, from_id, to_id, gig_id, body)
        order by l.number
    loop
        perform set_config('request.jwt.claims', jsonb_build_object('sub', v_line.from_id, 'role', 'authenticated')::text, true);
        perform set_config('role', 'authenticated', true);
        v_sent := public.send_message(
            p_body => v_line.body,
            p_to_user_id => v_line.to_id,
            p_gig_id => v_line.gig_id,
            p_client_message_id => ('00000000-0000-4000-8000-00000000010' || v_line.number)::uuid
        );
        -- Reading up to the second line of the quartet leaves two unread for Ada; Ben has read everything.
        if v_line.number in (2, 3) then
            perform set_config(
                'request.jwt.claims', jsonb_build_object('sub', v_line.to_id, 'role', 'authenticated')::text, true
            );
            perform public.mark_read((v_sent -> 'message' ->> 'id')::uuid);
        end if;
        perform set_config('role', 'postgres', true);
    end loop;
    perform set_config('request.jwt.claims', '', true);
end
$$;
