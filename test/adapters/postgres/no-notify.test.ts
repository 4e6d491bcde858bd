/** A server or a role without pg_notify: the store works with `notify: false` and says that it is silent; without the option errors name it. */
import { randomBytes } from 'node:crypto'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../../src/adapters/open.js'
import { type PostgresKeyStoreOptions, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import {
  EnvelopeCrypto,
  type KeystoreEvent,
  localMasterKey,
  masterKeyring,
  rewrapAll,
} from '../../../src/index.js'
import { testKeyStore } from '../../../src/testing/index.js'
import { isSilent, listenTo } from '../../support/change-listener.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { itIf } from '../../support/conditional.js'
import { runSuite } from '../../support/conformance.js'
import { asAdmin, isChosen } from '../../support/databases.js'
import { errorOf } from '../../support/errors.js'
import { storeMaintenance } from '../../support/maintenance.js'
import { freshRole } from '../../support/postgres-roles.js'
import { randomRecord } from '../../support/rows.js'
import { slow } from '../../support/slow.js'

describe.runIf(isChosen('postgres'))('without pg_notify', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    const database = await cleanups.database('postgres')
    // Rights on a function of pg_catalog belong to one database.
    await asAdmin(database, 'revoke execute on function pg_catalog.pg_notify(text, text) from public')
    cleanups.add(() =>
      asAdmin(database, 'grant execute on function pg_catalog.pg_notify(text, text) to public'),
    )
    const role = await freshRole(database, ['grant all on schema public to ROLE'])
    cleanups.add(role.remove)
    url = role.url
  })
  const open = (options: PostgresKeyStoreOptions = {}) =>
    cleanups.closing(postgresKeyStore({ url, maxConnections: 4 }, options))

  it.each([false, true])(
    'everything works with the option (named statements: %s)',
    async (namedStatements) => {
      const store = open({ notify: false, namedStatements })
      const masterKey = localMasterKey(randomBytes(32))
      const events: KeystoreEvent[] = []
      const onEvent = (event: KeystoreEvent) => void events.push(event)
      const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKey, closeStore: false, onEvent })
      const token = await envelope.encrypt('alice', 'secret')
      await envelope.rotateUserKey('alice')
      expect(await envelope.decrypt('alice', token)).toBe('secret')
      await envelope.encrypt('bob', 'x')
      await envelope.shredUser('bob')
      await envelope.shredUser('bob', { forget: true })
      const next = localMasterKey(randomBytes(32))
      const keyring = masterKeyring({ primary: next, previous: [masterKey] })
      expect(await rewrapAll({ store, masterKeys: keyring })).toMatchObject({ complete: true, changed: 2 })
      expect(await storeMaintenance(store).restore([randomRecord('carol', { version: 2 })])).toHaveLength(1)
      expect(await store.remove([{ userId: 'carol', version: 2 }])).toBe(1)
      expect(events).toContainEqual({
        type: 'changesSilent',
        reason: expect.stringContaining('notify: false'),
      })
      await envelope.close()
    },
  )

  it('a listener is told that nothing will be announced', async () => {
    const listener = listenTo(open({ notify: false }))
    expect(await listener.next(isSilent)).toMatchObject({ silent: expect.stringContaining('notify: false') })
  })

  it('without the option a write fails, and names the option', async () => {
    const store = open()
    await store.insertIfAbsent([randomRecord('alice')])
    const error = await errorOf(store.shred('alice', { forget: false }))
    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(error.message).toContain('42501')
    expect(error.message).toContain('{ notify: false }')
  })

  it('refuses what is no boolean, and the option on SQLite', async () => {
    expect(() => open({ notify: 0 as never })).toThrow(/notify must be a boolean/)
    await expect(openKeyStore(':memory:', { notify: false })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    })
  })

  itIf(slow, 'SLOW=1')('the store keeps the contract of KeyStore but for its announcements', async () => {
    const { passed, failed } = await runSuite((runner) =>
      testKeyStore(runner, {
        name: 'silent',
        async open() {
          const store = postgresKeyStore({ url, maxConnections: 4 }, { notify: false })
          await store.ready()
          return {
            store,
            async close() {
              await store.close()
              await asAdmin(url, 'delete from encryption_keys')
            },
          }
        },
      }),
    )
    expect(failed).toEqual([])
    expect(passed.length).toBeGreaterThan(30)
  })
})
