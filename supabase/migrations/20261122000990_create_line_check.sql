-- Purpose:   the rules for texts also hold for names and titles, which everybody in a conversation reads.
-- Consumers: update_profile, create_group, update_conversation; sign-up leaves such a name out.
-- Locks:     none on existing tables. At run time: the person's pace row of refusals, last.
-- Undo:      drop function private.refuse_line(uuid, text, text); drop function private.is_allowed_line(text);
set lock_timeout = '4s';

create function private.is_allowed_line(p_text text)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return p_text is null or (private.judge_text(p_text, private.moderation_fold(p_text), false)).action in ('allow', 'warn');
end;
$$;
comment on function private.is_allowed_line(text) is
'Whether a name or title may stand: it can neither be masked nor wait for a moderator, so whatever is more than a warning is too much.';
revoke all on function private.is_allowed_line(text) from public, anon, authenticated, service_role;

create function private.refuse_line(p_me uuid, p_text text, p_pointer text)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_verdict constant private.judgement := private.judge_text(p_text, private.moderation_fold(p_text), false);
begin
    if v_verdict.action in ('allow', 'warn') then
        return null;
    end if;
    -- As with messages: what is refused is recorded, and cannot be tried without end.
    perform private.take_pace(p_me, 'refused', s.send_count_max, s.send_window_s) from private.settings as s;
    perform private.keep_verdict(p_me, null, null, null, p_text, v_verdict);
    return private.refuse(
        422, 'text_rejected', 'Names and titles hold no contact details, and nothing else that is refused in messages.', p_pointer
    );
end;
$$;
comment on function private.refuse_line(uuid, text, text) is
'Null when a name or title may stand, else the answer to give: PT422 text_rejected, with the verdict kept. Raises PT429 rate_limited.';
revoke all on function private.refuse_line(uuid, text, text) from public, anon, authenticated, service_role;
