/** Loads node-postgres. Nothing else imports it: who passes a pool or a db of another driver need not have it installed. */
import type { PooledClient, PostgresPool } from './client-pool.js'
import { driverMissing } from './url.js'

/** A `Client` of pg, as far as we use it. Typed structurally: the types of pg may not be installed either. */
export interface PgClient {
  connect(): Promise<unknown>
  query(text: string): Promise<unknown>
  end(): Promise<void>
  on(event: 'error', listener: (error: Error) => void): unknown
  on(event: 'end', listener: () => void): unknown
  on(event: 'notification', listener: (message: PgNotification) => void): unknown
  once(event: 'end', listener: () => void): unknown
}

export interface PgNotification {
  readonly channel: string
  readonly payload?: string | undefined
}

export interface PgPool extends PostgresPool {
  end(): Promise<void>
  on(event: 'error', listener: (error: Error) => void): unknown
  on(event: 'connect', listener: (client: PooledClient) => void): unknown
}

interface Pg {
  readonly Client: new (config?: object) => PgClient
  readonly Pool: new (config: object) => PgPool
}

/** @throws ERR_STORE if it is not installed */
export async function loadPg(): Promise<Pg> {
  try {
    // Inside of "try", so that bundlers take it for optional and leave it alone where it is not installed.
    const { default: pg } = await import('pg')
    return pg
  } catch (error) {
    throw driverMissing('pg', error)
  }
}
