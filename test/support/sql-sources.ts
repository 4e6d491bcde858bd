/** A host's table `credentials`, sources of its values, and a service whose keys are in the same database. */
import type { EnvelopeCrypto, EnvelopeCryptoOptions } from '../../src/index.js'
import {
  type ReencryptOptions,
  type ReencryptReport,
  reencrypt,
  type SqlRow,
  type SqlSource,
  type SqlSourceOptions,
  sqlSource,
  type ValueCell,
} from '../../src/reencrypt/index.js'
import type { Dialect } from './databases.js'
import { freshService } from './fresh-store.js'
import { type RawDatabase, rawDatabase } from './raw-database.js'

export const INVALID = { code: 'ERR_INVALID_ARGUMENT' }
/** The context that sweeps bring all values to. */
export const CONTEXT = 'credentials.api_key'

export interface SqlSourceTest {
  readonly host: RawDatabase
  readonly envelope: EnvelopeCrypto
  /** The sources that {@link remove} closes. */
  readonly opened: SqlSource[]
  /** Makes the table `credentials`. @param more further columns and constraints, after a comma */
  create(keyType?: string, more?: string): Promise<unknown>
  /** A source of the column `api_key` by the key `id`, unless told otherwise. */
  sourceOf(options?: Partial<SqlSourceOptions>): Promise<SqlSource>
  /** Sweeps in small pages, plaintext too. */
  sweep(source: SqlSource, options?: Partial<ReencryptOptions<SqlRow>>): Promise<ReencryptReport>
  /** All values that a source gives. */
  cellsOf(source: SqlSource, limit?: number): Promise<ValueCell[]>
  decrypt(userId: unknown, token: unknown, context?: Record<string, string>): Promise<string>
  remove(): Promise<void>
}

/** @param options of the service */
export async function freshSqlSources(
  dialect: Dialect,
  options: Partial<EnvelopeCryptoOptions> = {},
): Promise<SqlSourceTest> {
  const host = await rawDatabase(dialect)
  const opened: SqlSource[] = []
  const envelope = await freshService(host.url, options)
  return {
    host,
    envelope,
    opened,
    create: (keyType = 'integer primary key', more = '') =>
      host.query(`create table credentials (id ${keyType}, user_id text, api_key text${more})`),
    async sourceOf(options = {}) {
      const source = await sqlSource(host.url, {
        table: 'credentials',
        key: 'id',
        owner: 'user_id',
        column: 'api_key',
        ...options,
      } as SqlSourceOptions)
      opened.push(source)
      return source
    },
    sweep: (source, options = {}) =>
      reencrypt({ envelope, source, context: CONTEXT, plaintext: true, batchSize: 7, ...options }),
    async cellsOf(source, limit = 7) {
      const cells: ValueCell[] = []
      for await (const page of source.pages({ limit })) cells.push(...(page as ValueCell[]))
      return cells
    },
    decrypt: (userId, token, context = { column: CONTEXT }) =>
      envelope.decrypt(String(userId), String(token), context),
    async remove() {
      for (const source of opened) await source.close()
      await envelope.close()
      await host.close()
    },
  }
}
