-- Partitions of realtime.messages for yesterday to three days ahead (UTC), and none older than 72 hours.
-- Hosted Realtime does this when a client connects and every few hours; the stand-in at every start and every hour.
do $$
declare
    v_day date;
    v_name text;
begin
    for v_day in
        select today + n from (select (now() at time zone 'utc')::date as today) as t, generate_series(-1, 3) as n
    loop
        v_name := to_char(v_day, '"messages_"YYYY_MM_DD');
        if to_regclass('realtime.' || v_name) is null then
            execute format(
                'create table realtime.%I partition of realtime.messages for values from (%L) to (%L)',
                v_name, v_day, v_day + 1
            );
            execute format('alter table realtime.%I owner to supabase_realtime_admin', v_name);
        end if;
    end loop;
    for v_name in
        select c.relname
        from pg_inherits as i
        join pg_class as c on c.oid = i.inhrelid
        where i.inhparent = 'realtime.messages'::regclass
            and c.relname < to_char((now() at time zone 'utc')::date - 3, '"messages_"YYYY_MM_DD')
    loop
        execute format('drop table realtime.%I', v_name);
    end loop;
end
$$;
