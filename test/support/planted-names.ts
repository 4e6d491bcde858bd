/**
 * Plants, in the schema `public` of a database, a function, an operator and a type of the name and arguments of each one of Postgres's
 * own. They raise an error when they are run. Whoever has `public` before pg_catalog in the search_path, and names no schema, runs them.
 */
import { asAdmin } from './databases.js'

/** In the messages of the errors that they raise. */
export const PLANTED = 'planted'

/** @param url of a role that may CREATE in public */
export function plantNames(url: string): Promise<void> {
  return asAdmin(url, 'set search_path = pg_catalog', FUNCTIONS, OPERATORS, AGGREGATES, RELATIONS, TYPES)
}

const isOrdinary = (type: string) =>
  `exists (select from pg_type t where t.oid = ${type} and t.typtype <> 'p')`

/** Polymorphic arguments are replaced by those that the library uses: a function that takes them exactly is preferred. */
const FUNCTIONS = `do $$
  declare f record;
  begin
    for f in select p.oid, p.proname, pg_get_function_identity_arguments(p.oid) as arguments, format_type(p.prorettype, null) as result
      from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and not p.proretset
        and (${isOrdinary('p.prorettype')} or p.prorettype = 'void'::regtype)
        and not exists (select from unnest(p.proargtypes::oid[]) a(type) where not ${isOrdinary('a.type')})
        and p.proallargtypes is null
    loop
      execute format('create function public.%I(%s) returns %s language plpgsql as %L',
        f.proname, f.arguments, f.result, format('begin raise exception using message = %L; end', '${PLANTED} ' || f.proname));
    end loop;
    for f in select * from (values
      ('json_build_array', 'text', 'json'), ('unnest', 'text[]', 'setof text'), ('unnest', 'int[]', 'setof int'),
      ('unnest', 'timestamptz[]', 'setof timestamptz'), ('unnest', 'xid[]', 'setof xid'), ('concat', 'text, int', 'text'),
      ('concat', 'text, name', 'text'), ('format', 'text, name, name', 'text')) v(proname, arguments, result)
    loop
      execute format('create function public.%I(%s) returns %s language plpgsql as %L',
        f.proname, f.arguments, f.result, format('begin raise exception using message = %L; end', '${PLANTED} ' || f.proname));
    end loop;
  end $$`

const OPERATORS = `do $$
  declare o record;
  begin
    for o in select oprname, oprleft::regtype as l, oprright::regtype as r, oprresult::regtype as result, oid
      from pg_operator where oprnamespace = 'pg_catalog'::regnamespace and oprkind = 'b' and oprname <> '=>'
        and ${isOrdinary('oprleft')} and ${isOrdinary('oprright')} and ${isOrdinary('oprresult')}
    loop
      execute format('create function public.planted_operator_%s(%s, %s) returns %s language plpgsql as %L',
        o.oid, o.l, o.r, o.result, format('begin raise exception using message = %L; end', '${PLANTED} ' || o.oprname));
      execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.planted_operator_%s)',
        o.oprname, o.l, o.r, o.oid);
    end loop;
  end $$`

const AGGREGATES = `do $$
  declare a record;
  begin
    create function public.planted_count(bigint) returns bigint language plpgsql as 'begin raise exception ''${PLANTED} count''; end';
    create aggregate public.count(*) (sfunc = public.planted_count, stype = bigint, initcond = '0');
    create function public.planted_time(timestamptz, timestamptz) returns timestamptz language plpgsql
      as 'begin raise exception ''${PLANTED} min''; end';
    create aggregate public.min(timestamptz) (sfunc = public.planted_time, stype = timestamptz);
    create aggregate public.max(timestamptz) (sfunc = public.planted_time, stype = timestamptz);
    create function public.planted_text(text, text, text) returns text language plpgsql
      as 'begin raise exception ''${PLANTED} string_agg''; end';
    create aggregate public.string_agg(text, text) (sfunc = public.planted_text, stype = text, initcond = '');
  end $$`

/** Empty: a query that names a column of theirs fails. */
const RELATIONS = `do $$
  declare r record;
  begin
    for r in select relname from pg_class where relnamespace = 'pg_catalog'::regnamespace and relkind in ('r', 'v') loop
      execute format('create view public.%I as select 1 as planted', r.relname);
    end loop;
  end $$`

/** A cast to them fails. */
const TYPES = `do $$
  declare t record;
  begin
    for t in select typname from pg_type
      where typnamespace = 'pg_catalog'::regnamespace and typtype = 'b' and typelem = 0 and typname <> 'any'
    loop
      execute format('create type public.%I as enum (''planted'')', t.typname);
    end loop;
  end $$`
