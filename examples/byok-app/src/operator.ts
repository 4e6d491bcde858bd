/** What the operator sees and does: counts and ids, never a key. */
import {
  type DatedCensusRow,
  type EnvelopeCrypto,
  type Finding,
  type KeyRecord,
  type MasterKeyUse,
  rewrapAll,
  type ShredReceipt,
  verifyAll,
} from 'drizzle-keystore'
import { desc, eq, inArray, like, or, sql } from 'drizzle-orm'
import type { Config } from './config.js'
import type { OpenedDatabase } from './database.js'
import { Jobs } from './jobs.js'
import type { Keystore } from './keystore.js'
import { numberText } from './number-text.js'

export interface ListedPerson {
  readonly id: string
  readonly email: string
  readonly createdAt: Date
  /** The state of their data key: null if they have none yet. */
  readonly key: { readonly version: number; readonly shreddedAt: Date | null } | null
}

export interface CheckReport {
  readonly at: Date
  readonly ok: boolean
  readonly rows: number
  readonly findings: readonly Finding[]
  readonly masterKeys: readonly MasterKeyUse[]
}

const LISTED_PEOPLE = 25

export class Operator {
  readonly jobs = new Jobs()
  /** The last check of all keys, by this process. */
  lastCheck: CheckReport | null = null
  readonly #config: Config
  readonly #database: OpenedDatabase
  readonly #keystore: Keystore
  readonly #envelope: EnvelopeCrypto

  constructor(config: Config, database: OpenedDatabase, keystore: Keystore) {
    this.#config = config
    this.#database = database
    this.#keystore = keystore
    this.#envelope = keystore.envelope
  }

  /** The id of the master key that wraps now. */
  get primaryKekId(): string {
    return this.#keystore.masterKeys.primary.id
  }

  /** Keys counted by master key, version and age. Reads the whole table. */
  async census(): Promise<DatedCensusRow[]> {
    return (await this.#keystore.store.maintenance?.datedCensus()) ?? []
  }

  /** Unwraps every key and checks the store, as `keystore doctor` does. */
  startCheck(): boolean {
    const { store, masterKeys } = this.#keystore
    return this.jobs.start('check', async (controls) => {
      const report = await verifyAll({ store, masterKeys, ...controls })
      if (!report.complete) return { complete: false, outcome: ['The check was stopped before its end.'] }
      this.lastCheck = { at: new Date(), ...report }
      const worst = report.ok ? 'Every key opens.' : 'Some keys need your attention: see the findings.'
      return { complete: true, outcome: [`${numberText(report.rows)} rows were checked. ${worst}`] }
    })
  }

  /** Wraps every data key under the primary master key. No secret is touched, and the application goes on meanwhile. */
  startRewrap(): boolean {
    const { store, masterKeys } = this.#keystore
    const batchSize = this.#config.rewrapBatchSize
    return this.jobs.start('rewrap', async (controls) => {
      const report = await rewrapAll({ store, masterKeys, batchSize, ...controls })
      const retired = report.masterKeys.filter(({ primary, noRowNeedsIt }) => !primary && noRowNeedsIt)
      return {
        complete: report.complete,
        outcome: [
          report.complete && report.changed + report.failedCount === 0
            ? 'Nothing to do: every key is wrapped under the current master key already.'
            : `${numberText(report.changed)} ${report.changed === 1 ? 'key was' : 'keys were'} rewrapped.`,
          ...(report.complete ? [] : ['Some are left: start it again.']),
          ...(report.failedCount > 0
            ? [`${numberText(report.failedCount)} could not be rewrapped. Check all keys for the reasons.`]
            : []),
          ...retired.map(({ kekId }) => `No row needs the master key ${kekId} any more.`),
          ...(retired.length > 0 ? report.warnings : []),
        ],
      }
    })
  }

  /** Takes the step that receipts call pending: on Postgres it rewrites the table, which nobody can use meanwhile. */
  startErasure(): boolean {
    return this.jobs.start('erase', async () => {
      const state = await this.#keystore.store.maintenance?.finishErasure()
      const left = state?.pending ?? 'This store cannot say where erased bytes are.'
      const isDone = state?.erased === 'file'
      return { complete: isDone, outcome: [isDone ? 'No erased key is left in the live database.' : left] }
    })
  }

  /** People whose address or id has the text in it, newest first. */
  async people(search: string): Promise<ListedPerson[]> {
    const { user } = this.#database.tables
    const pattern = `%${search.replaceAll(/[\\%_]/g, (sign) => `\\${sign}`)}%`
    const matches = or(eq(user.id, search), like(user.email, sql`${pattern.toLowerCase()} escape '\\'`))
    const rows = await this.#database.db
      .select({ id: user.id, email: user.email, createdAt: user.createdAt })
      .from(user)
      .where(search === '' ? undefined : matches)
      .orderBy(desc(user.createdAt))
      .limit(LISTED_PEOPLE)
    const keys = await this.#keystore.store.getActive(rows.map(({ id }) => id))
    return rows.map((row) => ({ ...row, key: stateOf(keys.get(row.id)) }))
  }

  async person(id: string): Promise<ListedPerson | null> {
    const { user } = this.#database.tables
    const [row] = await this.#database.db
      .select({ id: user.id, email: user.email, createdAt: user.createdAt })
      .from(user)
      .where(inArray(user.id, [id]))
    if (row === undefined) return null
    return { ...row, key: stateOf((await this.#keystore.store.getActive([id])).get(id)) }
  }

  /** Erases the person's data key and ends their sessions. Their rows stay, and nobody can read them. */
  async shred(id: string): Promise<ShredReceipt> {
    const receipt = await this.#envelope.shredUser(id)
    const { session } = this.#database.tables
    await this.#database.db.delete(session).where(eq(session.userId, id))
    return receipt
  }
}

function stateOf(record: KeyRecord | undefined): ListedPerson['key'] {
  return record === undefined ? null : { version: record.version, shreddedAt: record.shreddedAt }
}
