-- Purpose:   the one definition of what text people may write: messages, names, titles.
-- Consumers: send_message and the sign-up trigger; app/text.py refuses early by the same rules, held equal by a test.
-- Locks:     none.
-- Undo:      drop function private.normalize_text(text);
set lock_timeout = '4s';

create function private.normalize_text(p_text text)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
declare
    v_text text := replace(replace(p_text, E'\r\n', E'\n'), E'\r', E'\n');
begin
    -- Controls except TAB and LF, DEL, and the bidirectional embeddings, overrides and isolates that can make text
    -- read as something else. Joiners and variation selectors stay: scripts and emoji need them.
    if v_text ~ '[\u0001-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]' then
        v_text := regexp_replace(
            v_text, '[\u0001-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]', '', 'g'
        );
    end if;
    if octet_length(v_text) > char_length(v_text) then
        v_text := normalize(v_text, nfc);
    end if;
    -- White space by an explicit list, so that no locale or Unicode version has a say.
    return btrim(
        v_text,
        E'\t\n \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a'
        || E'\u2028\u2029\u202f\u205f\u3000\ufeff'
    );
end;
$$;
comment on function private.normalize_text(text) is
'Line ends to LF, controls and bidirectional overrides removed, NFC, trimmed. Length is the caller''s business. Null stays null.';
revoke all on function private.normalize_text(text) from public, anon, authenticated, service_role;
