/** Synchronous connections to SQLite databases: better-sqlite3's own, and those of node:sqlite and bun:sqlite behind the same methods. */
import { type BunSqlite, onBunSqlite } from './bun-sqlite.js'
import { type NodeSqlite, onNodeSqlite } from './node-sqlite.js'
import type { SqliteClient } from './sqlite-client.js'

/** A connection of any synchronous driver. */
export type SyncSqliteClient = SqliteClient | NodeSqlite | BunSqlite

/** The wrappers of the host's connections: one for each, since stores on one connection tell each other of changes. */
const wrappers = new WeakMap<object, SqliteClient>()

/** @returns null for the client of another driver */
export function syncSqlite(client: unknown): SqliteClient | null {
  if (typeof client !== 'object' || client === null) return null
  if (isBetterSqlite3(client)) return client
  const wrapper = wrappers.get(client) ?? onNodeSqlite(client) ?? onBunSqlite(client)
  if (wrapper !== null) wrappers.set(client, wrapper)
  return wrapper
}

function isBetterSqlite3(client: object): client is SqliteClient {
  return ['prepare', 'pragma', 'transaction'].every((name) => typeof Reflect.get(client, name) === 'function')
}
