-- Purpose:   a profile for everybody who has an account already.
-- Consumers: every shape with a person in it.
-- Locks:     none that anybody waits for, so it may take a while. In a transaction of its own, because the triggers before it
--            must not keep auth.users locked meanwhile; from those on, new accounts make their own.
-- Undo:      delete from public.profiles;
set lock_timeout = '4s';
-- A hosted project ends statements after two minutes, which is enough for about half a million accounts.
set statement_timeout = 0;

select private.insert_profile(u.id, u.raw_user_meta_data)
from auth.users as u
where u.deleted_at is null;
