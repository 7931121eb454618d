-- Purpose:   what names and titles are compared by in searches: case, accents and width folded, in any script.
-- Consumers: profiles.search_name, conversations.search_title, list_inbox.
-- Locks:     none.
-- Undo:      drop function private.fold_text(text);
set lock_timeout = '4s';

create function private.fold_text(p_text text)
returns text
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
begin
    -- Compatibility forms first (full width, ligatures), then the accents of Latin, Greek, Cyrillic, Hebrew and Arabic go,
    -- then letters that Unicode does not take apart. ICU lowers all scripts whatever the database's own locale is.
    return replace(replace(replace(replace(translate(
        lower(regexp_replace(
            normalize(left(p_text, 200), nfkd),
            '[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670]', '', 'g'
        ) collate "und-x-icu"),
        'øłđðħıŧς', 'olddhitσ'
    ), 'æ', 'ae'), 'œ', 'oe'), 'ß', 'ss'), 'þ', 'th');
end;
$$;
comment on function private.fold_text(text) is
'Folds case, accents and compatibility forms of at most 200 code points, so that Sørensen, SORENSEN and sorensen are one. Null stays null.';
revoke all on function private.fold_text(text) from public, anon, authenticated, service_role;
