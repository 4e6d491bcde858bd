/** A server that does not take the connection: the error says that, and why, instead of what was to be done on it. */
import { createServer, type Server } from 'node:net'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { type FreshDatabase, freshDatabase, isChosen } from '../../support/databases.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { everythingOf } from '../../support/leaks.js'

describe.runIf(isChosen('postgres'))('openKeyStore on Postgres', () => {
  let database: FreshDatabase
  let other: Server | undefined
  beforeEach(async () => {
    database = await freshDatabase('postgres')
  })
  afterEach(async () => {
    await database.remove()
    await new Promise((resolve) => (other === undefined ? resolve(null) : other.close(resolve)))
    other = undefined
  })

  const changed = (change: (url: URL) => void) => {
    const url = new URL(database.url)
    change(url)
    return String(url)
  }
  /** A server of another protocol, which answers what is not Postgres's. */
  async function otherServer(answer: string): Promise<string> {
    other = createServer((socket) =>
      socket.on('error', () => undefined).once('data', () => socket.end(answer)),
    )
    await new Promise<void>((resolve) => other?.listen(0, '127.0.0.1', resolve))
    const address = other.address()
    return String(typeof address === 'object' ? address?.port : '')
  }

  it.each<[string, () => Promise<string> | string, string]>([
    [
      'no TLS',
      () => changed((url) => url.searchParams.set('sslmode', 'require')),
      'The server does not support SSL connections',
    ],
    [
      'a file of certificates that is not there',
      () => changed((url) => url.searchParams.set('sslrootcert', '/none/ca.pem')),
      "ENOENT: no such file or directory, open '/none/ca.pem'",
    ],
    ['a wrong password', () => changed((url) => Object.assign(url, { password: 'wr0ng' })), 'SQLSTATE 28P01'],
    ['no password', () => changed((url) => Object.assign(url, { password: '' })), 'SQLSTATE 28P01'],
    [
      'an unknown database',
      () => changed((url) => Object.assign(url, { pathname: '/none' })),
      'SQLSTATE 3D000',
    ],
    ['a wrong port', () => changed((url) => Object.assign(url, { port: '1' })), 'ECONNREFUSED'],
    [
      'a server of another protocol, with TLS',
      async () => {
        const port = await otherServer('HTTP/1.1 400 Bad Request\r\n\r\n')
        return changed((url) => Object.assign(url, { port, search: '?sslmode=require' }))
      },
      'There was an error establishing an SSL connection',
    ],
  ])('%s', async (_, urlOf, reason) => {
    const url = await urlOf()
    const error = await keystoreErrorOf(openKeyStore(url, { deadlineMs: 3000 }))
    const { host, pathname } = new URL(url)
    expect(error.code).toBe('ERR_STORE')
    expect(error.message).toContain(`The key store could not connect to ${host}${pathname} (`)
    expect(error.message).toContain(reason)
    for (const password of [new URL(database.url).password, 'wr0ng'])
      expect(everythingOf(error)).not.toContain(password)
  })
})
