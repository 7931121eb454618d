-- Purpose:   what a message may say, as rules in tables, and the verdict of the rules on a text and on somebody's conduct.
-- Consumers: send_message, edit_message, replays; get_moderation_rules for the service's own judging of sensitive texts.
-- Locks:     none on existing tables. At run time a changed rule locks the one row of private.moderation_state.
-- Undo:      drop function public.get_moderation_rules(); drop function private.get_moderation_rules();
--            drop function private.judge_behaviour(uuid, bigint[], bigint, uuid, boolean, boolean, timestamptz);
--            drop function private.recent_with(bigint[], bigint, uuid, timestamptz);
--            drop function private.text_digest(text); drop function private.has_link(text);
--            drop function private.judge_text(text, text, boolean); drop function private.judge_with(text, text, boolean, uuid);
--            drop function private.moderation_mask(text, integer[]);
--            drop function private.moderation_word_spans(text, private.moderation_rules, integer[], boolean[]);
--            drop function private.moderation_host_matches(private.moderation_rules, text[], boolean[]);
--            drop function private.moderation_contacts(text, text[]); drop function private.moderation_handles(text, boolean);
--            drop function private.moderation_spoken_numbers(text); drop function private.moderation_is_phone(text, text, text);
--            drop function private.moderation_hosts(text); drop function private.moderation_punycode(text);
--            drop function private.moderation_spans(text, text);
--            drop function private.moderation_scan(text, uuid);
--            drop function private.moderation_forms(text); drop function private.moderation_leet(text);
--            drop function private.moderation_collapse(text); drop function private.stronger(private.judgement, private.judgement);
--            drop function private.moderation_revision(); drop table private.moderation_lexicon; drop table private.moderation_words;
--            drop table private.moderation_terms; drop table private.moderation_rule_versions;
--            drop table private.moderation_rules; drop table private.moderation_state;
--            drop function private.compile_moderation(); drop function private.keep_moderation_rule();
--            drop function private.check_moderation_rule(); drop function private.check_moderation_pattern(text);
--            drop function private.moderation_fold(text); drop type private.judgement;
--
-- A text is judged in its folded form (private.moderation_fold): small letters, without accents and invisible characters,
-- look-alikes as Latin letters, digits of all scripts as ASCII, punctuation and symbols as ASCII or a space. Words of more
-- than one form are looked up in an index of terms; patterns and the shapes of contact details are regular expressions
-- without back references and look-around, which Postgres matches in time linear in the text.
-- app/moderation.py does the same for texts the database may not see; it takes letters and expressions from here.
set lock_timeout = '4s';

create type private.judgement as (action text, label text, explanation text, rules jsonb, masked_body text);
comment on type private.judgement is
'A verdict: allow, warn, mask, hold or reject; label and sentence of the strongest rule; all rules that caught something as '
'[{id, name, version, kind, action}]; and the text with masked spans, if any.';

create function private.moderation_fold(p_text text)
returns text
language plpgsql
stable
strict
parallel safe
set search_path = ''
set enable_bitmapscan = 'off'
as $$
declare
    v_folded text;
    v_long text[];
    v_letter text;
begin
    -- A small l between capitals is meant to be read as I.
    if p_text ~ '[A-Z]l[A-Z]' then
        return private.moderation_fold(regexp_replace(p_text, '([A-Z])l([A-Z])', '\1i\2', 'g'));
    end if;
    if octet_length(p_text) = char_length(p_text) then
        return replace(lower(p_text collate "C"), E'\t', ' ');
    end if;
    -- Each different letter is looked up once. What comes out is never folded further, so one replacement leaves the others alone.
    select
        replace(lower(translate(
            p_text,
            concat(
                string_agg(l.letter, '') filter (where char_length(l.fold) = 1), string_agg(l.letter, '') filter (where l.fold = '')
            ),
            concat(string_agg(l.fold, '') filter (where char_length(l.fold) = 1))
        ) collate "C"), E'\t', ' '),
        array_agg(l.letter || l.fold) filter (where char_length(l.fold) > 1)
    into v_folded, v_long
    from private.moderation_letters as l
    where l.letter = any(string_to_array(regexp_replace(p_text, '[\n -~]+', '', 'g'), null) collate "C");
    if v_long is not null then
        foreach v_letter in array v_long loop
            v_folded := replace(v_folded, left(v_letter, 1), substr(v_letter, 2));
        end loop;
    end if;
    return v_folded;
end;
$$;
comment on function private.moderation_fold(text) is
'The form of a normalised text that rules look at: see private.moderation_letters. Folding twice changes nothing. Null stays null.';
revoke all on function private.moderation_fold(text) from public, anon, authenticated, service_role;

create function private.check_moderation_pattern(p_pattern text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
    -- One piece of the subset that means the same in Postgres and RE2: group start, group end, alternative, anchor, repetition,
    -- class, escaped sign, any other character.
    c_piece constant text :=
        '[(][?]:|[()|^$]|[*+?]|[{][0-9]{1,3}(?:,[0-9]{0,3})?[}]|\[\^?[^][\\^]+\]|\\[].*+?(){}|^$\\/@#&!%:;,<>="''[~`_ -]|[^][\\(){}|^$*+?]';
    v_rest text := p_pattern;
    v_piece text;
    v_before text := 'start';
    v_sizes integer[] := array[0];
    v_size integer := 0;
    v_depth integer := 1;
    v_repeats integer;
    v_parts text[];
begin
    if char_length(p_pattern) not between 1 and 500 then
        return 'has 1 to 500 characters';
    end if;
    while v_rest <> '' loop
        v_piece := substring(v_rest from '^(?:' || c_piece || ')');
        if v_piece is null then
            return format('is not understood from %L on', left(v_rest, 20));
        end if;
        v_rest := substr(v_rest, char_length(v_piece) + 1);
        if v_piece in ('(', '(?:') then
            if v_depth >= 10 then
                return 'has groups more than ten deep';
            end if;
            v_sizes := v_sizes || 0;
            v_depth := v_depth + 1;
            v_before := 'start';
        elsif v_piece = ')' then
            if v_depth = 1 or v_before = 'start' then
                return 'has a ) without its (, or an empty group';
            end if;
            v_size := v_sizes[v_depth];
            v_depth := v_depth - 1;
            v_sizes := v_sizes[:v_depth];
            v_sizes[v_depth] := v_sizes[v_depth] + v_size;
            v_before := 'atom';
        elsif v_piece = '|' then
            if v_before = 'start' then
                return 'has an empty alternative';
            end if;
            v_before := 'start';
        elsif v_piece in ('^', '$') then
            v_before := 'anchor';
        elsif v_piece ~ '^(?:[*+?]|[{][0-9,]+[}])$' then
            if v_before <> 'atom' then
                return format('repeats nothing at %L', v_piece);
            end if;
            v_repeats := 2;
            if v_piece ~ '^[{]' then
                v_parts := string_to_array(btrim(v_piece, '{}'), ',');
                if
                    v_parts[1]::integer > 50 or nullif(v_parts[2], '')::integer > 50
                    or nullif(v_parts[2], '')::integer < v_parts[1]::integer
                    or coalesce(nullif(v_parts[2], ''), v_parts[1])::integer = 0
                then
                    return format('repeats more than 50 times or backwards at %L', v_piece);
                end if;
                v_repeats := greatest(v_parts[1]::integer, coalesce(nullif(v_parts[2], '')::integer, v_parts[1]::integer + 1));
            end if;
            -- A repetition copies what it repeats; nested ones multiply.
            v_sizes[v_depth] := v_sizes[v_depth] + v_size * (v_repeats - 1);
            if v_sizes[v_depth] > 300 then
                return 'is too large: repetitions of repetitions multiply, to at most 300 characters';
            end if;
            v_before := 'repetition';
        else
            if v_piece ~ '^\[' and (v_piece ~ '[^a-z0-9]-[^]]' or v_piece ~ '[^[^]-[^a-z0-9]\]?' and v_piece !~ '^[^-]*-\]$') then
                return format('has a range beyond a-z and 0-9 in %L', v_piece);
            end if;
            v_size := 1;
            v_sizes[v_depth] := v_sizes[v_depth] + 1;
            v_before := 'atom';
        end if;
    end loop;
    if v_depth > 1 then
        return 'has a ( without its )';
    end if;
    if v_before = 'start' then
        return 'has an empty alternative';
    end if;
    if v_sizes[1] > 300 then
        return 'is too large';
    end if;
    begin
        if '' ~ p_pattern then
            return 'matches the empty text';
        end if;
    exception when invalid_regular_expression then
        return 'is not a regular expression';
    end;
    return null;
end;
$$;
comment on function private.check_moderation_pattern(text) is
'What is wrong with a folded pattern, or null. Allowed: characters, ., [classes], (groups), |, ^, $, *, +, ?, {m,n} up to 50 and '
'escaped punctuation; at most 500 characters and, with repetitions written out, 300 places.';
revoke all on function private.check_moderation_pattern(text) from public, anon, authenticated, service_role;

create table private.moderation_rules (
    id uuid not null default private.uuid_v7(),
    name text not null,
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
    changed_at timestamptz not null default now(),
    constraint moderation_rules_pkey primary key (id),
    constraint moderation_rules_name_key unique (name)
);
revoke all on table private.moderation_rules from public, anon, authenticated, service_role;
comment on table private.moderation_rules is
'What messages may say and people may do. Change it with insert, update and delete; in force for the next message. A new rule can '
'be tried first: insert it with is_enabled = false and call private.replay_rule.';
comment on column private.moderation_rules.id is 'Stays the same over all versions.';
comment on column private.moderation_rules.name is 'What people who administer call it; small letters, digits and _.';
comment on column private.moderation_rules.version is 'Raised by every change; verdicts name it. See private.moderation_rule_versions.';
comment on column private.moderation_rules.kind is
'Looks at the text: term (terms), pattern (pattern), link (domains, settings.mode), contact (e-mail, phone, messengers). Looks at '
'conduct: repetition, flood (settings.conversations within settings.windowS), first_contact (settings.accountAgeS, onlyWithLink).';
comment on column private.moderation_rules.action is
'warn, mask, hold or reject, rising; the strongest rule that catches something decides. Conduct cannot be masked.';
comment on column private.moderation_rules.is_enabled is 'A disabled rule catches nothing, but can be replayed.';
comment on column private.moderation_rules.label is 'A short stable word shown with a content warning, such as abuse or scam.';
comment on column private.moderation_rules.explanation is 'One sentence that the author may read.';
comment on column private.moderation_rules.terms is
'Words and phrases in any script. Whole words match, however they are disguised; in scripts without spaces any place matches.';
comment on column private.moderation_rules.pattern is
'A regular expression over the folded text; the allowed subset is in the comment of private.check_moderation_pattern.';
comment on column private.moderation_rules.domains is 'Host names; each stands for itself and everything below it.';
comment on column private.moderation_rules.settings is
'Numbers of conduct rules, all required: conversations (2 to 32), windowS, accountAgeS. link: mode, deny or allowOnly. '
'first_contact: onlyWithLink.';
comment on column private.moderation_rules.created_at is 'When it was inserted.';
comment on column private.moderation_rules.changed_at is 'When this version came into force.';

create table private.moderation_rule_versions (
    rule_id uuid not null,
    version integer not null,
    definition jsonb not null,
    created_at timestamptz not null default now(),
    constraint moderation_rule_versions_pkey primary key (rule_id, version)
);
revoke all on table private.moderation_rule_versions from public, anon, authenticated, service_role;
comment on table private.moderation_rule_versions is 'Every version a rule has had. Outlives the rule, so that verdicts can be explained.';
comment on column private.moderation_rule_versions.rule_id is 'private.moderation_rules.id; no foreign key.';
comment on column private.moderation_rule_versions.version is 'As named by verdicts.';
comment on column private.moderation_rule_versions.definition is 'The whole row.';
comment on column private.moderation_rule_versions.created_at is 'When this version came into force.';

create table private.moderation_terms (
    rule_id uuid not null,
    term text collate "C" not null,
    first_word text collate "C" not null,
    collapsed text collate "C" not null,
    is_phrase boolean not null,
    is_anywhere boolean not null,
    is_enabled boolean not null,
    constraint moderation_terms_pkey primary key (rule_id, term)
);
create index moderation_terms_first_word_idx on private.moderation_terms (first_word);
create index moderation_terms_collapsed_idx on private.moderation_terms (collapsed);
create index moderation_terms_is_anywhere_idx on private.moderation_terms (rule_id) where is_anywhere;
revoke all on table private.moderation_terms from public, anon, authenticated, service_role;
comment on table private.moderation_terms is 'The folded terms of all rules, written by the trigger of private.moderation_rules alone.';
comment on column private.moderation_terms.rule_id is 'private.moderation_rules.id.';
comment on column private.moderation_terms.term is 'Folded; the words of a phrase with one space between them.';
comment on column private.moderation_terms.first_word is 'What is looked up.';
comment on column private.moderation_terms.collapsed is 'The term with every doubled letter single, for words with stretched letters.';
comment on column private.moderation_terms.is_phrase is 'Whether it has more than one word.';
comment on column private.moderation_terms.is_anywhere is 'Whether its script has no spaces, so that it may stand inside a run of letters.';
comment on column private.moderation_terms.is_enabled is 'As its rule.';

create table private.moderation_state (
    is_only_row boolean not null default true,
    revision bigint not null default 1,
    has_terms boolean not null default false,
    has_contact boolean not null default false,
    has_link boolean not null default false,
    conversations_min integer not null default 2,
    patterns text[] not null default '{}',
    anywhere text[] not null default '{}',
    suspects text[] not null default '{}',
    odd text not null default '',
    stretched text not null default '',
    messenger_anywhere text not null default '',
    cjk_number text not null default '',
    articles text not null default '',
    particles text not null default '',
    constraint moderation_state_pkey primary key (is_only_row),
    constraint moderation_state_is_only_row_check check (is_only_row)
);
revoke all on table private.moderation_state from public, anon, authenticated, service_role;
comment on table private.moderation_state is 'One row: what the judging of every message needs to know first.';
comment on column private.moderation_state.revision is 'Rises with every change of a rule.';
comment on column private.moderation_state.has_terms is 'Whether an enabled rule has terms.';
comment on column private.moderation_state.has_contact is 'Whether a rule of kind contact is enabled.';
comment on column private.moderation_state.has_link is 'Whether a rule of kind link is enabled.';
comment on column private.moderation_state.conversations_min is
'Below as many conversations no enabled rule of kind repetition or flood catches anything.';
comment on column private.moderation_state.patterns is
'The enabled patterns joined into few alternations: Postgres keeps only 32 compiled expressions for each connection.';
comment on column private.moderation_state.anywhere is 'The enabled terms in scripts without spaces, each as a pattern of LIKE.';
comment on column private.moderation_state.suspects is
'One of these expressions matches where a contact detail, a word with stars, or what a pattern or link rule asks about may be.';
comment on column private.moderation_state.odd is
'This and the next are expressions of private.moderation_lexicon, repeated here because every text is held against them.';
comment on column private.moderation_state.stretched is 'A word with two letters too many.';
comment on column private.moderation_state.messenger_anywhere is 'The name of a messenger in a script without spaces.';
comment on column private.moderation_state.cjk_number is 'A number in numerals of Chinese, Japanese or Korean.';
comment on column private.moderation_state.articles is 'What the words of Arabic begin with.';
comment on column private.moderation_state.particles is 'What the words of Korean end with.';
insert into private.moderation_state default values;

create function private.check_moderation_rule()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_wrong text;
    v_setting text;
    v_term text;
begin
    -- One administrator at a time: versions, terms and state are then those of one order of changes.
    perform 1 from private.moderation_state as s for update;
    v_wrong := case
        when new.name is null or new.name !~ '^[a-z][a-z0-9_]{0,62}$' then 'name: small letters, digits and _, at most 63'
        when new.kind is null or new.kind not in ('term', 'pattern', 'link', 'contact', 'repetition', 'flood', 'first_contact')
            then 'kind: term, pattern, link, contact, repetition, flood or first_contact'
        when new.action is null or new.action not in ('warn', 'mask', 'hold', 'reject') then 'action: warn, mask, hold or reject'
        when new.action = 'mask' and new.kind in ('repetition', 'flood', 'first_contact')
            then 'action: conduct cannot be masked; use warn, hold or reject'
        when new.label is null or new.label !~ '^[a-z][a-z0-9_]{0,39}$' then 'label: small letters, digits and _, at most 40'
        when coalesce(char_length(new.explanation), 0) not between 1 and 300 then 'explanation: 1 to 300 characters'
        when new.terms is null or (new.terms <> '{}') <> (new.kind = 'term') then 'terms: needed for kind term, empty for others'
        when cardinality(new.terms) > 5000 then 'terms: at most 5,000 in one rule'
        when (new.pattern is not null) <> (new.kind = 'pattern') then 'pattern: needed for kind pattern, null for others'
        when new.domains is null or (new.domains <> '{}' and new.kind <> 'link') then 'domains: only for kind link'
        when new.kind = 'link' and new.domains = '{}' and new.settings ->> 'mode' is distinct from 'allowOnly'
            then 'domains: needed unless settings.mode is allowOnly'
        when cardinality(new.domains) > 1000 then 'domains: at most 1,000 in one rule'
        when new.settings is null or jsonb_typeof(new.settings) <> 'object' then 'settings: an object'
        when exists (
            select 1
            from jsonb_object_keys(new.settings) as k (name)
            where
                k.name <> all(case new.kind
                    when 'link' then array['mode']
                    when 'repetition' then array['conversations', 'windowS']
                    when 'flood' then array['conversations', 'windowS']
                    when 'first_contact' then array['accountAgeS', 'onlyWithLink']
                    else '{}'::text[]
                end)
        ) then 'settings: a member that this kind does not have'
        when new.kind = 'link' and coalesce(new.settings ->> 'mode', '') not in ('deny', 'allowOnly')
            then 'settings: mode is deny or allowOnly'
        when new.settings ? 'onlyWithLink' and jsonb_typeof(new.settings -> 'onlyWithLink') <> 'boolean'
            then 'settings: onlyWithLink is true or false'
    end;
    if v_wrong is null then
        foreach v_setting in array case
            when new.kind in ('repetition', 'flood') then array['conversations', 'windowS']
            when new.kind = 'first_contact' then array['accountAgeS']
            else '{}'::text[]
        end loop
            if
                jsonb_typeof(new.settings -> v_setting) is distinct from 'number'
                or (new.settings ->> v_setting) !~ '^[0-9]{1,8}$'
                or (new.settings ->> v_setting)::integer < 1
                or (v_setting = 'conversations' and (new.settings ->> v_setting)::integer not between 2 and 32)
            then
                v_wrong := format('settings: %s is a whole number, %s', v_setting, case v_setting
                    when 'conversations' then '2 to 32' else 'of seconds' end);
            end if;
        end loop;
    end if;
    if v_wrong is null then
        foreach v_term in array new.terms loop
            if
                v_term is null or char_length(v_term) > 100
                or btrim(regexp_replace(private.moderation_fold(v_term), '[\n -/:-`{-~€£¥•¤]+', '', 'g')) = ''
            then
                v_wrong := format('terms: %L needs a letter or digit, and at most 100 characters', v_term);
            end if;
        end loop;
        foreach v_term in array new.domains loop
            if v_term is null or v_term !~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$' then
                v_wrong := format('domains: %L is not a host name in small letters (xn-- for others)', v_term);
            end if;
        end loop;
        if new.pattern is not null then
            v_wrong := 'pattern: ' || private.check_moderation_pattern(private.moderation_fold(private.normalize_text(new.pattern)));
        end if;
    end if;
    if v_wrong is not null then
        raise check_violation using
            message = format('moderation rule %L: %s', new.name, v_wrong),
            column = split_part(v_wrong, ':', 1), table = 'moderation_rules', schema = 'private';
    end if;
    if tg_op = 'UPDATE' then
        new.id := old.id;
        new.created_at := old.created_at;
        new.version := old.version;
        new.changed_at := old.changed_at;
        if new is distinct from old then
            new.version := old.version + 1;
            new.changed_at := clock_timestamp();
        end if;
    else
        -- A name that was deleted and comes back is a new rule with a new id.
        new.version := 1;
        new.created_at := clock_timestamp();
        new.changed_at := new.created_at;
    end if;
    return new;
end;
$$;
comment on function private.check_moderation_rule() is
'Refuses a rule that could not work (check_violation: the column and why) and counts its version.';
revoke all on function private.check_moderation_rule() from public, anon, authenticated, service_role;

create function private.keep_moderation_rule()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
    if tg_op <> 'INSERT' then
        delete from private.moderation_terms as t where t.rule_id = old.id;
    end if;
    if tg_op = 'DELETE' then
        return null;
    end if;
    insert into private.moderation_rule_versions (rule_id, version, definition, created_at)
    values (new.id, new.version, to_jsonb(new), new.changed_at)
    on conflict do nothing;
    -- Some letters look like another one only as capitals: Greek Eta is h, eta is n. A term is known in all three spellings.
    insert into private.moderation_terms (rule_id, term, first_word, collapsed, is_phrase, is_anywhere, is_enabled)
    select distinct on (w.term)
        new.id,
        w.term,
        split_part(w.term, ' ', 1),
        private.moderation_collapse(w.term),
        w.term like '% %',
        w.term ~ '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]',
        new.is_enabled
    from unnest(new.terms) as t (term)
    cross join lateral (
        select private.normalize_text(t.term) as term
        union
        select upper(private.normalize_text(t.term) collate "und-x-icu")
        union
        select initcap(private.normalize_text(t.term) collate "und-x-icu")
        union
        -- Long phrases also without their spaces; with an article that may be another word (the rapist).
        select replace(private.normalize_text(t.term), ' ', '')
        where char_length(t.term) >= 8 and t.term !~* '^ *(?:an?|the) '
    ) as v
    cross join lateral (
        select btrim(regexp_replace(
            private.moderation_fold(private.normalize_text(v.term collate "C")), '[\n -/:-`{-~€£¥•¤]+', ' ', 'g'
        )) as term
    ) as w
    where w.term <> '';
    return null;
end;
$$;
comment on function private.keep_moderation_rule() is 'Keeps the version and the folded terms of a changed rule.';
revoke all on function private.keep_moderation_rule() from public, anon, authenticated, service_role;

create function private.compile_moderation()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_pattern text;
    v_joined text := '';
    v_patterns text[] := '{}';
    v_has_link boolean;
    c jsonb;
begin
    -- Also who deletes rules waits for who changes others, or would not see their terms.
    perform 1 from private.moderation_state as s for update;
    for v_pattern in
        select '(?:' || private.moderation_fold(private.normalize_text(r.pattern)) || ')'
        from private.moderation_rules as r
        where r.is_enabled and r.kind = 'pattern'
        order by r.id
    loop
        if char_length(v_joined) + char_length(v_pattern) > 1000 then
            v_patterns := v_patterns || v_joined;
            v_joined := '';
        end if;
        v_joined := v_joined || case v_joined when '' then '' else '|' end || v_pattern;
    end loop;
    if v_joined <> '' then
        v_patterns := v_patterns || v_joined;
    end if;
    if cardinality(v_patterns) > 8 then
        raise check_violation using message = 'moderation rules: the enabled patterns together have at most about 8,000 characters';
    end if;
    v_has_link := exists (select 1 from private.moderation_rules as r where r.is_enabled and r.kind = 'link');
    delete from private.moderation_words as w
    where
        w.kind = 'term'
        and not exists (select 1 from private.moderation_terms as t where t.is_enabled and t.first_word = w.word);
    insert into private.moderation_words (word, kind)
    select
        t.first_word,
        'term'
    from private.moderation_terms as t
    where t.is_enabled
    on conflict do nothing;
    c := (select jsonb_object_agg(l.name, l.pattern) from private.moderation_lexicon as l);
    update private.moderation_state as s
    set
        revision = s.revision + 1,
        has_terms = exists (select 1 from private.moderation_terms as t where t.is_enabled),
        has_contact = exists (select 1 from private.moderation_rules as r where r.is_enabled and r.kind = 'contact'),
        has_link = v_has_link,
        conversations_min = coalesce((
            select min((r.settings ->> 'conversations')::integer)
            from private.moderation_rules as r
            where r.is_enabled and r.kind in ('repetition', 'flood')
        ), 2147483647),
        patterns = v_patterns,
        anywhere = array(
            select '%' || replace(t.term, ' ', '') || '%'
            from private.moderation_terms as t
            where t.is_enabled and t.is_anywhere
        ),
        suspects = (c ->> 'suspect') || v_patterns || case when v_has_link then array[c ->> 'hosts_hint'] else '{}' end,
        odd = c ->> 'odd',
        stretched = c ->> 'stretched',
        messenger_anywhere = c ->> 'messenger_anywhere',
        cjk_number = c ->> 'cjk_number',
        articles = c ->> 'articles',
        particles = c ->> 'particles';
    return null;
end;
$$;
comment on function private.compile_moderation() is 'Writes what judging needs to know first, after every statement that changes rules.';
revoke all on function private.compile_moderation() from public, anon, authenticated, service_role;

create trigger check_moderation_rule before insert or update on private.moderation_rules
for each row execute function private.check_moderation_rule();
create trigger keep_moderation_rule after insert or update or delete on private.moderation_rules
for each row execute function private.keep_moderation_rule();
create trigger compile_moderation after insert or update or delete on private.moderation_rules
for each statement execute function private.compile_moderation();

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

create function private.stronger(p_a private.judgement, p_b private.judgement)
returns private.judgement
language plpgsql
immutable
set search_path = ''
as $$
declare
    c_order constant text[] := array['allow', 'warn', 'mask', 'hold', 'reject'];
    v private.judgement := p_a;
begin
    if array_position(c_order, p_b.action) > array_position(c_order, p_a.action) then
        v := p_b;
    end if;
    v.rules := p_a.rules || p_b.rules;
    v.masked_body := coalesce(p_a.masked_body, p_b.masked_body);
    return v;
end;
$$;
comment on function private.stronger(private.judgement, private.judgement) is
'The stronger of two verdicts (the first of equals), with the rules of both and the masked text of either.';
revoke all on function private.stronger(private.judgement, private.judgement) from public, anon, authenticated, service_role;

create table private.moderation_words (
    word text collate "C" not null,
    kind text not null,
    constraint moderation_words_pkey primary key (word, kind)
);
revoke all on table private.moderation_words from public, anon, authenticated, service_role;
comment on table private.moderation_words is
'Words the engine itself knows, folded: they say which expressions are worth trying and what a number or name is.';
comment on column private.moderation_words.word is 'Folded.';
comment on column private.moderation_words.kind is
'messenger; provider (of e-mail); at; dot; digit; call (a telephone number follows); identifier (a number of something else follows); '
'between (may stand between these and the number); unit; plain (no name of a person); no_local (no name before an @); short (part of '
'a word in pieces); single (one letter); term (the first word of an enabled term, kept by the trigger of private.moderation_rules).';
-- Words that make a text worth a second look; the others are common, and looked up beside a number or name only.
create index moderation_words_hint_idx on private.moderation_words (word)
where kind in ('messenger', 'provider', 'at', 'dot', 'digit', 'short', 'term');

insert into private.moderation_words (word, kind)
select distinct
    private.moderation_fold(private.normalize_text(t.word)) as word,
    w.kind
from (
    values
    (
        'messenger',
        'telegram telegramm telgram telegam whatsapp whats whatsap watsap watsapp whatapp wapp wsp whatsup wasap guasap instagram '
        || 'insta twitter keybase wickr sc '
        || 'snapchat discord skype wechat weixin viber facebook kakaotalk kakao zalo icq threema kik gmail hotmail googlemail '
        || 'icloud protonmail tiktok tg тг ig wa fb wx vx qq line signal snap messenger zap vk вк imo tele телеграм телеграмм '
        || 'телега телеге телегу телеграме телеграмме вотсап ватсап вацап вотсапп ватсапп вайбер скайп инстаграм инстаграмм инста '
        || 'инсте инсту واتساب واتس تيليجرام تليجرام تلغرام تلجرام انستا انستقرام سناب फेसबुक व्हाट्सएप व्हाट्सऐप टेलीग्राम '
        || 'इंस्टाग्राम whatsapptan telegramdan instagramdan'
    ),
    (
        'provider',
        'gmail googlemail yahoo ymail hotmail outlook icloud proton protonmail gmx web aol live msn mail yandex zoho qq 163 '
        || '126 naver daum hanmail freenet online orange wanadoo laposte libero virgilio seznam wp onet interia o2 rediffmail '
        || 'fastmail tutanota bol uol gmailcom googlemailcom yahoocom hotmailcom outlookcom icloudcom protonmailcom mailru gmxde webde'
    ),
    (
        'dot',
        'dot d0t punkt punto ponto point kropka точка tochka punt nokta'
    ),
    (
        'at',
        'at arroba arobase chiocciola klammeraffe aet ät małpa собака sobaka kukac zavinac'
    ),
    (
        'digit',
        'zero oh one two three four five six seven eight nine double triple null eins zwei zwo drei vier fünf fuenf sechs '
        || 'sieben acht neun cero uno dos tres cuatro cinco seis siete ocho nueve un deux trois quatre cinq sept huit neuf due '
        || 'tre quattro cinque sei sette otto nove um dois quatro sete oito nul een twee drie vijf zes zeven negen ноль нуль один '
        || 'два три четыре пять шесть семь восемь девять शून्य एक दो तीन चार पांच पाँच छह सात आठ नौ sıfır sifir bir iki üç dört '
        || 'beş altı alti yedi sekiz dokuz jeden dwa trzy cztery pięć sześć siedem osiem dziewięć صفر واحد اثنان اثنين ثلاثة '
        || 'اربعة خمسة ستة سبعة ثمانية تسعة'
    ),
    (
        'call',
        'call calls phone phones fon tel telephone telefon telefone telefono teléfono téléphone mobil mobile movil móvil movel '
        || 'portable cell cellphone handy handynummer telefonnummer rufnummer whatsapp wapp wsp whatsap whats viber signal '
        || 'telegram zalo sms text ring reach contact kontakt nummer ruf rufe anruf anrufen llama llame llámame llamame llamar '
        || 'marca marcame appelle appelez appelle-moi joindre joignable chiama chiamami chiamare ligar liga ligue ligue-me '
        || 'zadzwoń zadzwon dzwoń dzwon numer numero número bel bellen ringa numaram telefonum arayın arayin ara goi gọi sđt sdt '
        || 'puh puhelin nomor hubungi hp namba позвони позвоните звони звоните тел телефон номер номеру набери наберите пиши '
        || 'пишите اتصل هاتف رقم رقمي جوال جوالي موبايل واتساب واتس फोन नंबर कॉल मोबाइल τηλ τηλεφωνο κινητο טלפון נייד dial dm '
        || 'msg message whatsapptan cep wasap guasap ph mob zavolej zavolejte volej contacto contato contatto تماس شماره'
    ),
    (
        'identifier',
        'order orders invoice inv gig job project ticket case ref reference id isbn issn ean upc gtin sku article artikel item '
        || 'part serial sn imei tracking parcel shipment sendung account acct konto customer client kunde tax vat ust iban bic '
        || 'booking reservation confirmation transaction txn payment receipt quote po bestellung bestellnummer rechnung '
        || 'rechnungsnummer auftrag auftragsnummer vorgang pedido factura commande facture ordine fattura zamówienie zamówienia '
        || 'faktura faktury sipariş siparis fatura version build model modell flight flug timestamp unix epoch port pin code '
        || 'token hash uuid doi orcid arxiv license licence lizenz policy patent rfc din iso page seite zip plz postcode '
        || 'coordinates koordinaten coords lat lon population views total sum budget price amount salary revenue byte bytes size '
        || 'ratio score pi passport contract permit student member membership employee matrikel matrikelnummer steuernummer '
        || 'kundennummer vertrag artikelnummer sendungsnummer seguimiento suivi tracciamento lot batch asin product release '
        || 'revision issue pr commit bug room barcode заказ заказа заказу счет счёт счета накладная накладной инн commit nip '
        || 'siret siren rechnungsnr auftragsnr bestellnr vat-id ustid kvk nif cif cpf cnpj pesel'
    ),
    (
        'between',
        'number numbers numer nummer numero número num no nr n id code key is was ist es est lautet of номер my the mein meine '
        || 'der die das le la el at on or me you this here a today now please under unter auf al en on au via and und y et पर पे'
    ),
    (
        'unit',
        'eur euro euros usd dollar dollars gbp chf pln zł zl rub руб рублей рубля kr sek nok dkk czk kč kc huf ft inr rs jpy '
        || 'yen cny rmb krw vnd đ dong idr try tl uah грн ron lei brl mxn cad aud km kg m m2 m3 cm mm g mb gb tb kb byte bytes px '
        || 'views users people words units pcs times years km2 hz mhz ghz w kw kwh million millions mio billion n s e followers '
        || 'subscribers downloads rows records visitors lines tokens steps'
    ),
    (
        'plain',
        'as is it a an the well also not and or but for with only just now too very so all any new old good great bad best '
        || 'better down broken private public free fine working blocked banned closed open slow fast hacked deleted gone dead '
        || 'back up here there this that your our their his her my me you we they who what where when why how if then ad ads '
        || 'advert adverts page pages post posts story stories reel reels bot bots api app apps web marketing manager management '
        || 'campaign campaigns group groups channel channels server servers account accounts business integration clone design '
        || 'follower followers like likes content feed profile logo icon button login link links share support setup development '
        || 'strategy video videos image images photo photos yes no none nope ok okay sure maybe never always needed required '
        || 'optional available possible done ready handled included excluded important popular famous nice cool fun useful '
        || 'useless used using enough more less than same different because really being getting going has have had was were will '
        || 'would can could should must may might to of in on at by from about one two three four five nicht kein keine sehr auch '
        || 'nur und oder ist gut schlecht kaputt mejor bueno muy si para pour tres pas bien una un une le la les der die das ein '
        || 'eine part some promised agreed discussed described usual usually everyone everybody people somebody someone anyone '
        || 'something nothing everything overrated boring addict expert consultant specialist engineer developer designer scraper '
        || 'scraping automation growth verification verified badge token tokens message messages call calls chat chats sticker '
        || 'stickers emoji emojis please thanks thank today tomorrow later soon instead first id handle name user username nick '
        || 'nickname number com net org'
    ),
    (
        'no_local',
        'in up on me my us our work works working worked look looks mail email account is are be login available support log '
        || 'sign the a an your use using to with via from at by or and page site found find check see visit it them people job '
        || 'interview mailbox inbox office team address'
    ),
    (
        'short',
        'b d f g h k l m n p q r t v w z'
    )
) as w (kind, words)
cross join lateral regexp_split_to_table(w.words, ' ') as t (word)
union
select
    chr(g.code) as word,
    'single' as kind
from generate_series(48, 122) as g (code)
where g.code not between 58 and 96
union
-- Two letters that no language in reach writes as a word.
select
    chr(a.code) || chr(b.code) as word,
    'short' as kind
from generate_series(97, 122) as a (code)
cross join generate_series(97, 122) as b (code)
where
    chr(a.code) || chr(b.code) <> all(string_to_array(
        'ab ac ad ae ah ai al am an ar as at au av ba be bi by ca cd ce ci cm co cu da de di dj do dr du eg eh el em '
        || 'en er es et eu ex fa fm fr ft gb ge gi go gr ha hd he hi hm ho hr id ie if ik il im in io ir is it iv ix ja '
        || 'je jo jr kb kg ki km ko la le li lo lu ma mb me mg mi ml mm mo mr ms mu my na nd ne ni nl no nr nu nz of oh '
        || 'ok om on op or os ou oz pa pc pl pm po pr ps pt qu rd re ro ru sa se si so sq st su sv ta te th ti to tr tu '
        || 'tv ui uk um un up us ux va ve vi vn vr vs wa wc we wo xo ya ye yo yr za ze zo zu', ' '
    ));

create table private.moderation_lexicon (
    place integer not null,
    name text not null,
    pattern text not null,
    constraint moderation_lexicon_pkey primary key (name),
    constraint moderation_lexicon_place_key unique (place)
);
revoke all on table private.moderation_lexicon from public, anon, authenticated, service_role;
comment on table private.moderation_lexicon is
'The regular expressions of the engine itself over folded text: shapes of words in disguise, host names and contact details.';
comment on column private.moderation_lexicon.place is 'An expression may use those above it as {name}.';
comment on column private.moderation_lexicon.name is 'What the functions call it.';
comment on column private.moderation_lexicon.pattern is 'Folded, with every {name} put in.';

-- Written for people below; kept folded and put together, so that words may be given in their own script.
do $$
declare
    r record;
    q record;
    v text;
begin
    for r in select * from (values
    -- A letter or digit of any script, and everything else. Folding leaves no other signs than these.
    (10, 'l', '[^\n -/:-`{-~€£¥•¤]'),
    (11, 'n', '[\n -/:-`{-~€£¥•¤]'),
    (12, 'sign', '[!-/:-`{-~€£¥•¤]'),
    -- What parts words in disguise, and everything else.
    (13, 'gap_sign', '[\n "#%-'')*,-/:-?[-`{}~•¤]'),
    (14, 'no_gap', '[^\n "#%-'')*,-/:-?[-`{}~•¤]'),
    -- What makes a text worth a second look for words in disguise.
    (20, 'broken', '{l}{sign}+{l}|[a-z][0-9$@€£¥|]|[0-9$@€£¥|!][a-z]|[b-df-hj-np-tw-z]v[b-df-hj-np-tw-z]'),
    (25, 'gaps', '{gap_sign}+'),
    (26, 'contraction', '''(?:s|t|d|m|re|ll|ve|em)({n}|$)'),
    (27, 'elision', '(^|{n})(?:l|d|j|m|n|s|t|c|o|y|qu)'''),
    (28, 'one_stop', '^([^.,;:?!/]+)[.,;:?!/]+([^.,;:?!/]+)$'),
    (29, 'small_words_before', '^(?:you(?:are|re)?|u(?:r|are)?|im|iam|he|she|they|it|its|is|this|the|an?|i|are|r)+'),
    (30, 'small_words_after', '(?:you|u|urs?|yours?|him|her|me|them|it|off|is|are|r|man|bro)+$'),
    (31, 'starred', '^{l}+[*#%@]+{l}(?:{l}|[*#%@])*$'),
    (32, 'particle', '(?:입니다|이에요|예요|이야|이다|들|은|는|이|가|을|를|의|에게|에|도|야|아|로|으로|와|과|랑|네|요)+'),
    (33, 'article', '[وفبك]?ال'),
    (34, 'korean_ending', '{particle}$'),
    (35, 'arabic_beginning', '^{article}'),
    (36, 'particles', '{particle}($|{gap_sign})'),
    (37, 'articles', '(^|{gap_sign}){article}'),
    -- Whether private.moderation_forms may find more in a text than its words and those that signs part.
    (38, 'odd',
        '[^\n -@[-`{-~€£¥•¤][0-9]|[0-9][^\n -@[-`{-~€£¥•¤]|[$@€£¥]|{l}{sign}*[(]{sign}*{l}|{l}{sign}*[+]|[!|]{sign}*{l}'
        || '|(?:^|{n})[b-df-hj-np-tv-z]*v[b-df-hj-np-tv-z]*(?:{n}|$)'
        || '|(?:^|{gap_sign}){no_gap}{gap_sign}+{no_gap}{gap_sign}+{no_gap}(?:{gap_sign}|$)'),
    -- Two letters too many in one word.
    (39, 'doubled', '(?:aa|bb|cc|dd|ee|ff|gg|hh|ii|jj|kk|ll|mm|nn|oo|pp|qq|rr|ss|tt|uu|vv|ww|xx|yy|zz)'),
    (52, 'stretched',
        'aaa|bbb|ccc|ddd|eee|fff|ggg|hhh|iii|jjj|kkk|lll|mmm|nnn|ooo|ppp|qqq|rrr|sss|ttt|uuu|vvv|www|xxx|yyy|zzz'
        || '|{doubled}{l}*{doubled}'),

    -- Host names: a dot may be written out. CJK letters end a label, because nothing else would.
    (40, 'label', '[^\n -,./:-^`{-~€£¥•¤ぁ-힣]+'),
    (41, 'dot_word', '(?:dot|d0t|punkt|punto|ponto|point|kropka|точка|tochka|punt|nokta)'),
    (42, 'dot', '(?:\.| ?[[({<] ?(?:\.|{dot_word}) ?[\])}>] ?| {dot_word} | \. ?)'),
    (43, 'host', '{label}(?:{dot}{label})+'),
    (44, 'hosts_hint', '[^\n .]\.[^\n .]|{dot_word}|[[({<] ?\.| \. ?|://|:\\\\'),
    (45, 'tld',
        '(?:com|net|org|info|biz|io|co|app|dev|xyz|online|site|shop|store|club|website|icu|vip|agency|tech|ru|de|fr|uk|nl|ch|eu'
        || '|cn|jp|kr|br|au|ca|tv|gg|ly|ws|su|ua|kz|tr|fi|dk|cz|sk|hu|ro|bg|gr|pt|ie|il|ir|pk|za|ng|ke|mx|ar|cl|nz|sg|hk|tw|th|vn'
        || '|ph)'),
    (46, 'tld_more',
        '(?:{tld}|me|to|it|is|at|in|be|us|no|so|es|se|pl|id|my|by|am|fm|im|li|la|ai|gl|gd|pe|ae|sa|ee|lt|lv|si|hr|live|link'
        || '|click|pro|top|space|cloud|digital|page|bio|gle|world|news|blog|video|chat|email|ninja|work|life|fun|lol|zone|st|sc|pw'
        || '|cc|ms|mobi|name)'),
    (47, 'bare_host', '\.{tld}$'),
    (48, 'path_host', '\.{tld_more}$'),
    (49, 'no_host',
        '^(?:asp|vb|ado|ml|c|f|paint)\.net$|^(?:com|org|net|io|de|uk)\.|^[0-9.]+$|^socket\.io$|^(?:co|u|s|e|i)\.|^(?:the|a|an'
        || '|this|that|my|early|first|old|new)\.com$'),
    (50, 'scheme_before', '(?:h[tx*]{2}ps?|ftps?|wss?) ?: ?[/\\]{1,3} ?(?:[^/\n ]*@)?$'),
    (51, 'scheme', '(?:h[tx*]{2}ps?|ftps?|wss?) ?: ?[/\\]{2}'),

    -- E-mail.
    (60, 'local', '[^\n -$&(-*,/:-^`{-~€£¥•¤ぁ-힣]+'),
    (61, 'at_sign', '(?: ?@ ?| ?[[({<*|~_-]{1,2} ?(?:at|a t|arroba|arobase|@|a|et) ?[\])}>*|~_-]{1,2} ?)'),
    (62, 'at_word', '(?:at(?: sign)?|arroba|arobase|chiocciola|klammeraffe|aet|ät|małpa|собака|sobaka|снабел-а|kukac|zavinac)'),
    (63, 'provider',
        '(?:gmail|googlemail|g ?mail|yahoo|ymail|hotmail|outlook|icloud|proton(?:mail)?|gmx|web|aol|live|msn|mail|yandex|zoho|qq'
        || '|163|126|naver|daum|hanmail|freenet|t-online|orange|wanadoo|laposte|libero|virgilio|seznam|wp|onet|interia|o2'
        || '|rediffmail|fastmail|tutanota|bol|uol)'),
    (59, 'mailbox', '(?:gmail|googlemail|yahoo|ymail|hotmail|outlook|icloud|proton(?:mail)?|gmx|yandex|zoho|rediffmail|fastmail|tutanota)'),
    (64, 'loose_dot', '(?:\.| ?[[({<] ?(?:\.|{dot_word}) ?[\])}>] ?| {dot_word} ?| \. ?|\. )'),
    (65, 'worded_dot', '(?: ?[[({<] ?(?:\.|{dot_word}) ?[\])}>] ?| {dot_word} )'),
    (66, 'spelled_local',
        '{local}(?:(?: ?[[({<] ?(?:\.|{dot_word}) ?[\])}>] ?| {dot_word} | (?:underscore|dash|minus|unterstrich|bindestrich'
        || '|guion bajo) ){local})*'),
    (67, 'email', '{local}@+(?:{label}\.)+[a-z]{2,24}|@[a-z0-9._=/-]+:(?:{label}\.)+[a-z]{2,24}'),
    (68, 'loose_email',
        '{spelled_local}(?:{at_sign}(?:{label}{loose_dot})+{tld_more}| {at_word} (?:{label}{worded_dot})+(?:{tld_more}|ру|ком)'
        || '| {at_word} {provider}(?:{loose_dot}| )(?:com|net|org|de|fr|ru|it|es|uk|pl|cz|br|in|jp|cn|kr|me|ch|at|co)'
        || '| ?{provider}(?:{worded_dot}| )com|@ ?{provider} ?[,; ]? ?(?:com|net|org|de|ru|fr|it|es)|@ ?{mailbox}'
        '| {at_word} (?:gmail|googlemail|hotmail|icloud|protonmail)[.!)]*$)'
        || '|[a-z0-9](?: [a-z0-9._-]){2,} (?:@|at)(?: [a-z0-9-]){2,} (?:\.|dot)(?: [a-z]){2,}'),
    (69, 'loose_at', '[[({<*|~_-] ?(?:at|a t|@|a|et|arroba|arobase) ?[\])}>*|~_-]| @|@ |@[^ \n]*(?: \.|[({<[]\.|[,;])'),

    -- Words with stars in them, or a contact detail.
    (70, 'suspect', '{l}[*#%@]+{l}|[@/]|skype:|{loose_at}|[0-9](?:[^0-9]*[0-9]){5}'),

    -- Telephone numbers.
    (81, 'cjk_number', '[零〇一二两三四五六七八九幺][ .,-]?(?:[零〇一二两三四五六七八九幺0-9][ .,-]?){6,}|[영공일이삼사오육칠팔구][ .,-]?(?:[영공일이삼사오육칠팔구0-9][ .,-]?){6,}'),
    (82, 'number', '[+(]{0,2}[0-9ol]?[0-9](?:[ ().\-/_*~]{0,3}(?:[0-9ol]|i[0-9])){5,}'),
    (84, 'date',
        '(?:(?:19|20)[0-9]{2}[./ -][01]?[0-9][./ -][0-3]?[0-9]|[0-3]?[0-9][./-][0-3]?[0-9][./-](?:19|20)[0-9]{2}'
        || '|[0-3]?[0-9] [01][0-9] (?:19|20)[0-9]{2}|[0-3]?[0-9]\.[01]?[0-9]\.[0-9]{2}|[01][0-9]/[0-3][0-9]/[0-9]{2}'
        || '|[0-3]?[0-9]\.[01]?[0-9]\.?|[0-3]?[0-9]\.|[0-2]?[0-9][.][0-5][0-9]|(?:19|20)[0-9]{2})'),
    (86, 'full_date',
        '(?:(?:19|20)[0-9]{2}[./-][01]?[0-9][./-][0-3]?[0-9]|[0-3]?[0-9][./-][0-3]?[0-9][./-](?:19|20)[0-9]{2}|(?:19'
        || '|20)[0-9]{2}[01][0-9][0-3][0-9])'),
    (87, 'dates_before', '^(?:{full_date}[ -]{1,3}(?:[0-2]?[0-9][.][0-5][0-9][ -]{1,3})?)+'),
    (88, 'dates_after', '(?:[ -]{1,3}{full_date})+$'),
    (89, 'call_anywhere',
        '(?:(?:^|{n})(?:my|mein|meine|mi|mon|mio|meu) (?:new |neue |cell |mobile |phone |personal )*(?:number|num|nr|no|digits'
        || '|nummer|numero)(?:{n}|$)|電話|电话|手机|號碼|号码|打我|连络|携帯|番号|전화|연락|번호|폰|微信|โทร|เบอร์)[^0-9\n•]{0,15}$'),
    (90, 'identified_anywhere', '(?:#|주문번호|주문|송장|운송장|订单号|订单|單號|单号|快递|編號|编号|注文番号|注文|予約)[^a-z0-9\n•]{0,4}(?:是|は|为)?$'),
    (92, 'money_before', '(?:[€£¥¤$]|(?:^|{n})(?:eur|usd|gbp|chf|rs|inr|jpy|cny|rmb|krw|vnd|idr|cad|aud|aed|sar)) ?$'),
    (93, 'thousands', '^[1-9][0-9]{0,2}(?:[ .][0-9]{3})+$'),
    (94, 'no_phone',
        '^(?:{date}(?:[ ,/~-]{1,3}{date})*|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9]{1,3}\.[0-9]{1,2}\.[0-9]{1,5}\.[0-9]{1,5}'
        || '|[0-9]{1,2}\.[0-9]+|[1-9][0-9]*\.[0-9]+|[0-9]{1,3}\.[0-9]{3,} {1,3}-?[0-9]{1,3}\.[0-9]{3,}|(?:19'
        || '|20)[0-9]{2}(?:[^0-9]+(?:19|20)[0-9]{2})*|0?1[^0-9]+0?2[^0-9]+0?3[^0-9].*|10[^0-9]+20[^0-9]+30[^0-9].*'
        || '|100[^0-9]+200[^0-9]+300[^0-9].*|0[0-9](?: [0-9]{2}){5})$'),
    (97, 'national', '^0[1-9][0-9]*(?: [0-9]+)*$|^0 ?[1-9](?: [0-9])+$|^00 ?[1-9][0-9 ]*$|^0[0-9]{2,4} [0-9]+(?: [0-9]+)*$|^0 [1-9][0-9]{1,4} [0-9]{5,8}$'),
    (98, 'shaped',
        '^(?:1 ?)?[2-9][0-9]{2} [2-9][0-9]{2} ?[0-9]{4}$|^(?:1 )?[2-9][0-9]{5} [0-9]{4}$'
        || '|^[78] ?[3489][0-9]{2} ?[0-9]{3} ?[0-9]{2} ?[0-9]{2}$|^1[3-9][0-9] ?[0-9]{4} [0-9]{4}$|^1[3-9][0-9]{9}$'
        || '|^[6-9][0-9]{4} [0-9]{5}$|^3[0-9]{2} [0-9]{3} ?[0-9]{4}$|^3[0-9]{2} [0-9]{6,7}$'
        || '|^[67][0-9]{2} [0-9]{2} [0-9]{2} [0-9]{2}$|^[67][0-9]{2} [0-9]{3} [0-9]{3}$|^[2-9][0-9]{2} [0-9]{3} [0-9]{4}$'
        || '|^55 [0-9]{2} 9?[0-9]{4} [0-9]{4}$|^[1-9][0-9] 9[0-9]{4} [0-9]{4}$|^(?:49|44|33|34|39|48|31|7|91|86|90|380|351|41'
        || '|43) ?[0-9]{2,3} [0-9 ]{6,10}$'),
    (99, 'alone',
        '^(?:[2-9][0-9]{2}[2-9][0-9]{6}|1[2-9][0-9]{2}[2-9][0-9]{6}|[6-9][0-9]{9}|[67][0-9]{8}|3[0-9]{9}|(?:49|44|33|34|39|48'
        || '|91)[0-9]{9,11})$'),

    (100, 'counting',
        '^(?:(?:zero|null|cero|nul|ноль|零|〇|영|공){n}*)?(?:one[^a-z]*two[^a-z]*three|eins[^a-z]*zwei[^a-z]*drei'
        || '|uno[^a-z]*dos[^a-z]*tres|un[^a-z]*deux[^a-z]*trois|uno[^a-z]*due[^a-z]*tre|um[^a-z]*dois[^a-z]*tres'
        || '|een[^a-z]*twee[^a-z]*drie|один[ ,.]*два[ ,.]*три|一[ ,.]*二[ ,.]*三|일[ ,.]*이[ ,.]*삼|bir[^a-z]*iki[^a-z]*uc'
        || '|jeden[^a-z]*dwa[^a-z]*trzy)'),

    -- Messengers: names that say it alone, and words that are also something else.
    (109, 'messenger_anywhere', '微信|薇信|威信|加v|v信|카카오톡|카톡|텔레그램|인스타|インスタ|ライン|line|라인|加微|vx|wx|qq'),
    (110, 'messenger',
        '(?:tele ?gram+|telgram|whats ?app|wasap|guasap|whatsap|watsap+|whatapp|wapp|wsp|whatsup|instagram|insta|snap ?chat|keybase|wickr'
        || '|discord|skype|wechat|weixin|viber|facebook|kakao ?talk|kakao|zalo|icq|threema|kik|gmail|hotmail|googlemail|icloud'
        || '|protonmail|tiktok|linkedin|twitter|телеграмм?|телега|телеге|телегу|телеграме|вотсап|ватсап|вацап|вайбер|скайп'
        || '|инстаграмм?|инста|инсте|инсту|микрософт тимс|微信|薇信|威信|加v|v信|카카오톡|카톡|텔레그램|인스타|インスタ|ライン|واتساب|واتس|تيليجرام|تليجرام'
        || '|تلغرام|تلجرام|انستا|انستقرام|سناب|फेसबुक|व्हाट्सएप|व्हाट्सऐप|टेलीग्राम|इंस्टाग्राम)'),
    (111, 'maybe_messenger', '(?:tg|тг|ig|wa|fb|wx|vx|qq|line|signal|snap|messenger|zap|vk|вк|imo|tele|x|teams|email|e-mail|mail)'),
    (112, 'any_messenger', '(?:{messenger}|{maybe_messenger})'),
    (113, 'handle', '[a-z0-9][a-z0-9._-]{2,}'),
    (114, 'odd_handle', '[a-z](?:[a-z]*[0-9]{2,}|[a-z.-]+_[a-z0-9]|[a-z]+\.[a-z]|[a-z]{3,}\.[0-9]{2})[a-z0-9._-]*'),
    (115, 'handle_word',
        '(?:id|name|user ?name|usr|user|handle|nick|nickname|account|acc|profile?|contact|konto|benutzername|usuario|号|號|아이디|ник'
        || '|логин)'),
    (116, 'gap', '[ :=~>(\-]{1,4}'),
    (117, 'at_handle',
        '(?:^|{n}){any_messenger}{gap}(?:(?:{handle_word}|c''est|is|ist|es|est|e|at|me|as|als|my|on){gap}){0,3}@ ?{handle}'
        || '|@{handle}[ ,.(]{1,3}(?:(?:on|in|bei|auf|en|sur|su|no|na|at|for|my|via|в|w) ?)?{any_messenger}(?:{n}|$)'),
    (118, 'named_handle',
        '(?:^|{n})(?:{messenger}(?: ?{handle_word})?|{maybe_messenger} ?{handle_word}) ?(?:[:=~>-]{1,3}|is:?|ist:?|es:?|est:?'
        || '|lautet|jest) ?@?{handle}|(?:^|{n}){messenger} (?:id|user ?name|usr|handle|nick|nickname|ник|логин) {handle}|(?:^|{n})(?:line|tg|ig|vk|qq|imo|wx'
        || '|vx) id {handle}|(?:微信|薇信|威信|vx|wx|v信|加v|加微|加我微信|qq|카톡|카카오톡|라인|ライン|인스타|lineの)(?:号|號|是|아이디|id|の|は| |:)*{handle}|(?:^|{n})skype[^\n]{0,20}[ :]live:[a-z0-9._-]{3,}'),
    (119, 'odd_named_handle',
        '(?:^|{n})(?:{messenger}|tg|тг|ig|wa|fb|wx|vx|qq|snap|zap|vk|вк|imo|line id|signal id)(?:''s)?(?:{gap}(?:{handle_word}|is|ist|es'
        || '|est|as|me|my))*{gap}@?{odd_handle}|(?:^|{n})(?:tele|line|signal|sc) ?[:=] ?@?{odd_handle}'),
    (120, 'asked_handle',
        '(?:^|{n})(?:add|find|text|message|msg|reach|contact|dm|pm|hit|write|ping|get|follow|search|im|i am|am|me|mich|mir'
        || '|agregame|buscame|escribeme|ajoute|cherche|aggiungimi|scrivimi|cercami|adiciona|chama)(?: me| us| mich'
        || '| moi)?(?: up)? (?:on |via |auf |sur |en |su |no |na |in |over |per |by |through |at |bei )?(?:my '
        || '|the )?{any_messenger} ?(?:as|als|como|comme|come|jako|under|unter|by|with|at|@|:|-|,) ?@?{handle}'),
    (125, 'handle_on', '@?{odd_handle} (?:on|auf|en|sur|su|no|na|in|at|bei|в|w) (?:my )?{messenger}(?:{n}|$)'),
    (121, 'discord_tag', 'discord[^\n#•]{0,30}[a-z0-9._]{2,32} ?# ?[0-9]{4}'),
    (122, 'invited',
        '(?:^|{n})(?:(?:add|text|message|msg|find|contact|reach|hit|dm|pm|write|ping|call|whatsapp|ring)(?: me| us'
        || '| to me)(?: up)? (?:on|via|at|through|over|in|by|using)|(?:schreib|schreibe|kontaktier|ruf|adde|finde)(?: mir'
        || '| mich)? (?:auf|bei|uber|per|in|via|bei)|(?:escribeme|contactame|agregame|hablame|buscame|llamame|mandame) (?:por|al|en'
        || '|a|un)(?: el)?|(?:ecris|ecrivez|ajoute|ajoutez|contacte|contactez|rejoins)[ -]moi (?:sur|par|via)|(?:scrivimi'
        || '|aggiungimi|contattami|chiamami|cercami) (?:su|via|con|in)|(?:me chama|me adiciona|chama|me liga|me escreve) (?:no|na'
        || '|pelo)|(?:напиши|напишите|пиши|пишите|добавь|найди)(?: мне| меня)? (?:в|на)|napisz(?: do mnie)? na|dodaj mnie na'
        || '|(?:lets|let us|we can|can we|please)? ?(?:talk|chat|continue|move|switch|go|speak|discuss)(?: this| it| further'
        || '| over)? (?:on|via|to|over|through|in)) (?:my )?(?:{messenger}|tg|тг|wa|signal|snap|line|ig|zap|вк)(?:{n}|$)'),
    (124, 'invitation',
        '(?:(?:h[tx*]{2}ps?)? ?:? ?/{0,2} ?(?:www\.)?)(?:(?:t|telegram|tlgrm|telesco|wa|m|fb|line|zalo|qm\.qq|snap){dot}(?:me'
        || '|dog|pe|chat|com)|(?:telegram|viber|discordapp|discord|instagram|facebook|fb|snapchat|tiktok|linkedin|twitter|x|vk|signal'
        || '|whatsapp|(?:chat|api|web|call)\.whatsapp|join\.skype|open\.kakao|line|weixin|wechat|threema|onlyfans'
        || '|paypal){dot}(?:com|gg|me|org|ru|id|group|app|to))[ ]?/[ ]?[^\n )•]+|discord{dot}gg ?/ ?[^\n )•]+|(?:viber|tg|whatsapp'
        || '|skype|weixin|line)://[^\n )•]+|skype:[a-z0-9._:-]{3,}\?[a-z]+'),
    (131, 'sentence_goes_on', '^[ ]?(?:[a-z0-9]|-[a-z])'),
    (132, 'sentence_may_go_on',
        '^ (?:and|or|und|et|y|e|if|when|for|thanks|thank|please|there|bye|ok|text|add|call|write|msg|message|pls|so|but|see'
        || '|danke|merci|gracias)(?:{n}|$)'),
    (128, 'no_invitation',
        '/ ?(?:p|reel|reels|explore|ads?|business|help|watch|groups|events|hashtag|status|jobs|company|developers?|docs|about'
        || '|legal|policies|privacy|blog|download|i|stories)(?:/|$|\?)'),
    (129, 'tech_word',
        '(?:api|key|token|bot|page|app|web|url|oauth|client|secret|pixel|graph|hook|sdk|story|stories|post|group|channel|server'
        || '|shop|ads|link|share|feed|login|user|media|json|chat|message)|\.(?:js|py|ts|md|png|jpg|jpeg|gif|pdf|zip|txt|csv|html'
        || '|php|com|net|org)$|^[a-z]{1,2}[0-9]{2}$')
    ) as t (place, name, pattern) order by t.place
    loop
        v := private.moderation_fold(r.pattern);
        for q in select l.name, l.pattern from private.moderation_lexicon as l loop
            v := replace(v, '{' || q.name || '}', q.pattern);
        end loop;
        insert into private.moderation_lexicon (place, name, pattern) values (r.place, r.name, v);
    end loop;
end;
$$;

create function private.moderation_collapse(p_text text)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
    v_text text := p_text;
    v_before text;
begin
    -- Halving instead of a back reference, whose cost nothing bounds: the longest run costs its logarithm.
    loop
        v_before := v_text;
        v_text :=
            replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(
            replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(
            v_text, 'aa', 'a'), 'bb', 'b'), 'cc', 'c'), 'dd', 'd'), 'ee', 'e'), 'ff', 'f'), 'gg', 'g'),
            'hh', 'h'), 'ii', 'i'), 'jj', 'j'), 'kk', 'k'), 'll', 'l'), 'mm', 'm'), 'nn', 'n'),
            'oo', 'o'), 'pp', 'p'), 'qq', 'q'), 'rr', 'r'), 'ss', 's'), 'tt', 't'), 'uu', 'u'),
            'vv', 'v'), 'ww', 'w'), 'xx', 'x'), 'yy', 'y'), 'zz', 'z');
        exit when v_text = v_before;
    end loop;
    return v_text;
end;
$$;
comment on function private.moderation_collapse(text) is 'Every run of one and the same Latin letter as one letter.';
revoke all on function private.moderation_collapse(text) from public, anon, authenticated, service_role;

create function private.moderation_leet(p_word text)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
    v_signs constant integer := char_length(translate(p_word, '0123456789@$€£¥|!+(', ''));
    v_digits constant integer := char_length(p_word) - char_length(translate(p_word, '0123456789', ''));
begin
    -- Letters among digits and signs; more digits than letters is a number of something, such as a55 or b2b.
    if v_signs = 0 or v_signs = char_length(p_word) or v_digits > v_signs + (char_length(p_word) >= 5)::integer then
        return null;
    end if;
    if translate(p_word, '1|!', '') = p_word then
        return translate(p_word, '023456789@$€£¥+(', 'ozeasgtbgaselytc');
    end if;
    return translate(p_word, '0123456789@$€£¥|!+(', 'oizeasgtbgaselyiitc')
        || ' ' || translate(p_word, '0123456789@$€£¥|!+(', 'olzeasgtbgaselylltc');
end;
$$;
comment on function private.moderation_leet(text) is
'The words that a mixture of letters with digits and signs may stand for (sh1t, $cam), one or two, with a space between; null for others.';
revoke all on function private.moderation_leet(text) from public, anon, authenticated, service_role;

create function private.moderation_forms(p_folded text)
returns text[]
language plpgsql
stable
set search_path = ''
as $$
declare
    c_n constant text := '[\n -/:-`{-~€£¥•¤]+';
    v_contraction text;
    v_elision text;
    v_gaps text;
    v_one_stop text;
    v_small_before text;
    v_small_after text;
    v_articles text;
    v_particles text;
    v_text text := p_folded;
    v_short_words text[];
    -- Words with a space between: to append to a long array copies it.
    v_forms text := '';
    v_spoken text := '';
    v_leet text;
    v_token text;
    v_joined text;
    v_parts text[];
    v_segment text;
    v_before text := '';
    v_before_is_short boolean := false;
    v_is_short boolean;
    v_run text := '';
begin
    select
        max(l.pattern) filter (where l.name = 'contraction'),
        max(l.pattern) filter (where l.name = 'elision'),
        max(l.pattern) filter (where l.name = 'gaps'),
        max(l.pattern) filter (where l.name = 'one_stop'),
        max(l.pattern) filter (where l.name = 'small_words_before'),
        max(l.pattern) filter (where l.name = 'small_words_after'),
        max(l.pattern) filter (where l.name = 'articles'),
        max(l.pattern) filter (where l.name = 'particles')
    into v_contraction, v_elision, v_gaps, v_one_stop, v_small_before, v_small_after, v_articles, v_particles
    from private.moderation_lexicon as l
    where l.place between 25 and 37;
    if strpos(p_folded, '''') > 0 then
        v_text := regexp_replace(regexp_replace(p_folded, v_contraction, '\1', 'g'), v_elision, '\1', 'g');
    end if;
    v_short_words := array(
        select w.word
        from private.moderation_words as w
        where w.kind = 'short' and w.word = any(regexp_split_to_array(v_text, c_n) collate "C")
    );

    -- Words with digits and signs in them; words in two pieces of which one is no word.
    foreach v_token in array regexp_split_to_array(v_text, v_gaps) loop
        continue when v_token = '';
        if char_length(v_token) > 1 then
            -- At the end a plus may be a t, or a v alone among consonants a u.
            if v_token like '%+' then
                v_forms := concat_ws(' ', v_forms, private.moderation_leet(ltrim(v_token, '(+')));
            end if;
            v_token := rtrim(ltrim(v_token, '(+'), '!+(|');
            if v_token ~ '^[b-df-hj-np-tv-z]+$' then
                v_forms := concat_ws(' ', v_forms, translate(v_token, 'v', 'u'));
            end if;
        end if;
        v_leet := case
            when translate(v_token, '0123456789@$€£¥|!+(', '') <> v_token then private.moderation_leet(v_token)
        end;
        v_forms := concat_ws(' ', v_forms, v_leet);
        v_spoken := concat_ws(' ', v_spoken, coalesce(split_part(v_leet, ' ', 1), v_token));
        v_is_short := v_token = any(v_short_words);
        if (v_is_short or v_before_is_short) and v_before <> '' and char_length(v_before) + char_length(v_token) between 4 and 40 then
            v_forms := concat_ws(' ', v_forms, v_before || v_token, private.moderation_leet(v_before || v_token));
        end if;
        v_before := v_token;
        v_before_is_short := v_is_short;
    end loop;

    -- Words spelled letter by letter; wider gaps may part the words.
    foreach v_segment in array array[v_text] || regexp_split_to_array(v_text, ' {2,}|\n') loop
        foreach v_token in array regexp_split_to_array(v_segment, v_gaps) || '..'::text loop
            continue when v_token = '';
            if char_length(v_token) = 1 then
                v_run := v_run || v_token;
                continue;
            end if;
            if char_length(v_run) between 3 and 200 and v_run ~ '[^0-9@$€£¥|!+(]' then
                v_joined := v_run;
                v_forms := concat_ws(' ', v_forms, v_joined, private.moderation_leet(v_joined));
                v_joined := regexp_replace(v_run, v_small_before, '');
                v_forms := concat_ws(' ', v_forms, v_joined, private.moderation_leet(v_joined));
                v_joined := regexp_replace(v_run, v_small_after, '');
                v_forms := concat_ws(' ', v_forms, v_joined, private.moderation_leet(v_joined));
                v_joined := regexp_replace(v_joined, v_small_before, '');
                v_forms := concat_ws(' ', v_forms, v_joined, private.moderation_leet(v_joined));
            end if;
            v_run := '';
        end loop;
        exit when v_segment = v_text and v_text !~ ' {2,}|\n';
    end loop;

    -- Words broken by signs. One full stop between two words is a forgotten space.
    for v_token in
        select t.token
        from (
            select distinct btrim(c.token, '"''.,;:?!()[]{}<>-_~*/\^`&=#%•¤+|') as token
            from regexp_split_to_table(v_text, '[ \n]+') as c (token)
        ) as t
        where t.token ~ '[!-/:-`{-~•¤]' and char_length(t.token) <= 100
    loop
        v_joined := regexp_replace(v_token, v_gaps, '', 'g');
        continue when v_joined = v_token and translate(v_joined, '!+(|', '') = v_joined;
        v_parts := regexp_match(v_token, v_one_stop);
        continue when v_parts is not null and char_length(v_parts[1]) > 1 and char_length(v_parts[2]) > 1
            and (octet_length(v_joined) = char_length(v_joined) or (char_length(v_parts[1]) > 2 and char_length(v_parts[2]) > 2))
            and not v_parts && v_short_words;
        v_forms := concat_ws(' ', v_forms, v_joined, private.moderation_leet(v_joined), translate(v_joined, '!+(|', ''));
    end loop;

    -- Words with an article or an ending that is written together with them.
    if octet_length(p_folded) > char_length(p_folded) and p_folded ~ '[ء-ي가-힣]' then
        v_text := regexp_replace(v_text, v_articles, '\1', 'g') || ' ' || regexp_replace(v_text, v_particles, '\1', 'g');
        v_forms := concat_ws(' ', v_forms, regexp_replace(v_text, v_gaps, ' ', 'g'));
    end if;
    -- The last one is the text with plain words, for phrases.
    return string_to_array(v_forms, ' ') || ltrim(v_spoken);
end;
$$;
comment on function private.moderation_forms(text) is
'What the disguised words of a folded text may be: leetspeak, spelled and broken words, words in two pieces; last, the whole text in '
'plain words with one space between them.';
revoke all on function private.moderation_forms(text) from public, anon, authenticated, service_role;

create function private.moderation_scan(p_folded text, p_rule_id uuid, out caught uuid[], out hints text[])
language plpgsql
stable
set search_path = ''
set enable_seqscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
as $$
declare
    c_n constant text := '[\n -/:-`{-~€£¥•¤]+';
    v_words text[] := regexp_split_to_array(p_folded, c_n);
    v_forms text[];
    v_plain text;
    v_spoken text;
    v_collapsed text;
    v_more uuid[];
    v_is_disguised boolean;
begin
    -- One look at every word: a term or the first word of one, and what the engine itself knows.
    select
        array_agg(f.rule_id) filter (where f.rule_id is not null and not f.is_phrase),
        array_agg(f.kind) filter (where f.kind is not null),
        array_agg(f.rule_id) filter (where f.is_phrase)
    into caught, hints, v_more
    from unnest(v_words) as w (word)
    cross join lateral (
        select
            t.rule_id,
            t.is_phrase,
            null as kind
        from private.moderation_terms as t
        where t.first_word = w.word collate "C" and case when p_rule_id is null then t.is_enabled else t.rule_id = p_rule_id end
        union all
        select
            null as rule_id,
            false as is_phrase,
            k.kind
        from private.moderation_words as k
        where k.word = w.word collate "C"
    ) as f;
    caught := coalesce(caught, '{}');
    hints := coalesce(hints, '{}');
    if v_more is not null then
        v_plain := ' ' || array_to_string(v_words, ' ') || ' ';
        caught := caught || array(
            select t.rule_id
            from unnest(v_words) as w (word)
            inner join private.moderation_terms as t on w.word collate "C" = t.first_word
            where t.is_phrase and t.rule_id = any(v_more) and strpos(v_plain, ' ' || t.term || ' ') > 0
        );
    end if;

    v_is_disguised :=
        octet_length(p_folded) > char_length(p_folded)
        or p_folded ~ (select l.pattern from private.moderation_lexicon as l where l.name = 'broken')
        or 'short' = any(hints)
        or cardinality(array_positions(hints, 'single')) >= 3;
    if v_is_disguised then
        v_forms := private.moderation_forms(p_folded);
        v_spoken := ' ' || v_forms[cardinality(v_forms)] || ' ';
        v_forms := v_forms[:cardinality(v_forms) - 1] || string_to_array(v_spoken, ' ');
        caught := caught || array(
            select t.rule_id
            from unnest(v_forms) as w (word)
            inner join private.moderation_terms as t on w.word collate "C" = t.first_word
            where
                case when p_rule_id is null then t.is_enabled else t.rule_id = p_rule_id end
                and (not t.is_phrase or strpos(v_spoken, ' ' || t.term || ' ') > 0)
        );
        v_words := v_words || v_forms;
    end if;

    -- Stretched words, with two letters too many at least. No letter of the term may be missing in the word.
    v_plain := array_to_string(v_words, ' ');
    v_collapsed := private.moderation_collapse(v_plain);
    if char_length(v_plain) >= char_length(v_collapsed) + 2 then
        caught := caught || array(
            select t.rule_id
            from unnest(v_words, string_to_array(v_collapsed, ' ')) as w (word, collapsed)
            inner join private.moderation_terms as t on w.collapsed collate "C" = t.collapsed
            where
                char_length(w.word) between char_length(w.collapsed) + 2 and 400
                and case when p_rule_id is null then t.is_enabled else t.rule_id = p_rule_id end
                and not t.is_phrase
                and char_length(t.term) >= 3
                and w.word ~ ('^' || regexp_replace(t.term, '(.)', '\1+', 'g') || '$')
        );
    end if;
    if not v_is_disguised then
        return;
    end if;

    -- Words with stars in them.
    if translate(p_folded, '*#%@', '') <> p_folded then
        caught := caught || array(
            select t.rule_id
            from (
                select distinct translate(btrim(c.token, '"''.,;:?!()[]{}<>-_~/'), '*#%@', '____') as likeness
                from regexp_split_to_table(p_folded, '[ \n]+') as c (token)
                where
                    btrim(c.token, '"''.,;:?!()[]{}<>-_~/')
                    ~ (select l.pattern from private.moderation_lexicon as l where l.name = 'starred')
            ) as w
            inner join private.moderation_terms as t
                on
                    t.first_word >= split_part(w.likeness, '_', 1) collate "C"
                    and t.first_word < split_part(w.likeness, '_', 1) || U&'\+10FFFF' collate "C"
                    and t.term like w.likeness
            where
                case when p_rule_id is null then t.is_enabled else t.rule_id = p_rule_id end
                and not t.is_phrase
                and char_length(w.likeness) >= 4
                and 2 * char_length(replace(w.likeness, '_', '')) >= char_length(w.likeness)
        );
    end if;

    -- Scripts without spaces.
    if p_folded ~ '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3007\u3040-\ud7a3\U00020000-\U0003ffff]' then
        v_plain := regexp_replace(p_folded, c_n, '', 'g');
        caught := caught || array(
            select t.rule_id
            from private.moderation_terms as t
            where
                t.is_anywhere
                and case when p_rule_id is null then t.is_enabled else t.rule_id = p_rule_id end
                and strpos(v_plain, replace(t.term, ' ', '')) > 0
        );
        if
            p_folded ~ '[ぁ-힣ก-๿]'
            and p_folded ~ (select l.pattern from private.moderation_lexicon as l where l.name = 'messenger_anywhere')
        then
            hints := hints || 'messenger'::text;
        end if;
        if p_folded ~ (select l.pattern from private.moderation_lexicon as l where l.name = 'cjk_number') then
            hints := hints || 'cjk_number'::text;
        end if;
    end if;
end;
$$;
comment on function private.moderation_scan(text, uuid) is
'The rules (enabled, or the one given) of which a term is in a folded text, perhaps several times, and the kinds of the words in it '
'that the engine knows.';
revoke all on function private.moderation_scan(text, uuid) from public, anon, authenticated, service_role;

create function private.moderation_spans(p_folded text, p_pattern text)
returns integer[]
language plpgsql
immutable
set search_path = ''
as $$
declare
    v_parts text[];
    v_spans integer[] := '{}';
    v_at integer := 1;
begin
    -- Outside and inside of matches in turn, in one pass; a normalised text has no other control characters than line ends.
    v_parts := string_to_array(regexp_replace(p_folded, p_pattern, E'\x01\\&\x01', 'g'), E'\x01');
    for i in 1..cardinality(v_parts) - 1 loop
        v_at := v_at + char_length(v_parts[i]);
        v_spans := v_spans || v_at;
    end loop;
    return v_spans;
end;
$$;
comment on function private.moderation_spans(text, text) is
'Where the pattern matches: first and one past the last place of each match, from 1.';
revoke all on function private.moderation_spans(text, text) from public, anon, authenticated, service_role;

create function private.moderation_punycode(p_host text)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
    v_labels text[] := string_to_array(p_host, '.');
    v_input text;
    v_output integer[];
    v_code integer;
    v_index integer;
    v_old_index integer;
    v_bias integer;
    v_weight integer;
    v_digit integer;
    v_threshold integer;
    v_delta integer;
    v_steps integer;
    v_at integer;
begin
    if strpos(p_host, 'xn--') = 0 then
        return p_host;
    end if;
    for i in 1..cardinality(v_labels) loop
        continue when v_labels[i] !~ '^xn--[a-z0-9-]{1,59}$';
        v_input := substr(v_labels[i], 5);
        v_at := char_length(v_input) - strpos(reverse(v_input), '-') + 1;
        v_output := case
            when strpos(v_input, '-') = 0 then '{}'
            else array(select ascii(t.c) from unnest(string_to_array(left(v_input, v_at - 1), null)) as t (c))
        end;
        v_at := case when strpos(v_input, '-') = 0 then 1 else v_at + 1 end;
        v_code := 128;
        v_index := 0;
        v_bias := 72;
        while v_at <= char_length(v_input) loop
            v_old_index := v_index;
            v_weight := 1;
            v_steps := 36;
            loop
                v_digit := strpos('abcdefghijklmnopqrstuvwxyz0123456789', substr(v_input, v_at, 1)) - 1;
                v_at := v_at + 1;
                -- Not punycode after all: the host stays as it is.
                if v_digit < 0 or v_weight > 100000000 or v_index > 100000000 then
                    return p_host;
                end if;
                v_index := v_index + v_digit * v_weight;
                v_threshold := least(greatest(v_steps - v_bias, 1), 26);
                exit when v_digit < v_threshold;
                v_weight := v_weight * (36 - v_threshold);
                v_steps := v_steps + 36;
            end loop;
            v_delta := case v_old_index when 0 then (v_index - v_old_index) / 700 else (v_index - v_old_index) / 2 end;
            v_delta := v_delta + v_delta / (cardinality(v_output) + 1);
            v_steps := 0;
            while v_delta > 455 loop
                v_delta := v_delta / 35;
                v_steps := v_steps + 36;
            end loop;
            v_bias := v_steps + 36 * v_delta / (v_delta + 38);
            v_code := v_code + v_index / (cardinality(v_output) + 1);
            v_index := v_index % (cardinality(v_output) + 1);
            if v_code > 1114111 or v_code between 55296 and 57343 then
                return p_host;
            end if;
            v_output := v_output[:v_index] || v_code || v_output[v_index + 1:];
            v_index := v_index + 1;
        end loop;
        v_labels[i] := private.moderation_fold((
            select string_agg(chr(o.code), '' order by o.place) from unnest(v_output) with ordinality as o (code, place)
        ));
    end loop;
    return array_to_string(v_labels, '.');
end;
$$;
comment on function private.moderation_punycode(text) is
'A host name with its xn-- labels (RFC 3492) as folded letters, so that look-alikes of another name are that name.';
revoke all on function private.moderation_punycode(text) from public, anon, authenticated, service_role;

create function private.moderation_hosts(p_folded text, out hosts text[], out is_links boolean[], out spans integer[])
language plpgsql
stable
set search_path = ''
as $$
declare
    c_dot constant text := (select l.pattern from private.moderation_lexicon as l where l.name = 'dot');
    c_host constant text := (select l.pattern from private.moderation_lexicon as l where l.name = 'host');
    c_bare constant text := (select l.pattern from private.moderation_lexicon as l where l.name = 'bare_host');
    c_path constant text := (select l.pattern from private.moderation_lexicon as l where l.name = 'path_host');
    c_no_host constant text := (select l.pattern from private.moderation_lexicon as l where l.name = 'no_host');
    c_scheme constant text := (select l.pattern from private.moderation_lexicon as l where l.name = 'scheme');
    c_scheme_before constant text := (select l.pattern from private.moderation_lexicon as l where l.name = 'scheme_before');
    v_found constant integer[] := private.moderation_spans(p_folded, c_host);
    v_hit text;
    v_host text;
    v_gap text;
    v_next text;
    v_last integer := 1;
    v_had_scheme boolean := false;
    v_is_link boolean;
begin
    hosts := '{}';
    is_links := '{}';
    spans := '{}';
    for i in 1..cardinality(v_found) by 2 loop
        v_hit := substr(p_folded, v_found[i], v_found[i + 1] - v_found[i]);
        v_gap := substr(p_folded, v_last, v_found[i] - v_last);
        v_next := substr(p_folded, v_found[i + 1], 2);
        v_last := v_found[i + 1];
        v_host := btrim(regexp_replace(v_hit, c_dot, '.', 'g'), '-_');
        -- What stands before an @ in an address is a name, and the host comes after it.
        v_had_scheme := v_gap ~ c_scheme_before or (v_had_scheme and v_gap ~ '^[^/\n ]*@$');
        v_is_link := not v_next ~ '^@' and (
            v_had_scheme
            or v_host ~ '^www\.'
            or (
                v_gap !~ '@ ?$' and v_host !~ c_no_host
                and (
                    (v_host ~ c_bare and not (v_host ~ '\.net$' and v_hit !~ '\.net$'))
                    or (v_next ~ '^[/?][a-z0-9@+]' and v_host ~ c_path)
                )
            )
        );
        v_host := private.moderation_punycode(regexp_replace(v_host, '^www\.', ''));
        hosts := hosts || v_host;
        is_links := is_links || v_is_link;
        spans := spans || v_found[i] || v_found[i + 1];
    end loop;
    -- An address without a dotted name: a number, localhost.
    if true <> all(is_links) and p_folded ~ c_scheme then
        hosts := hosts || ''::text;
        is_links := is_links || true;
        spans := spans || private.moderation_spans(p_folded, c_scheme);
    end if;
end;
$$;
comment on function private.moderation_hosts(text) is
'The host names in a folded text, dots written out included; whether each is meant as a link; where they stand.';
revoke all on function private.moderation_hosts(text) from public, anon, authenticated, service_role;

create function private.moderation_is_phone(p_run text, p_before text, p_after text)
returns boolean
language plpgsql
stable
set search_path = ''
set enable_seqscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
as $$
declare
    v_run constant text := translate(p_run, 'oli', '011');
    v_groups constant text := btrim(regexp_replace(v_run, '[^0-9]+', ' ', 'g'));
    v_digits constant text := replace(v_groups, ' ', '');
    v_count constant integer := char_length(v_digits);
    v_is_sequence constant boolean := strpos('01234567890123456789', v_digits) + strpos('98765432109876543210', v_digits) > 0;
    v_is_alone constant boolean := p_before !~ '[a-z0-9]' and p_after !~ '[a-z0-9]';
    v_is_called boolean := false;
    v_words text[];
    v_kinds text[];
    v_line text;
    c jsonb;
begin
    if
        v_count not between 7 and 15
        or char_length(p_run) - char_length(translate(p_run, 'oli', '')) > v_count / 2
        or p_after ~ '^(?:[a-z0-9]|[.,:][0-9])'
        or p_before ~ '[0-9][.,:]$'
        or (p_before ~ '[a-z0-9]-?$' and p_before !~ '(?:tel|phone|fon|call|mobile|whatsapp|nr|no|number|cell)-?$')
        or (v_is_sequence and (v_count <> 10 or v_groups like '% % %'))
        or translate(v_digits, left(v_digits, 1), '') = ''
    then
        return false;
    end if;
    if p_run ~ '^[(]?[+]' then
        return v_count >= 8;
    end if;
    c := (select jsonb_object_agg(l.name, l.pattern) from private.moderation_lexicon as l where l.place between 84 and 99);
    if
        p_after ~ '^ ?[€£¥¤$%]' or p_before ~ (c ->> 'money_before') or v_run ~ (c ->> 'no_phone')
        or exists (
            select 1
            from private.moderation_words as w
            where w.kind = 'unit' and w.word = substring(p_after from '^ ?([^\n -/:-`{-~€£¥•¤]+)') collate "C"
        )
        or (p_before ~ (c ->> 'identified_anywhere') and p_before !~ '(?:phone|tel|cell|mobile|number|no|nr)[.: ]?#[ :.]*$')
    then
        return false;
    end if;
    -- The words before, from the nearest on: what the number is of, if they say so.
    v_line := regexp_replace(p_before, '^.*[\n•]', '');
    v_words := regexp_split_to_array(v_line, '[\n -/:-`{-~€£¥•¤]+');
    for i in reverse cardinality(v_words)..greatest(1, cardinality(v_words) - 7) loop
        continue when v_words[i] = '';
        v_kinds := array(select w.kind from private.moderation_words as w where w.word = v_words[i] collate "C");
        if 'call' = any(v_kinds) then
            v_is_called := true;
        elsif 'identifier' = any(v_kinds) and not v_is_called then
            return false;
        end if;
        exit when v_is_called;
        -- Beyond other words only a call counts, not the number of something.
        if not 'between' = any(v_kinds) then
            v_is_called := exists (
                select 1
                from private.moderation_words as w
                where w.kind = 'call' and w.word = any(v_words[greatest(1, i - 5):i])
            );
            exit;
        end if;
    end loop;
    -- A long one may be said to be one afterwards: "2125550187, call me".
    v_is_called := v_is_called or v_line ~ (c ->> 'call_anywhere') or (v_count >= 10 and v_digits !~ '00000$' and exists (
        select 1
        from private.moderation_words as w
        where w.kind = 'call' and w.word = any((regexp_split_to_array(p_after, '[\n -/:-`{-~€£¥•¤]+'))[:3] collate "C")
    ));
    if v_run ~ (c ->> 'thousands') and not v_is_called then
        return false;
    end if;
    if v_is_called or v_is_sequence then
        return v_is_called or (v_is_alone and v_digits ~ '^[06-9]');
    end if;
    return (v_groups ~ (c ->> 'national') and v_count between 9 and case when v_groups ~ '^00' then 15 else 12 end)
        or (v_groups ~ (c ->> 'shaped') and (v_groups <> v_digits or v_digits ~ '^[78]9|^1[3-9]') and v_count >= 9)
        -- Groups of two are a row of numbers; the largest numbers of 32 bits are what they are.
        or (
            v_is_alone and v_digits ~ (c ->> 'alone') and v_groups ~ '[0-9]{3}|^[0-9](?: [0-9])+$'
            and v_digits <> all(array['2147483647', '2147483648', '4294967295', '4294967296'])
        );
end;
$$;
comment on function private.moderation_is_phone(text, text, text) is
'Whether a run of digits is a telephone number, by its shape and by what stands up to 50 characters before and 20 after it; dates, '
'prices, counts and numbers of orders are not.';
revoke all on function private.moderation_is_phone(text, text, text) from public, anon, authenticated, service_role;

create function private.moderation_spoken_numbers(p_folded text)
returns integer[]
language plpgsql
stable
set search_path = ''
set enable_seqscan = 'off'
set enable_hashjoin = 'off'
set enable_mergejoin = 'off'
as $$
declare
    v_tokens constant integer[] := private.moderation_spans(p_folded, '[^\n -/:-`{-~€£¥•¤]+');
    v_spans integer[] := '{}';
    v_token text;
    v_is_word boolean;
    v_words integer := 0;
    v_digits integer := 0;
    v_start integer;
    v_finish integer := 0;
begin
    for i in 1..cardinality(v_tokens) + 1 by 2 loop
        v_token := case when i < cardinality(v_tokens) then substr(p_folded, v_tokens[i], v_tokens[i + 1] - v_tokens[i]) else '' end;
        v_is_word := exists (select 1 from private.moderation_words as w where w.word = v_token collate "C" and w.kind = 'digit');
        if (v_is_word or v_token ~ '^[0-9]{1,8}$') and (v_words + v_digits = 0 or v_tokens[i] - v_finish <= 3) then
            if v_words + v_digits = 0 then
                v_start := v_tokens[i];
            end if;
            v_words := v_words + v_is_word::integer;
            v_digits := v_digits + case when v_is_word then 0 else char_length(v_token) end;
            v_finish := v_tokens[i + 1];
            continue;
        end if;
        -- Seven digits of which three are words, and not somebody counting.
        if
            v_words >= 3 and v_words + v_digits between 7 and 16
            and substr(p_folded, v_start, v_finish - v_start)
            !~ (select l.pattern from private.moderation_lexicon as l where l.name = 'counting')
        then
            v_spans := v_spans || v_start || v_finish;
        end if;
        v_words := v_is_word::integer;
        v_digits := case when v_token ~ '^[0-9]{1,8}$' then char_length(v_token) else 0 end;
        if v_words + v_digits > 0 then
            v_start := v_tokens[i];
            v_finish := v_tokens[i + 1];
        end if;
    end loop;
    return v_spans;
end;
$$;
comment on function private.moderation_spoken_numbers(text) is
'Where a folded text spells seven or more digits, at least three of them as words.';
revoke all on function private.moderation_spoken_numbers(text) from public, anon, authenticated, service_role;

create function private.moderation_handles(p_folded text, p_has_messenger boolean)
returns integer[]
language plpgsql
stable
set search_path = ''
as $$
declare
    c constant jsonb := (
        select jsonb_object_agg(l.name, l.pattern) from private.moderation_lexicon as l where l.place between 110 and 199
    );
    v_kind text;
    v_found integer[];
    v_spans integer[] := '{}';
    v_hit text;
    v_name text;
    v_after text;
    v_start integer;
begin
    -- Without the name of a messenger only an address can lead to one. Few expressions for each text: Postgres keeps 32 compiled.
    foreach v_kind in array
        case when p_has_messenger then array['named_handle', 'odd_named_handle', 'asked_handle', 'handle_on', 'invited'] else '{}' end
        || case when p_has_messenger and strpos(p_folded, '@') > 0 then array['at_handle'] else '{}' end
        || case when p_has_messenger and strpos(p_folded, '#') > 0 then array['discord_tag'] else '{}' end
        || case when strpos(p_folded, '/') > 0 or strpos(p_folded, '?') > 0 then array['invitation'] else '{}' end
    loop
        v_found := private.moderation_spans(p_folded, c ->> v_kind);
        for i in 1..cardinality(v_found) by 2 loop
            v_hit := substr(p_folded, v_found[i], v_found[i + 1] - v_found[i]);
            v_after := substr(p_folded, v_found[i + 1], 20);
            if v_kind = 'invitation' then
                continue when (v_found[i] > 1 and substr(p_folded, v_found[i] - 1, 1) ~ '[a-z0-9.@-]') or v_hit ~ (c ->> 'no_invitation');
                v_spans := v_spans || v_found[i] || v_found[i + 1];
                continue;
            end if;
            -- Only the name itself is a detail; the words around it stay.
            if v_kind = 'handle_on' or (v_kind = 'at_handle' and v_hit ~ '^@') then
                v_name := rtrim(substring(v_hit from '^@?[a-z0-9._-]+'), '._-');
                v_start := v_found[i];
            else
                v_hit := rtrim(v_hit, E' \n.,;:!?)"''/-_');
                v_name := case v_kind
                    when 'discord_tag' then substring(v_hit from '[a-z0-9._]+ ?# ?[0-9]+$')
                    when 'invited' then substring(v_hit from '[^ ]+$')
                    else substring(v_hit from '@? ?[a-z0-9._-]+$')
                end;
                v_name := coalesce(v_name, v_hit);
                v_start := v_found[i] + char_length(v_hit) - char_length(v_name);
            end if;
            continue when v_kind <> 'invited' and exists (
                select 1 from private.moderation_words as w where w.word = ltrim(v_name, '@ ') collate "C" and w.kind = 'plain'
            );
            continue when v_kind = 'named_handle' and v_after ~ (c ->> 'sentence_goes_on') and v_after !~ (c ->> 'sentence_may_go_on');
            continue when v_kind in ('odd_named_handle', 'handle_on') and (
                char_length(v_name) < 5 or v_name ~ (c ->> 'tech_word')
            );
            continue when v_kind = 'handle_on' and substr(p_folded, greatest(1, v_start - 1), 1) ~ '[a-z0-9._-]' and v_start > 1;
            v_spans := v_spans || v_start || v_start + char_length(v_name);
        end loop;
    end loop;
    return v_spans;
end;
$$;
comment on function private.moderation_handles(text, boolean) is
'Where a folded text names somebody on a messenger, links or invites there.';
revoke all on function private.moderation_handles(text, boolean) from public, anon, authenticated, service_role;

create function private.moderation_contacts(p_folded text, p_hints text[])
returns integer[]
language plpgsql
stable
set search_path = ''
as $$
declare
    v_found integer[];
    v_spans integer[] := '{}';
    v_local text;
    v_hit text;
    v_part text;
    v_start integer;
    v_finish integer;
begin
    if strpos(p_folded, '@') > 0 then
        v_spans := private.moderation_spans(p_folded, (select l.pattern from private.moderation_lexicon as l where l.name = 'email'));
    end if;
    -- With signs and dots written out or set apart.
    if
        ('provider' = any(p_hints) and ('at' = any(p_hints) or strpos(p_folded, ' com') > 0 or strpos(p_folded, '@') > 0))
        or ('dot' = any(p_hints) and ('at' = any(p_hints) or strpos(p_folded, '@') > 0))
        or p_folded ~ (select l.pattern from private.moderation_lexicon as l where l.name = 'loose_at')
    then
        v_found := private.moderation_spans(
            p_folded, (select l.pattern from private.moderation_lexicon as l where l.name = 'loose_email')
        );
        v_local := '^' || (select l.pattern from private.moderation_lexicon as l where l.name = 'local');
        for i in 1..cardinality(v_found) by 2 loop
            v_hit := substr(p_folded, v_found[i], v_found[i + 1] - v_found[i]);
            continue when substr(p_folded, v_found[i + 1], 1) ~ '[a-z0-9]' or exists (
                select 1
                from private.moderation_words as w
                where w.kind = 'no_local' and w.word = substring(v_hit from v_local) collate "C"
            );
            v_spans := v_spans || v_found[i] || v_found[i + 1];
        end loop;
    end if;
    if char_length(p_folded) - char_length(translate(p_folded, '0123456789', '')) >= 6 then
        v_found := private.moderation_spans(p_folded, (select l.pattern from private.moderation_lexicon as l where l.name = 'number'));
        for i in 1..cardinality(v_found) by 2 loop
            v_start := v_found[i];
            v_finish := v_found[i + 1];
            v_hit := substr(p_folded, v_start, v_finish - v_start);
            -- An o or l that begins the next word is no digit.
            if substr(p_folded, v_finish, 1) ~ '[a-z]' and v_hit ~ '[ol]$' then
                v_hit := rtrim(v_hit, 'ol ().-/_*~');
                v_finish := v_start + char_length(v_hit);
            end if;
            v_part := substring(v_hit from (select l.pattern from private.moderation_lexicon as l where l.name = 'dates_before'));
            if v_part is not null then
                v_start := v_start + char_length(v_part);
                v_hit := substr(p_folded, v_start, v_finish - v_start);
            end if;
            v_part := substring(v_hit from (select l.pattern from private.moderation_lexicon as l where l.name = 'dates_after'));
            if v_part is not null then
                v_finish := v_finish - char_length(v_part);
                v_hit := substr(p_folded, v_start, v_finish - v_start);
            end if;
            if private.moderation_is_phone(
                v_hit, substr(p_folded, greatest(1, v_start - 50), v_start - greatest(1, v_start - 50)), substr(p_folded, v_finish, 20)
            ) then
                v_spans := v_spans || v_start || v_finish;
            end if;
        end loop;
    end if;
    if cardinality(array_positions(p_hints, 'digit')) >= 3 then
        v_spans := v_spans || private.moderation_spoken_numbers(p_folded);
    end if;
    if 'cjk_number' = any(p_hints) then
        v_found := private.moderation_spans(
            p_folded, (select l.pattern from private.moderation_lexicon as l where l.name = 'cjk_number')
        );
        for i in 1..cardinality(v_found) by 2 loop
            v_hit := substr(p_folded, v_found[i], v_found[i + 1] - v_found[i]);
            if v_hit !~ (select l.pattern from private.moderation_lexicon as l where l.name = 'counting') then
                v_spans := v_spans || v_found[i] || v_found[i + 1];
            end if;
        end loop;
    end if;
    if 'messenger' = any(p_hints) or strpos(p_folded, '/') > 0 or strpos(p_folded, 'skype:') > 0 then
        v_spans := v_spans || private.moderation_handles(p_folded, 'messenger' = any(p_hints));
    end if;
    return v_spans;
end;
$$;
comment on function private.moderation_contacts(text, text[]) is
'Where a folded text has contact details: first and one past the last place of each, in any order, perhaps overlapping. p_hints: the '
'kinds of its words, from private.moderation_scan.';
revoke all on function private.moderation_contacts(text, text[]) from public, anon, authenticated, service_role;

create function private.moderation_host_matches(p_rule private.moderation_rules, p_hosts text[], p_is_links boolean[])
returns boolean[]
language plpgsql
stable
set search_path = ''
as $$
declare
    v_domains constant text[] := array(select private.moderation_punycode(d.domain) from unnest(p_rule.domains) as d (domain));
begin
    return array(
        select case p_rule.settings ->> 'mode' when 'deny' then t.is_named else t.is_link and not t.is_named end
        from (
            select
                h.is_link,
                h.place,
                exists (
                    select 1
                    from unnest(v_domains) as d (domain)
                    where right('.' || h.host, char_length(d.domain) + 1) = '.' || d.domain
                ) as is_named
            from unnest(p_hosts, p_is_links) with ordinality as h (host, is_link, place)
        ) as t
        order by t.place
    );
end;
$$;
comment on function private.moderation_host_matches(private.moderation_rules, text[], boolean[]) is
'Which of the host names a link rule is about: those it denies, or links to others than it allows.';
revoke all on function private.moderation_host_matches(private.moderation_rules, text[], boolean[])
from public, anon, authenticated, service_role;

create function private.moderation_word_spans(
    p_folded text, p_rule private.moderation_rules, p_host_spans integer[], p_is_meant boolean[]
)
returns integer[]
language plpgsql
stable
set search_path = ''
as $$
declare
    v_words constant integer[] := private.moderation_spans(p_folded, '[^ \n]+');
    v_spans integer[] := '{}';
    v_host integer := 1;
begin
    for i in 1..cardinality(v_words) by 2 loop
        if p_rule.kind = 'term' then
            if
                (private.moderation_scan(substr(p_folded, v_words[i], v_words[i + 1] - v_words[i]), p_rule.id)).caught <> '{}'
            then
                v_spans := v_spans || v_words[i] || v_words[i + 1];
            end if;
        else
            -- A host name may stretch over several words: each of them goes.
            while v_host <= cardinality(p_is_meant) and p_host_spans[2 * v_host] <= v_words[i] loop
                v_host := v_host + 1;
            end loop;
            for j in v_host..cardinality(p_is_meant) loop
                exit when p_host_spans[2 * j - 1] >= v_words[i + 1];
                if p_is_meant[j] and p_host_spans[2 * j] > v_words[i] then
                    v_spans := v_spans || v_words[i] || v_words[i + 1];
                end if;
            end loop;
        end if;
    end loop;
    return v_spans;
end;
$$;
comment on function private.moderation_word_spans(text, private.moderation_rules, integer[], boolean[]) is
'The words of a folded text in which a term rule finds a term, or a link rule a host name it is about.';
revoke all on function private.moderation_word_spans(text, private.moderation_rules, integer[], boolean[])
from public, anon, authenticated, service_role;

create function private.moderation_mask(p_text text, p_spans integer[])
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
    v_starts integer[] := '{}';
    v_finishes integer[] := '{}';
    v_count integer := 0;
    v_masked text := '';
    v_at integer := 1;
    v_span integer := 1;
    v_in integer := 0;
    v_is_in boolean := false;
    r record;
begin
    -- Overlapping and touching spans are one.
    for r in
        select
            p_spans[i] as start,
            p_spans[i + 1] as finish
        from generate_series(1, cardinality(p_spans), 2) as i
        where p_spans[i] < p_spans[i + 1]
        order by 1, 2
    loop
        if v_count > 0 and r.start <= v_finishes[v_count] then
            v_finishes[v_count] := greatest(v_finishes[v_count], r.finish);
        else
            v_count := v_count + 1;
            v_starts[v_count] := r.start;
            v_finishes[v_count] := r.finish;
        end if;
    end loop;
    if octet_length(p_text) = char_length(p_text) then
        for i in 1..v_count loop
            v_masked := v_masked || substr(p_text, v_at, v_starts[i] - v_at) || '•••';
            v_at := v_finishes[i];
        end loop;
        return v_masked || substr(p_text, v_at);
    end if;
    -- Spans count in the folded text, where a character may have become none or several.
    for r in
        select
            t.letter,
            char_length(coalesce(
                (select l.fold from private.moderation_letters as l where l.letter = t.letter collate "C"), t.letter
            )) as size
        from unnest(string_to_array(p_text, null)) with ordinality as t (letter, place)
        order by t.place
    loop
        if r.size > 0 then
            while v_span <= v_count and v_finishes[v_span] <= v_at loop
                v_span := v_span + 1;
            end loop;
            v_is_in := v_span <= v_count and v_starts[v_span] < v_at + r.size;
        end if;
        if not v_is_in then
            v_masked := v_masked || r.letter;
        elsif v_in < v_span then
            v_masked := v_masked || '•••';
            v_in := v_span;
        end if;
        v_at := v_at + r.size;
    end loop;
    return v_masked;
end;
$$;
comment on function private.moderation_mask(text, integer[]) is
'The text with ••• in place of each span; the spans are places in its folded form. Accents go with their letter, all else stays.';
revoke all on function private.moderation_mask(text, integer[]) from public, anon, authenticated, service_role;

create function private.judge_with(p_text text, p_folded text, p_contact_allowed boolean, p_rule_id uuid)
returns private.judgement
language plpgsql
stable
set search_path = ''
as $$
declare
    c_order constant text[] := array['allow', 'warn', 'mask', 'hold', 'reject'];
    v_state private.moderation_state;
    v_rule private.moderation_rules;
    v_caught uuid[] := '{}';
    v_pattern text;
    v_hints text[];
    v_contacts integer[] := '{}';
    v_hosts text[] := '{}';
    v_is_links boolean[];
    v_host_spans integer[];
    v_is_meant boolean[];
    v_found integer[];
    v_spans integer[] := '{}';
    v private.judgement := row('allow', null, null, '[]'::jsonb, null);
begin
    select s.* into v_state from private.moderation_state as s;
    if p_rule_id is not null then
        select r.* into v_rule from private.moderation_rules as r where r.id = p_rule_id;
        v_state.has_terms := v_rule.kind = 'term';
        v_state.has_contact := v_rule.kind = 'contact';
        v_state.has_link := v_rule.kind = 'link';
        v_state.patterns := case when v_rule.kind = 'pattern'
            then array[private.moderation_fold(private.normalize_text(v_rule.pattern))] else '{}' end;
    end if;

    if v_state.has_terms or v_state.has_contact then
        select s.caught, s.hints into v_caught, v_hints from private.moderation_scan(p_folded, p_rule_id) as s;
    end if;
    foreach v_pattern in array v_state.patterns loop
        if p_folded ~ v_pattern then
            v_caught := v_caught || array(
                select r.id
                from private.moderation_rules as r
                where
                    r.kind = 'pattern' and case when p_rule_id is null then r.is_enabled else r.id = p_rule_id end
                    and p_folded ~ private.moderation_fold(private.normalize_text(r.pattern))
            );
        end if;
    end loop;
    if v_state.has_contact and not p_contact_allowed then
        v_contacts := private.moderation_contacts(p_folded, v_hints);
        if v_contacts <> '{}' then
            v_caught := v_caught || array(
                select r.id
                from private.moderation_rules as r
                where r.kind = 'contact' and case when p_rule_id is null then r.is_enabled else r.id = p_rule_id end
            );
        end if;
    end if;
    if v_state.has_link and p_folded ~ (select l.pattern from private.moderation_lexicon as l where l.name = 'hosts_hint') then
        select h.hosts, h.is_links, h.spans into v_hosts, v_is_links, v_host_spans from private.moderation_hosts(p_folded) as h;
        if v_hosts <> '{}' then
            v_caught := v_caught || array(
                select r.id
                from private.moderation_rules as r
                where
                    r.kind = 'link' and case when p_rule_id is null then r.is_enabled else r.id = p_rule_id end
                    and true = any(private.moderation_host_matches(r, v_hosts, v_is_links))
            );
        end if;
    end if;
    if v_caught = '{}' then
        return v;
    end if;

    for v_rule in
        select r.*
        from private.moderation_rules as r
        where r.id = any(v_caught)
        order by array_position(c_order, r.action) desc, r.name collate "C"
    loop
        if v.action = 'allow' then
            v.action := v_rule.action;
            v.label := v_rule.label;
            v.explanation := v_rule.explanation;
        end if;
        v.rules := v.rules || jsonb_build_object(
            'id', v_rule.id, 'name', v_rule.name, 'version', v_rule.version, 'kind', v_rule.kind, 'action', v_rule.action
        );
        continue when v_rule.action <> 'mask';
        v_found := '{}';
        if v_rule.kind = 'contact' then
            v_found := v_contacts;
        elsif v_rule.kind = 'pattern' then
            v_found := private.moderation_spans(
                p_folded, private.moderation_fold(private.normalize_text(v_rule.pattern))
            );
        else
            -- Whole words: the links, or those a term is found in. Where it takes several to make it, the whole text goes.
            if v_rule.kind = 'link' then
                v_is_meant := private.moderation_host_matches(v_rule, v_hosts, v_is_links);
            end if;
            v_found := private.moderation_word_spans(p_folded, v_rule, v_host_spans, v_is_meant);
        end if;
        v_spans := v_spans || case when v_found = '{}' then array[1, char_length(p_folded) + 1] else v_found end;
    end loop;
    if v_spans <> '{}' then
        v.masked_body := private.moderation_mask(p_text, v_spans);
    end if;
    return v;
end;
$$;
comment on function private.judge_with(text, text, boolean, uuid) is
'judge_text by all enabled rules, or by one rule, enabled or not.';
revoke all on function private.judge_with(text, text, boolean, uuid) from public, anon, authenticated, service_role;

create function private.judge_text(p_text text, p_folded text, p_contact_allowed boolean)
returns private.judgement
language plpgsql
stable
set search_path = ''
set enable_bitmapscan = 'off'
as $$
declare
    c_n constant text := '[\n -/:-`{-~€£¥•¤]+';
    v_words constant text[] := regexp_split_to_array(p_folded, c_n);
    v_plain_words text[];
    v_more_words text[];
    v_text text := p_folded;
    v_joined text;
    v_is_ordinary boolean;
begin
    -- Most texts are ordinary: no word of theirs is known, and private.moderation_forms would find no others. One statement tells,
    -- and errs on the side of asking all rules.
    if strpos(p_folded, '''') > 0 then
        v_text := (
            select regexp_replace(regexp_replace(p_folded, c.pattern, '\1', 'g'), e.pattern, '\1', 'g')
            from private.moderation_lexicon as c
            cross join private.moderation_lexicon as e
            where c.name = 'contraction' and e.name = 'elision'
        );
        v_plain_words := regexp_split_to_array(v_text, c_n);
    end if;
    -- Words that signs part, also as one word.
    if v_text ~ '[^\n -/:-`{-~€£¥•¤][!-/:-`{-~€£¥•¤]+[^\n -/:-`{-~€£¥•¤]' then
        v_joined := regexp_replace(v_text, '[!-/:-`{-~€£¥•¤]+', '', 'g');
        v_text := v_text || E'\n' || v_joined;
        v_more_words := regexp_split_to_array(v_joined, c_n);
    end if;
    select
        v_text !~ s.odd
        and not p_folded ~ any(s.suspects)
        -- Letters of terms that may stand anywhere (private.keep_moderation_rule), of numbers and of names of messengers.
        and (
            p_folded !~ '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3007\u3040-\ud7a3\U00020000-\U0003ffff]'
            or not (
                p_folded ~ s.messenger_anywhere or p_folded ~ s.cjk_number or array_to_string(v_words, '') like any(s.anywhere)
            )
        )
        and coalesce(v_joined, v_text) !~ s.stretched
        and coalesce((
            select
                not bool_or(w.kind in ('term', 'messenger') or (w.kind = 'short' and w.word = any(coalesce(v_plain_words, v_words))))
                and not (bool_or(w.kind in ('provider', 'dot')) and (bool_or(w.kind = 'at') or strpos(p_folded, ' com') > 0))
                and coalesce(sum(cardinality(array_positions(v_words, w.word))) filter (where w.kind = 'digit'), 0) < 3
            from private.moderation_words as w
            where
                w.kind in ('messenger', 'provider', 'at', 'dot', 'digit', 'short', 'term')
                and w.word = any(v_words || v_more_words || case
                    when p_folded ~ '[ء-ي가-힣]' then regexp_split_to_array(
                        regexp_replace(v_text, s.articles, '\1', 'g') || ' ' || regexp_replace(v_text, s.particles, '\1', 'g'), c_n
                    )
                end)
        ), true)
    into v_is_ordinary
    from private.moderation_state as s;
    if v_is_ordinary then
        return row('allow', null, null, '[]'::jsonb, null)::private.judgement;
    end if;
    return private.judge_with(p_text, p_folded, p_contact_allowed, null);
end;
$$;
comment on function private.judge_text(text, text, boolean) is
'The verdict of all enabled rules on a text as private.normalize_text left it, and on the same folded. Rules of kind contact are skipped '
'when contact is allowed.';
revoke all on function private.judge_text(text, text, boolean) from public, anon, authenticated, service_role;

create function private.has_link(p_folded text)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return
        p_folded ~ (select l.pattern from private.moderation_lexicon as l where l.name = 'hosts_hint')
        and (select true = any(h.is_links) from private.moderation_hosts(p_folded) as h);
end;
$$;
comment on function private.has_link(text) is 'Whether a folded text has a web address, written out or not.';
revoke all on function private.has_link(text) from public, anon, authenticated, service_role;

create function private.text_digest(p_folded text)
returns bigint
language plpgsql
stable
set search_path = ''
as $$
declare
    -- Letters alone: a number or a sign more does not make it another text.
    v_letters constant text := regexp_replace(p_folded, '[\n -@[-`{-~€£¥•¤]+', '', 'g');
begin
    if char_length(v_letters) < 12 then
        return null;
    end if;
    return ('x' || encode(substring(sha256(convert_to(v_letters, 'UTF8')) from 1 for 8), 'hex'))::bit(64)::bigint;
end;
$$;
comment on function private.text_digest(text) is
'64 bits of the SHA-256 of the letters of a folded text, to recognise repetitions; null below twelve letters.';
revoke all on function private.text_digest(text) from public, anon, authenticated, service_role;

create function private.recent_with(p_recent bigint[], p_digest bigint, p_conversation_id uuid, p_now timestamptz)
returns bigint[]
language plpgsql
stable
set search_path = ''
as $$
declare
    c_entries_max constant integer := 32;
    v_conversation constant bigint := hashtextextended(p_conversation_id::text, 20261122);
    v_entry constant bigint[] := array[coalesce(p_digest, 0), v_conversation, floor(extract(epoch from p_now))::bigint];
    v_recent bigint[] := coalesce(p_recent, '{}');
    v_drop integer := 1;
begin
    -- The same to the same conversation again is one entry.
    if v_entry[:2] <@ v_recent then
        for i in 1..cardinality(v_recent) by 3 loop
            if v_recent[i] = v_entry[1] and v_recent[i + 1] = v_conversation then
                return v_recent[:i - 1] || v_recent[i + 3:] || v_entry;
            end if;
        end loop;
    end if;
    v_recent := v_recent || v_entry;
    if cardinality(v_recent) > 3 * c_entries_max then
        -- The oldest entry of a conversation that has a newer one goes first: chatting in one does not hide the others.
        <<entries>>
        for i in 1..cardinality(v_recent) - 3 by 3 loop
            for j in i + 3..cardinality(v_recent) by 3 loop
                if v_recent[j + 1] = v_recent[i + 1] then
                    v_drop := i;
                    exit entries;
                end if;
            end loop;
        end loop;
        v_recent := v_recent[:v_drop - 1] || v_recent[v_drop + 3:];
    end if;
    return v_recent;
end;
$$;
comment on function private.recent_with(bigint[], bigint, uuid, timestamptz) is
'Appends (digest or 0, hash of the conversation, seconds) and keeps at most 32 such entries, the newest of each conversation before all.';
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
declare
    v_conversation constant bigint := hashtextextended(p_conversation_id::text, 20261122);
    -- Of the three numbers of an entry one is the conversation.
    v_others_max constant integer :=
        coalesce(cardinality(array_remove(p_recent, v_conversation)) - cardinality(p_recent) / 3 * 2, 0);
    v_recent bigint[];
    v_now_s bigint;
    v_since_s bigint;
    v_others bigint[];
    v_rule private.moderation_rules;
    v_is_caught boolean;
    v private.judgement;
begin
    -- No rule asks about who writes to few, and to nobody for the first time.
    if
        not p_is_first_contact
        and (v_others_max = 0 or v_others_max + 1 < (select s.conversations_min from private.moderation_state as s))
    then
        return row('allow', null, null, '[]'::jsonb, null)::private.judgement;
    end if;
    v := row('allow', null, null, '[]'::jsonb, null);
    v_recent := coalesce(p_recent, '{}');
    v_now_s := floor(extract(epoch from p_now));
    for v_rule in
        select r.*
        from private.moderation_rules as r
        where
            r.is_enabled
            and (
                (r.kind = 'repetition' and p_digest is not null)
                or r.kind = 'flood'
                or (r.kind = 'first_contact' and p_is_first_contact)
            )
        order by array_position(array['allow', 'warn', 'mask', 'hold', 'reject'], r.action) desc, r.name collate "C"
    loop
        if v_rule.kind = 'first_contact' then
            v_is_caught := (p_has_link or not coalesce((v_rule.settings ->> 'onlyWithLink')::boolean, false)) and exists (
                select 1
                from auth.users as u
                where u.id = p_me and u.created_at > p_now - make_interval(secs => (v_rule.settings ->> 'accountAgeS')::integer)
            );
        else
            -- This message goes to one conversation more than those it was sent to before.
            v_since_s := v_now_s - (v_rule.settings ->> 'windowS')::bigint;
            v_others := '{}';
            for i in 1..cardinality(v_recent) by 3 loop
                if
                    v_recent[i + 2] > v_since_s
                    and (v_rule.kind = 'flood' or v_recent[i] = p_digest)
                    and v_recent[i + 1] is distinct from v_conversation
                    and v_recent[i + 1] <> all(v_others)
                then
                    v_others := v_others || v_recent[i + 1];
                end if;
            end loop;
            v_is_caught := cardinality(v_others) + 1 >= (v_rule.settings ->> 'conversations')::integer;
        end if;
        continue when not v_is_caught;
        if v.action = 'allow' then
            v.action := v_rule.action;
            v.label := v_rule.label;
            v.explanation := v_rule.explanation;
        end if;
        v.rules := v.rules || jsonb_build_object(
            'id', v_rule.id, 'name', v_rule.name, 'version', v_rule.version, 'kind', v_rule.kind, 'action', v_rule.action
        );
    end loop;
    return v;
end;
$$;
comment on function private.judge_behaviour(uuid, bigint[], bigint, uuid, boolean, boolean, timestamptz) is
'The verdict of the rules on conduct: p_me is about to send a text with this digest to a conversation (null: a new one); p_recent as '
'private.recent_with left it. Nothing is written.';
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
    return jsonb_build_object(
        'revision', private.moderation_revision(),
        'rules', coalesce((
            select
                jsonb_agg(
                    jsonb_build_object(
                        'id', r.id, 'name', r.name, 'version', r.version, 'kind', r.kind, 'action', r.action, 'label', r.label,
                        'explanation', r.explanation, 'settings', r.settings,
                        'terms', array(
                            select jsonb_build_object('term', t.term, 'isAnywhere', t.is_anywhere)
                            from private.moderation_terms as t
                            where t.rule_id = r.id
                            order by t.term
                        ),
                        'pattern', private.moderation_fold(private.normalize_text(r.pattern)),
                        'domains', array(select private.moderation_punycode(d.domain) from unnest(r.domains) as d (domain))
                    )
                    order by r.name collate "C"
                )
            from private.moderation_rules as r
            where r.is_enabled and r.kind in ('term', 'pattern', 'link', 'contact')
        ), '[]'::jsonb),
        'words', (
            select jsonb_object_agg(t.kind, t.words)
            from (
                select
                    w.kind,
                    array_agg(w.word order by w.word) as words
                from private.moderation_words as w
                where w.kind <> 'term'
                group by w.kind
            ) as t
        ),
        'lexicon', (select jsonb_object_agg(l.name, l.pattern) from private.moderation_lexicon as l),
        'letters', (
            select jsonb_object_agg(t.fold, t.letters)
            from (
                select
                    l.fold,
                    string_agg(l.letter, '' order by l.letter) as letters
                from private.moderation_letters as l
                group by l.fold
            ) as t
        )
    );
end;
$$;
comment on function private.get_moderation_rules() is
'Definer, because rules are private; granted to the service alone. See public.get_moderation_rules.';
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
'For the service alone: {revision, rules, words, lexicon, letters}: the enabled rules on texts with what they need (folded terms, known '
'words, expressions, folded letters), to judge sensitive texts that the database may not see. About 140 kB; ask again when the '
'revision has risen.';
revoke all on function public.get_moderation_rules() from public, anon, authenticated, service_role;
grant execute on function public.get_moderation_rules() to service_role;
