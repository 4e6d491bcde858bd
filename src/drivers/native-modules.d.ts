/** The SQLite that Node.js, Deno and Bun bring along. Not all versions of their types have it. */
declare module 'node:sqlite' {
  export const DatabaseSync: new (
    path: string,
    options: { readonly readOnly: boolean; readonly timeout: number },
  ) => import('./node-sqlite.js').NodeSqlite
}

declare module 'bun:sqlite' {
  export const Database: new (
    path: string,
    options: { readonly readonly: true } | { readonly create: true; readonly readwrite: true },
  ) => import('./bun-sqlite.js').BunSqlite
}
