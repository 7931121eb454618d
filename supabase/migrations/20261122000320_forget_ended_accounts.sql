-- Purpose:   no profile of an account that ended while the file before was copying, which its end could not see yet.
-- Consumers: every shape with a person in it.
-- Locks:     none that anybody waits for.
-- Undo:      delete from public.profiles;
set lock_timeout = '4s';
set statement_timeout = 0;

delete from public.profiles as p
where not exists (
    select 1 from auth.users as u
    where u.id = p.user_id and u.deleted_at is null
);
