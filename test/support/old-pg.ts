import type pg from 'pg'

/** Makes the clients of a pool those of pg 8.16 to 8.20, which do not tell whether a transaction is open. */
export function hideTransactionStatus(pool: pg.Pool): void {
  pool.on('connect', (client) => void Object.assign(client, { getTransactionStatus: undefined }))
}
