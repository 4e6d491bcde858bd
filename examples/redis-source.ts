// Secrets that lie in Redis hashes, as a source of values for the sweep: one hash for each user (user:alice:secrets) or one for
// a shared pool, where each field is the name of a secret and its value a token, or a plaintext that is to become one.
import { isUtf8 } from 'node:buffer'
import type { ValueCell, ValueSource } from 'drizzle-keystore/reencrypt'
import { RESP_TYPES } from 'redis'

/** What contexts are made of: `context: ({ field }) => ({ column: 'secrets', name: field })`. */
export interface RedisField {
  readonly hash: string
  readonly field: string
}

export interface RedisSourceOptions {
  /** Which hashes: a pattern as SCAN's MATCH takes it. */
  readonly match: string
  /** The user whose secrets a hash holds; null for those of the shared pool, with `pool: true`. */
  readonly owner: (hash: string) => string | null
  /** Whether hashes whose owner is null belong to the shared pool. Else the sweep reports their values. */
  readonly pool?: boolean
}

/** What is used of a client of `redis`, whatever modules and settings it has. */
interface RedisClient {
  eval(script: string, options: { keys: string[]; arguments: string[] }): Promise<unknown>
  withTypeMapping(mapping: { [RESP_TYPES.BLOB_STRING]: BufferConstructor }): {
    scanIterator(options: { MATCH: string; TYPE: 'hash'; COUNT: number }): AsyncIterable<Buffer[]>
    hScanIterator(key: Buffer, options: { COUNT: number }): AsyncIterable<{ field: Buffer; value: Buffer }[]>
  }
}

/**
 * One step for all writers. A field or hash that is gone is not made anew: HGET gives false. HSET keeps the TTL of the hash; where fields
 * have TTLs of their own (Redis 7.4), put HSETEX with KEEPTTL in its place (Redis 8).
 */
const COMPARE_AND_SET = `
  if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
  return 1`

/**
 * @param client connected, and without a `keyPrefix`, which SCAN would leave in the names. Of a cluster each master's in turn
 * (`cluster.masters`, `cluster.nodeClient`): SCAN sees the keys of one node.
 */
export function redisSource(
  client: RedisClient,
  { match, owner, pool = false }: RedisSourceOptions,
): ValueSource<RedisField> {
  // Bytes that are no UTF-8 would come as U+FFFD, and what is written back would not be what was there.
  const bytes = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer })

  function cellOf(name: Buffer, { field, value }: { field: Buffer; value: Buffer }): ValueCell<RedisField> {
    const row = { hash: name.toString(), field: field.toString() }
    // The sweep reports and leaves what is no text.
    const stored = [name, field, value].every(isUtf8) ? value.toString() : (value as unknown as string)
    return { key: row.hash, column: row.field, owner: owner(row.hash), value: stored, row }
  }

  return {
    pool,
    // SCAN and HSCAN give all that is there from beginning to end. What they give twice does no harm: of two changes of a value the
    // first wins. The names of about a page of hashes, and the values of about two, are in memory, however large a hash is.
    async *pages({ limit }) {
      const page: ValueCell<RedisField>[] = []
      for await (const names of bytes.scanIterator({ MATCH: match, TYPE: 'hash', COUNT: limit })) {
        for (const name of names) {
          for await (const fields of bytes.hScanIterator(name, { COUNT: limit })) {
            for (const field of fields) page.push(cellOf(name, field))
            while (page.length >= limit) yield page.splice(0, limit)
          }
        }
      }
      if (page.length > 0) yield page
    },
    // Asked for in one turn, the client sends them in one pipeline.
    async replace(changes) {
      const replies = await Promise.all(
        changes.map(({ key, column, from, to }) =>
          client.eval(COMPARE_AND_SET, { keys: [String(key)], arguments: [column, from, to] }),
        ),
      )
      return changes.filter((_, index) => replies[index] === 1)
    },
  }
}
