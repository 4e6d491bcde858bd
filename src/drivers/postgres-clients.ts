/** Clients of Postgres drivers other than node-postgres, typed structurally and recognised by their methods. */

/** `Sql` of postgres-js. */
export interface PostgresJs {
  readonly options: { readonly max: number }
  unsafe(text: string, values: unknown[]): Promise<Record<string, unknown>[]>
  listen(
    channel: string,
    onNotify: (payload: string) => void,
    onListen: () => void,
  ): Promise<{ unlisten(): Promise<unknown> }>
}

/** `PGlite`. */
export interface Pglite {
  query(text: string, values?: unknown[]): Promise<{ readonly rows: Record<string, unknown>[] }>
  listen(channel: string, onNotify: (payload: string) => void): Promise<() => Promise<unknown>>
}

export function isPostgresJs(client: unknown): client is PostgresJs {
  return (
    typeof client === 'function' && ['unsafe', 'begin', 'listen', 'options'].every((name) => name in client)
  )
}

export function isPglite(client: unknown): client is Pglite {
  return (
    typeof client === 'object' &&
    client !== null &&
    ['query', 'exec', 'listen', 'unlisten'].every((name) => typeof Reflect.get(client, name) === 'function')
  )
}
