-- Purpose:   sensitive messages: envelopes that only the service can open, and the signatures by which SQL knows them.
-- Consumers: send_message (p_envelope), every shape with a message in it, the rotation of keys.
-- Locks:     none on existing tables. At run time only rows it inserts.
-- Undo:      drop function private.envelope_json(uuid);
--            drop function private.keep_envelope(uuid, uuid, uuid, private.sealed);
--            drop function private.sealed_digests(uuid, private.sealed); drop function private.sealed_digest(uuid, integer, text);
--            drop function private.sealed_for(private.sealed, boolean);
--            drop function private.verify_envelope(uuid, jsonb, uuid, uuid, uuid, uuid);
--            drop type private.sealed; drop function private.register_envelope_key(integer, bytea);
--            drop table private.envelopes; drop table private.envelope_keys;
--
-- The service judges and encrypts the text, because the database must never hold it; this is the one thing about which SQL
-- believes somebody else, and it believes only what is signed with a key of private.envelope_keys. Whoever reads that
-- key out of a backup can open nothing: all that encrypts is derived separately and never comes here.
-- The extension stays when this is undone: others may use it.
set lock_timeout = '4s';

create extension if not exists pgcrypto with schema extensions;

create table private.envelope_keys (
    version integer not null,
    signing_key bytea not null,
    created_at timestamptz not null default now(),
    retired_at timestamptz,
    constraint envelope_keys_pkey primary key (version),
    constraint envelope_keys_version_check check (version > 0),
    constraint envelope_keys_signing_key_check check (octet_length(signing_key) = 32)
);
revoke all on table private.envelope_keys from public, anon, authenticated, service_role;
comment on table private.envelope_keys is
'Versions of MESSAGE_KEYS whose envelopes are believed; written with what `python -m app keys sql` prints.';
comment on column private.envelope_keys.version is 'The version in MESSAGE_KEYS.';
comment on column private.envelope_keys.signing_key is 'HMAC-SHA256 key of signatures. It opens no envelope.';
comment on column private.envelope_keys.created_at is 'When it was registered.';
comment on column private.envelope_keys.retired_at is
'From then on new envelopes of this version are refused; set by an administrator after a rotation. What is stored stays.';

create table private.envelopes (
    message_id uuid not null,
    key_version integer not null,
    wrapped_key bytea not null,
    nonce bytea not null,
    ciphertext bytea not null,
    sender_id uuid not null,
    client_message_id uuid not null,
    target text not null,
    constraint envelopes_pkey primary key (message_id),
    constraint envelopes_key_version_fkey
    foreign key (key_version) references private.envelope_keys (version) on delete restrict,
    constraint envelopes_nonce_check check (octet_length(nonce) = 12),
    -- A tag of 16 bytes, and blocks of 64 of padded text.
    constraint envelopes_ciphertext_check check (octet_length(ciphertext) % 64 = 16)
);
revoke all on table private.envelopes from public, anon, authenticated, service_role;
-- The foreign key, and what a rotation has left to do.
create index envelopes_key_version_message_id_idx on private.envelopes (key_version, message_id);
comment on table private.envelopes is
'The sealed text of sensitive messages, its masked form included. Opened by the service alone (app/vault.py).';
comment on column private.envelopes.message_id is 'public.messages.id, or that of a held message; no foreign key.';
comment on column private.envelopes.key_version is 'The master key that wraps the data key.';
comment on column private.envelopes.wrapped_key is 'The message''s own data key, wrapped; all that a rotation changes.';
comment on column private.envelopes.nonce is 'Of AES-256-GCM.';
comment on column private.envelopes.ciphertext is 'AES-256-GCM of {body, masked}, padded.';
comment on column private.envelopes.sender_id is 'The author; associated data.';
comment on column private.envelopes.client_message_id is 'The author''s idempotency key; associated data.';
comment on column private.envelopes.target is 'The target as the request named it; associated data.';

create function private.register_envelope_key(p_version integer, p_signing_key bytea)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    insert into private.envelope_keys (version, signing_key) values (p_version, p_signing_key) on conflict (version) do nothing;
    if not exists (select 1 from private.envelope_keys as k where k.version = p_version and k.signing_key = p_signing_key) then
        raise unique_violation using
            message = format('version %s is registered with another key', p_version),
            hint = 'A version is never used twice: give the new key the next number.';
    end if;
end;
$$;
comment on function private.register_envelope_key(integer, bytea) is
'Makes envelopes of this key version believed; for administrators, who get the call from `python -m app keys sql`. Again '
'it changes nothing.';
revoke all on function private.register_envelope_key(integer, bytea) from public, anon, authenticated, service_role;

create type private.sealed as (
    action text,
    label text,
    explanation text,
    rules jsonb,
    is_masked boolean,
    if_contact_allowed jsonb,
    text_digest bigint,
    has_link boolean,
    digests jsonb,
    key_version integer,
    wrapped_key bytea,
    nonce bytea,
    ciphertext bytea,
    target text,
    rules_revision bigint
);
comment on type private.sealed is
'What a verified envelope says: the service''s judgement of the text where contact details are not allowed (action, label, '
'explanation, rules, is_masked: there is a masked form) and where they are (if_contact_allowed; see private.sealed_for), what '
'private.judge_behaviour needs (text_digest, has_link), HMACs of the text by key version (digests), and the sealed text; '
'ciphertext is null when both judgements reject.';

create function private.verify_envelope(
    p_me uuid, p_envelope jsonb, p_client_message_id uuid, p_conversation_id uuid, p_to_user_id uuid, p_gig_id uuid
)
returns private.sealed
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_signed constant text := p_envelope ->> 'signed';
    v_signature constant text := p_envelope ->> 'signature';
    v_target constant text := format(
        '%s %s %s', coalesce(p_conversation_id::text, '-'), coalesce(p_to_user_id::text, '-'), coalesce(p_gig_id::text, '-')
    );
    v_key bytea;
    v_said jsonb;
    v_age_s numeric;
    v_sealed private.sealed;
begin
    select k.signing_key into v_key
    from private.envelope_keys as k
    where k.version::text = p_envelope ->> 'keyVersion' and k.retired_at is null;
    if
        v_key is null or v_signed is null or v_signature is null
        -- 8,000 characters sealed are 45 kB; hashing more would be work for nothing.
        or octet_length(v_signed) > 131072
        -- Digests of both are compared, so that the time it takes says nothing about the right signature.
        or sha256(convert_to(v_signature, 'UTF8')) <> sha256(
            convert_to(encode(extensions.hmac(convert_to(v_signed, 'UTF8'), v_key, 'sha256'), 'hex'), 'UTF8')
        )
    then
        raise sqlstate 'PT403' using
            message = 'envelope_invalid', detail = 'It is not signed, or not with a key in use.';
    end if;

    -- From here on the service speaks; what it says must be about this very call.
    v_said := v_signed::jsonb;
    if
        p_me::text is distinct from v_said ->> 'sender'
        or p_client_message_id::text is distinct from v_said ->> 'clientMessageId'
        or v_target is distinct from v_said ->> 'target'
    then
        raise sqlstate 'PT403' using
            message = 'envelope_invalid', detail = 'It was made for another sender, key or target.';
    end if;
    v_age_s := extract(epoch from clock_timestamp()) - (v_said ->> 'issuedAt')::numeric;
    if v_age_s is null or v_age_s not between -60 and 300 then
        raise sqlstate 'PT403' using
            message = 'envelope_invalid', detail = 'It is too old, or from the future.';
    end if;
    if (v_said ->> 'rulesRevision')::bigint < private.moderation_revision() then
        raise sqlstate 'PT409' using
            message = 'conflict', detail = 'The text was judged by rules that have changed meanwhile.';
    end if;

    v_sealed.action := v_said #>> '{verdict,action}';
    v_sealed.label := v_said #>> '{verdict,label}';
    v_sealed.explanation := v_said #>> '{verdict,explanation}';
    v_sealed.rules := v_said #> '{verdict,rules}';
    v_sealed.is_masked := (v_said #>> '{verdict,isMasked}')::boolean;
    v_sealed.if_contact_allowed := v_said -> 'verdictIfContactAllowed';
    v_sealed.text_digest := (v_said ->> 'textDigest')::bigint;
    v_sealed.has_link := (v_said ->> 'hasLink')::boolean;
    v_sealed.digests := v_said -> 'digests';
    v_sealed.key_version := (v_said ->> 'keyVersion')::integer;
    v_sealed.wrapped_key := decode(v_said ->> 'wrappedKey', 'base64');
    v_sealed.nonce := decode(v_said ->> 'nonce', 'base64');
    v_sealed.ciphertext := decode(v_said ->> 'ciphertext', 'base64');
    v_sealed.target := v_target;
    v_sealed.rules_revision := (v_said ->> 'rulesRevision')::bigint;
    return v_sealed;
end;
$$;
comment on function private.verify_envelope(uuid, jsonb, uuid, uuid, uuid, uuid) is
'The content of an envelope ({signed, signature, keyVersion}) that the service made for this caller, key and target within the last five '
'minutes. Raises PT403 envelope_invalid for anything else, PT409 conflict when the rules have changed since it was judged.';
revoke all on function private.verify_envelope(uuid, jsonb, uuid, uuid, uuid, uuid) from public, anon, authenticated, service_role;

create function private.sealed_for(p_sealed private.sealed, p_contact_allowed boolean)
returns private.sealed
language plpgsql
immutable
set search_path = ''
as $$
begin
    if p_contact_allowed then
        p_sealed.action := p_sealed.if_contact_allowed ->> 'action';
        p_sealed.label := p_sealed.if_contact_allowed ->> 'label';
        p_sealed.explanation := p_sealed.if_contact_allowed ->> 'explanation';
        p_sealed.rules := p_sealed.if_contact_allowed -> 'rules';
        p_sealed.is_masked := (p_sealed.if_contact_allowed ->> 'isMasked')::boolean;
    end if;
    return p_sealed;
end;
$$;
comment on function private.sealed_for(private.sealed, boolean) is
'The same, judged for a conversation in which contact details are or are not allowed; called once that is known, under its lock.';
revoke all on function private.sealed_for(private.sealed, boolean) from public, anon, authenticated, service_role;

create function private.sealed_digest(p_conversation_id uuid, p_key_version integer, p_digest text)
returns bytea
language plpgsql
immutable
strict
set search_path = ''
as $$
begin
    return sha256(convert_to(format('%s sealed %s %s', p_conversation_id, p_key_version, p_digest), 'UTF8'));
end;
$$;
comment on function private.sealed_digest(uuid, integer, text) is
'private.send_keys.request_digest of a sensitive message: never equal to that of another kind of message.';
revoke all on function private.sealed_digest(uuid, integer, text) from public, anon, authenticated, service_role;

create function private.sealed_digests(p_conversation_id uuid, p_sealed private.sealed)
returns bytea[]
language plpgsql
immutable
set search_path = ''
as $$
begin
    return array(
        select private.sealed_digest(p_conversation_id, d.version::integer, d.hmac)
        from jsonb_each_text(p_sealed.digests) as d (version, hmac)
        order by d.version::integer <> p_sealed.key_version, d.version::integer
    );
end;
$$;
comment on function private.sealed_digests(uuid, private.sealed) is
'The request digests of a send to this conversation, one for each key the service knows; the first is stored. A known key whose digest is '
'any of them is the same request, so a retry stays one when the keys were rotated in between.';
revoke all on function private.sealed_digests(uuid, private.sealed) from public, anon, authenticated, service_role;

create function private.keep_envelope(p_message_id uuid, p_me uuid, p_client_message_id uuid, p_sealed private.sealed)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
    insert into private.envelopes (
        message_id, key_version, wrapped_key, nonce, ciphertext, sender_id, client_message_id, target
    ) values (
        p_message_id, p_sealed.key_version, p_sealed.wrapped_key, p_sealed.nonce, p_sealed.ciphertext, p_me,
        p_client_message_id, p_sealed.target
    );
end;
$$;
comment on function private.keep_envelope(uuid, uuid, uuid, private.sealed) is
'Stores the sealed text of a message under its id; a held message keeps that id when it is released, so its envelope stays where it is.';
revoke all on function private.keep_envelope(uuid, uuid, uuid, private.sealed) from public, anon, authenticated, service_role;

create function private.envelope_json(p_message_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return (
        select
            jsonb_build_object(
                'keyVersion', e.key_version,
                'wrappedKey', translate(encode(e.wrapped_key, 'base64'), E'\n', ''),
                'nonce', encode(e.nonce, 'base64'),
                'ciphertext', translate(encode(e.ciphertext, 'base64'), E'\n', ''),
                'sender', e.sender_id,
                'clientMessageId', e.client_message_id,
                'target', e.target
            )
        from private.envelopes as e
        where e.message_id = p_message_id
    );
end;
$$;
comment on function private.envelope_json(uuid) is
'What the service needs to open a sensitive message; null without one. Stands as `envelope` beside `body` in what members are '
'answered, never in events.';
revoke all on function private.envelope_json(uuid) from public, anon, authenticated, service_role;
