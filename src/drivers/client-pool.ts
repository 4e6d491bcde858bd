/**
 * Lends the connections of a node-postgres pool for one piece of work each, until a deadline. Imports no driver: the pool is given.
 *
 * node-postgres waits without a limit of its own for a connection of the pool and for an answer. A connection that gives none stays in
 * use for ever, and with it whoever waits.
 */
import { cancelExecution, destroySocket } from './client-socket.js'
import {
  ANSWER_OF_SERVER,
  CONNECTION_TO_SERVER,
  Deadline,
  DeadlineError,
  GIVE_ANOTHER_CONNECTION,
  TIMES_UNASKED,
} from './deadline.js'
import { describeDriverError } from './driver-error.js'

/** What pg-pool says when it ends the waiting, because of its `connectionTimeoutMillis`. */
const POOL_TIMEOUT = 'timeout exceeded when trying to connect'
/** pg-pool's own default. */
const DEFAULT_MAX = 10
/** How long an idle connection has to answer, after another one did not. */
const CHECK_TIMEOUT_MS = 1000
/** The part of a call's time after which the server is asked whether it still executes the call's statement. */
const PATIENCE = 0.7

/** Of a savepoint that tells whether a transaction is open: outside of one it is refused, which changes nothing. */
export const PROBE = 'drizzle_keystore_probe'
/** no_active_sql_transaction */
const NO_TRANSACTION = '25P01'
/** in_failed_sql_transaction */
export const FAILED_TRANSACTION = '25P02'

/** A statement as node-postgres takes it. Nothing is optional: what is left out would be looked up in Object.prototype. */
export interface PooledQuery {
  readonly text: string
  readonly name: string | undefined
  /** `'array'`: each row as an array. Default: as an object. */
  readonly rowMode: 'array' | undefined
  /** How values are read: an object with `getTypeParser`. */
  readonly types: object | undefined
}

/** A connection of a pool. Typed structurally, as is the pool: the host application may have another copy of pg's types. */
export interface PooledClient {
  query(text: string, values?: unknown[]): Promise<{ readonly rows: Record<string, unknown>[] }>
  query(query: PooledQuery, values?: unknown[]): Promise<{ readonly rows: unknown[] }>
  on(event: 'error', listener: () => void): unknown
  removeListener(event: 'error', listener: () => void): unknown
  release(destroy?: Error | boolean): void
}

/** A `Pool` of pg, or of a driver that offers the same, such as Neon's. */
export interface PostgresPool<Client extends PooledClient = PooledClient> {
  readonly totalCount: number
  readonly idleCount: number
  readonly options?: {
    readonly max?: number | undefined
    readonly connectionTimeoutMillis?: number | undefined
  }
  connect(): Promise<Client>
}

/** Whether a client is a pool, rather than one connection. */
export function isPool(client: unknown): client is PostgresPool {
  return (
    typeof client === 'object' &&
    client !== null &&
    'connect' in client &&
    'totalCount' in client &&
    'idleCount' in client
  )
}

/**
 * Whether the application has left a connection inside a transaction, as `pool.query('begin')` does on a pool of one. Newer versions of
 * node-postgres tell: `T`, or `E` after an error. Elsewhere the server is asked, in whose log that leaves an error: a BEGIN inside a
 * transaction is only a warning, and the COMMIT after it would be that of the application's.
 *
 * @param isOfOne whether the pool has no other connection: who begins a transaction on a larger one leaves it with a connection of their own
 * @throws the driver's errors
 */
export async function isInTransaction(client: PooledClient, isOfOne: boolean): Promise<boolean> {
  const statusOf: unknown = Reflect.get(client, 'getTransactionStatus')
  if (typeof statusOf === 'function') return ['T', 'E'].includes(statusOf.call(client))
  if (!isOfOne) return false
  try {
    await client.query(`savepoint ${PROBE}`)
  } catch (error) {
    const { code } = describeDriverError(error)
    if (code !== NO_TRANSACTION && code !== FAILED_TRANSACTION) throw error
    return code === FAILED_TRANSACTION
  }
  await client.query(`release savepoint ${PROBE}`)
  return true
}

/**
 * Whether a statement may take longer than its call. `'ifAtWork'`: only where the server can be asked whether it is at work; `true`: else
 * {@link TIMES_UNASKED} times as long.
 */
export type MayTakeLong = boolean | 'ifAtWork'

/** One use of a connection. */
interface Loan<Client> {
  /** Null while it is waited for. */
  client: Client | null
  isOver: boolean
  /** Whether the server could not be asked if it is at work. */
  isUnasked: boolean
  watching?: NodeJS.Timeout
}

export class ClientPool<Client extends PooledClient> {
  readonly #pool: PostgresPool<Client>
  readonly #whenUsedUp: string
  #isChecking = false

  /** @param whenUsedUp why all connections may be in use, and what to do about it; to follow "all 10 are in use" */
  constructor(pool: PostgresPool<Client>, whenUsedUp = '') {
    this.#pool = pool
    this.#whenUsedUp = whenUsedUp
  }

  /**
   * Runs `work` on a connection. If it fails, the connection is closed. If it is not done at the deadline, its connection is destroyed and
   * its statement is cancelled: a server that does not know that nobody waits any more would keep it waiting for its lock.
   *
   * @param mayTakeLong for statements that read or change a whole table: the time begins anew while the server executes the statement
   *   and waits for no lock, which it is asked on another connection
   * @throws DeadlineError · what `work` throws
   */
  async use<T>(
    deadline: Deadline,
    work: (client: Client) => Promise<T>,
    { mayTakeLong = false }: { readonly mayTakeLong?: MayTakeLong } = {},
  ): Promise<T> {
    const loan: Loan<Client> = { client: null, isOver: false, isUnasked: false }
    const isLong = mayTakeLong === true
    const onBegun = mayTakeLong ? (client: Client) => this.#watch(client, deadline, loan, isLong) : null
    const waitedFor = () => {
      if (loan.client === null) return this.#missing()
      return loan.isUnasked ? ANSWER_OF_SERVER + GIVE_ANOTHER_CONNECTION : ANSWER_OF_SERVER
    }
    const result = await deadline.wait(this.#lend(loan, work, onBegun), waitedFor, () => {
      loan.isOver = true
      if (loan.client !== null) void this.#destroy(loan.client)
    })
    if (loan.isUnasked && !deadline.isOver) deadline.extend()
    return result
  }

  /** Runs `work` on a connection. Leaves the connection alone once the loan is over. */
  async #lend<T>(
    loan: Loan<Client>,
    work: (client: Client) => Promise<T>,
    onBegun: ((client: Client) => void) | null,
  ): Promise<T> {
    const client = await this.#pool.connect().catch((error: unknown) => {
      throw this.#explained(error)
    })
    // The pool gives it even if nobody waits any more.
    if (loan.isOver) client.release()
    if (loan.isOver) throw new DeadlineError('nobody waits any more')
    loan.client = client
    // An 'error' event without a listener ends the process. What failed is learnt from the query.
    client.on('error', ignore)
    let failed = true
    try {
      const working = work(client)
      onBegun?.(client)
      const result = await working
      failed = false
      return result
    } finally {
      clearTimeout(loan.watching)
      if (!loan.isOver) giveBack(client, failed)
      loan.isOver = true
    }
  }

  /** Whether it has one connection, which the application may use too. */
  get isOfOne(): boolean {
    return this.#max === 1
  }

  /** pg-pool's own time-out does not say that all connections are in use. */
  #explained(error: unknown): unknown {
    if (!(error instanceof Error) || error.message !== POOL_TIMEOUT || !this.#isUsedUp()) return error
    return new DeadlineError(
      `waited ${this.#pool.options?.connectionTimeoutMillis} ms for ${this.#missing()}`,
    )
  }

  #isUsedUp(): boolean {
    return this.#pool.idleCount === 0 && this.#pool.totalCount >= this.#max
  }

  get #max(): number {
    return this.#pool.options?.max ?? DEFAULT_MAX
  }

  #missing(): string {
    if (!this.#isUsedUp()) return CONNECTION_TO_SERVER
    return `a connection of the pool: all ${this.#pool.totalCount} are in use${this.#whenUsedUp}`
  }

  async #destroy(client: Client): Promise<void> {
    // At once, so that the next call is given none of them.
    const checked = this.#checkIdle()
    await cancelExecution(client)
    giveBack(client, true)
    destroySocket(client)
    await checked
  }

  /** Asks the idle connections for an answer, and destroys those that give none: they may have been lost together with another one. */
  async #checkIdle(): Promise<void> {
    if (this.#isChecking) return
    this.#isChecking = true
    const check = async (connecting: Promise<Client>) => {
      const client = await connecting
      client.on('error', ignore)
      const deadline = new Deadline(CHECK_TIMEOUT_MS)
      const answers = await deadline
        .wait(client.query('select 1'), () => ANSWER_OF_SERVER)
        .then(
          () => true,
          () => false,
        )
      giveBack(client, !answers)
      if (!answers) destroySocket(client)
    }
    await Promise.allSettled(Array.from({ length: this.#pool.idleCount }, () => check(this.#pool.connect())))
    this.#isChecking = false
  }

  /** Asks, some time before the deadline, whether the server executes the statement: then the time begins anew. */
  #watch(client: Client, deadline: Deadline, loan: Loan<Client>, isLong: boolean): void {
    if (this.isOfOne) {
      loan.isUnasked = true
      if (isLong) deadline.extend(TIMES_UNASKED)
      return
    }
    loan.watching = setTimeout(async () => {
      const pid: unknown = Reflect.get(client, 'processID')
      const executes = await this.#executes(pid, deadline.remainingMs)
      loan.isUnasked = executes === null
      if (loan.isOver || executes !== true) return
      deadline.extend()
      this.#watch(client, deadline, loan, isLong)
    }, deadline.remainingMs * PATIENCE)
    loan.watching.unref()
  }

  /** @returns null if there is no connection to ask on, or no such process on the server, as behind pgbouncer */
  async #executes(pid: unknown, timeoutMs: number): Promise<boolean | null> {
    try {
      const { rows } = await this.use(new Deadline(timeoutMs), (client) => client.query(EXECUTES, [pid]))
      return rows.length === 0 ? null : rows[0]?.executes === true
    } catch {
      return this.#isUsedUp() ? null : false
    }
  }
}

/** Whether a backend executes a statement, and waits neither for a lock nor for its client. */
const EXECUTES = `select state operator(pg_catalog.=) 'active'
    and coalesce(wait_event_type, '') operator(pg_catalog.<>) all (array['Lock', 'Client', 'Timeout']) as executes
  from pg_catalog.pg_stat_activity where pid operator(pg_catalog.=) $1::int`

function giveBack(client: PooledClient, destroy: boolean): void {
  client.release(destroy)
  client.removeListener('error', ignore)
}

function ignore(): void {
  // See above.
}
