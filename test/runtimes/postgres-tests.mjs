/** Everything on Postgres through one driver, `postgres-js` or `pg`. @param sql runs statements past the library */
import { apiTests } from './api-tests.mjs'
import { postgresKeyStore, testKeyStore } from './library.mjs'

export function postgresTests(runner, name, { sourceOf, sql }) {
  const subject = {
    name,
    async open() {
      const open = async () => {
        const store = postgresKeyStore(sourceOf(), { deadlineMs: 60_000 })
        await store.ready()
        return store
      }
      const store = await open()
      return {
        store,
        reopen: open,
        rawRows: () =>
          sql('select user_id as "userId", version, encrypted_key as "encryptedKey" from encryption_keys'),
        breakDown: () => sql('drop table encryption_keys, __drizzle_keystore_migrations'),
        async close() {
          await store.close()
          await sql('drop table if exists encryption_keys, __drizzle_keystore_migrations')
        },
      }
    },
  }
  apiTests(runner, subject)
  testKeyStore(runner, subject)
}
