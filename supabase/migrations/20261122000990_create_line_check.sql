-- Purpose:   the rules for texts also hold for names and titles, which everybody in a conversation reads.
-- Consumers: update_profile, create_group, update_conversation; sign-up leaves such a name out.
-- Locks:     none.
-- Undo:      drop function private.require_allowed_line(text, text); drop function private.is_allowed_line(text);
set lock_timeout = '4s';

create function private.is_allowed_line(p_text text)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
    return p_text is null or (private.judge_text(p_text, false)).action in ('allow', 'warn');
end;
$$;
comment on function private.is_allowed_line(text) is
'Whether a name or title may stand: it can neither be masked nor wait for a moderator, so whatever is more than a warning is too much.';
revoke all on function private.is_allowed_line(text) from public, anon, authenticated, service_role;

create function private.require_allowed_line(p_text text, p_pointer text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
    if not private.is_allowed_line(p_text) then
        raise sqlstate 'PT422' using
            message = 'text_rejected', detail = 'Names and titles hold no contact details, and nothing else that is refused in messages.',
            hint = p_pointer;
    end if;
end;
$$;
comment on function private.require_allowed_line(text, text) is 'Raises PT422 text_rejected unless is_allowed_line.';
revoke all on function private.require_allowed_line(text, text) from public, anon, authenticated, service_role;
