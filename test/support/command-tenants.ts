/** An application with tenants in the store of tests of commands. Its users say whose they are, and the key of tenant zeta is the customer's. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  EnvelopeCrypto,
  generateMasterKey,
  type KeyRecord,
  type MasterKey,
  type MasterKeyring,
  masterKeyring,
  masterKeysFromFile,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { type CommandStore, commandStore } from './command-store.js'
import type { Dialect } from './databases.js'
import { ofEachTest, standIn } from './each-test.js'
import { rowsOfUser } from './rows.js'

export const NO_MASTER_KEY = { API_KEY_MASTER_KEY_FILE: '' }

/** Gives a command the key of tenant zeta's customer. */
export const CUSTOMERS_KEY: readonly string[] = ['--previous-key-file', 'keys/customer.key']

export interface CommandTenants {
  readonly store: CommandStore
  /** keys/customer.key */
  readonly customer: MasterKey
  /** The path of keys/NAME.key, from everywhere. */
  path(name: string): string
  /** The KEK id of keys/NAME.key. */
  idOf(name: 'a' | 'b'): string
  /** The keyring of the application. @param primary default keys/a.key */
  application(primary?: MasterKey): MasterKeyring
  /** Opens the application for one piece of work. */
  withApplication<T>(work: (envelope: EnvelopeCrypto) => Promise<T>, masterKeys?: MasterKeyring): Promise<T>
  /** Encrypts a secret for each user: what is behind the @ of the id is the tenant. @returns a token of each */
  mint(...userIds: readonly string[]): Promise<Record<string, string>>
  /** The plaintext of a token in the application, or the code of the error. */
  opened(userId: string, token: string | undefined, masterKeys?: MasterKeyring): Promise<string>
  rowsOfTenant(tenantId: string): Promise<readonly KeyRecord[]>
  /** The KEK id of each version of a tenant's key. */
  rootsOf(tenantId: string): Promise<readonly (string | null)[]>
  /** Removes the store. */
  remove(): Promise<void>
}

/** To be called where `beforeEach` may be: such an application of each test. @returns that of the running test, and its store */
export function commandTenantsOfEachTest(dialect: Dialect): {
  readonly app: CommandTenants
  readonly store: CommandStore
} {
  const app = ofEachTest(() => commandTenants(dialect))
  return { app, store: standIn(() => app.store) }
}

async function commandTenants(dialect: Dialect): Promise<CommandTenants> {
  const store = await commandStore(dialect)
  const path = (name: string) => join(store.folder, 'keys', `${name}.key`)
  writeFileSync(path('customer'), `${generateMasterKey()}\n`, { mode: 0o600 })
  const customer = masterKeysFromFile(path('customer')).primary
  const tenantOf = (userId: string) => (userId.includes('@') ? userId.slice(userId.indexOf('@') + 1) : null)
  const tenantRoot = (tenantId: string) => (tenantId === 'zeta' ? customer : null)

  const application: CommandTenants['application'] = (primary = store.keys('a').primary) =>
    masterKeyring({ primary, tenantOf, tenantRoot })
  const withApplication: CommandTenants['withApplication'] = (work, masterKeys = application()) =>
    store.use(async (opened) =>
      work(await EnvelopeCrypto.open({ store: opened, masterKeys, closeStore: false })),
    )
  const rowsOfTenant = (tenantId: string) => store.use((opened) => rowsOfUser(opened, tenantUserId(tenantId)))

  return {
    store,
    customer,
    path,
    idOf: (name) => store.keys(name).primary.id,
    application,
    withApplication,
    mint: (...userIds) =>
      withApplication(async (envelope) => {
        const tokens: Record<string, string> = {}
        for (const userId of userIds) tokens[userId] = await envelope.encrypt(userId, `secret of ${userId}`)
        return tokens
      }),
    opened: (userId, token = '', masterKeys) =>
      withApplication(
        (envelope) => envelope.decrypt(userId, token).catch((error) => String(error.code)),
        masterKeys,
      ),
    rowsOfTenant,
    rootsOf: async (tenantId) => (await rowsOfTenant(tenantId)).map(({ kekId }) => kekId),
    remove: () => store.remove(),
  }
}
