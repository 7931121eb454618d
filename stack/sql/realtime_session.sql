-- Once per connection of the stand-in's Realtime, as supabase_admin: what lives no longer than the connection.
--
-- Who of `viewers` (claims, one JSON object each) may see what `query` selects: their places in the array, from 0.
-- One call for all of them; an error in a policy means no for that one, and the caller rolls the transaction back.
create function pg_temp.audience(query text, viewers jsonb) returns setof int
language plpgsql
as $$
declare
    v_viewer jsonb;
    v_place int := -1;
    v_sees boolean;
begin
    for v_viewer in select jsonb_array_elements(viewers) loop
        v_place := v_place + 1;
        begin
            perform
                set_config('request.jwt.claims', v_viewer::text, true),
                set_config('request.jwt.claim.sub', coalesce(v_viewer ->> 'sub', ''), true),
                set_config('request.jwt.claim.role', v_viewer ->> 'role', true),
                set_config('role', v_viewer ->> 'role', true);
            execute query into v_sees;
        exception when others then
            v_sees := false;
        end;
        perform set_config('role', 'none', true);
        if v_sees then
            return next v_place;
        end if;
    end loop;
end
$$;
