/** Tenants on the command line: what is listed, and what is done to one tenant and to nobody else. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  EnvelopeCrypto,
  generateMasterKey,
  type MasterKey,
  masterKeyring,
  masterKeysFromFile,
} from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { itIf } from '../support/conditional.js'
import { dialects } from '../support/databases.js'
import { alterRow, corrupted, mintedRow, rowsOfUser, spoilTime } from '../support/rows.js'
import { remoteMasterKey } from '../support/store-doubles.js'
import { hasTerminal, onTerminal } from '../support/terminal.js'
import { expectPrintable, HOSTILE_ID } from '../support/unprintable.js'

const NO_MASTER_KEY = { API_KEY_MASTER_KEY_FILE: '' }
const CUSTOMERS_KEY = ['--previous-key-file', 'keys/customer.key']

/** The users of the tests say whose they are. */
const tenantOf = (userId: string) => (userId.includes('@') ? userId.slice(userId.indexOf('@') + 1) : null)

interface ListedTenants {
  readonly tenants: readonly { readonly versions: readonly Record<string, unknown>[] }[]
  readonly next: string | null
}

describe.each(dialects)('on %s', (dialect) => {
  let store: CommandStore
  let customer: MasterKey

  beforeEach(async () => {
    store = await commandStore(dialect)
    writeFileSync(path('customer'), `${generateMasterKey()}\n`, { mode: 0o600 })
    customer = masterKeysFromFile(path('customer')).primary
  })
  afterEach(() => store.remove())

  const path = (name: string) => join(store.folder, 'keys', `${name}.key`)
  const idOf = (name: 'a' | 'b') => store.keys(name).primary.id

  /** The application: it knows its users' tenants, and that of tenant zeta the customer has the key. */
  function application(primary: MasterKey = store.keys('a').primary) {
    const { previous } = store.keys('a')
    const tenantRoot = (tenantId: string) => (tenantId === 'zeta' ? customer : null)
    return masterKeyring({ primary, previous, tenantOf, tenantRoot })
  }

  async function withApplication<T>(
    work: (envelope: EnvelopeCrypto) => Promise<T>,
    masterKeys = application(),
  ): Promise<T> {
    return store.use(async (opened) =>
      work(await EnvelopeCrypto.open({ store: opened, masterKeys, closeStore: false })),
    )
  }

  /** @returns a token of each */
  async function mint(...userIds: readonly string[]): Promise<Record<string, string>> {
    return withApplication(async (envelope) => {
      const tokens: Record<string, string> = {}
      for (const userId of userIds) tokens[userId] = await envelope.encrypt(userId, `secret of ${userId}`)
      return tokens
    })
  }

  /** The plaintext, or the code of the error. */
  const opened = (userId: string, token = '', masterKeys = application()) =>
    withApplication(
      (envelope) => envelope.decrypt(userId, token).catch((error) => String(error.code)),
      masterKeys,
    )

  const rowsOfTenant = (tenantId: string) => store.use((opened) => rowsOfUser(opened, tenantUserId(tenantId)))
  const rootsOf = async (tenantId: string) => (await rowsOfTenant(tenantId)).map(({ kekId }) => kekId)

  describe('tenants', () => {
    it('lists them without a master key, page by page, with the keys of their users', async () => {
      await mint('alice@acme', 'bob@acme', 'carol@zeta', 'dave')
      const list = (...args: string[]) =>
        store.json<ListedTenants>(['tenants', ...args], { env: NO_MASTER_KEY })
      const { status, report } = list('--count')
      expect(status).toBe(0)
      expect(report).toMatchObject({
        tenants: [
          { tenantId: 'acme', shredded: false, versions: [{ version: 1, kekId: idOf('a'), keys: 2 }] },
          { tenantId: 'zeta', shredded: false, versions: [{ version: 1, kekId: customer.id, keys: 1 }] },
        ],
        next: null,
        unreadable: 0,
      })
      const [acme] = await rowsOfTenant('acme')
      expect(report.tenants[0]?.versions[0]?.createdAt).toBe(acme?.createdAt.toISOString())

      const first = list('--limit', '1').report
      expect(first).toMatchObject({ tenants: [{ tenantId: 'acme' }], next: 'acme' })
      expect(first.tenants[0]?.versions[0]).not.toHaveProperty('keys')
      expect(list('--after', 'acme', '--limit', '1').report).toMatchObject({
        tenants: [{ tenantId: 'zeta' }],
        next: null,
      })

      const shown = store.run(['tenants', '--limit', '1', '--count'], { env: NO_MASTER_KEY }).stdout
      expect(shown).toMatch(/"acme" +│ 1 +│ local:\S+ +│ \d{4}-\d\d-\d\d +│ live +│ 2 /)
      expect(shown).toContain('tenants --count --limit 1 --after acme')
      expect(store.run(['tenants', '--after', 'zeta']).stdout).toContain('no tenants after "zeta"')
      for (const limit of ['0', '10001', 'x']) expect(store.run(['tenants', '--limit', limit]).status).toBe(2)
    })

    it('says that there are none, and lists no users', async () => {
      await store.mint('alice')
      expect(store.run(['tenants']).stdout).toBe('The store has no tenants.\n')
      expect(store.json(['tenants']).report).toEqual({ tenants: [], next: null, unreadable: 0 })
    })

    it('shows ids that act on a terminal as escapes, and gives them whole as JSON', async () => {
      const hostile = HOSTILE_ID.replaceAll('@', '')
      await mint(`u@${hostile}`, 'v@x')
      const { stdout } = store.run(['tenants', '--limit', '1'])
      expectPrintable(stdout)
      expect(stdout).toContain('--json gives as next')
      const { report } = store.json<ListedTenants>(['tenants', '--limit', '1'])
      expect(report).toMatchObject({ tenants: [{ tenantId: hostile }], next: hostile })
      expect(store.json(['tenants', '--after', hostile]).report).toMatchObject({
        tenants: [{ tenantId: 'x' }],
      })
      for (const args of [
        ['rotate-tenant', hostile],
        ['evict-tenant', hostile],
        ['move-tenant', hostile, '--root-file', 'keys/b.key'],
        ['shred-tenant', hostile, '--yes'],
      ]) {
        const { status, stdout, stderr } = store.run(args)
        expect(status).toBe(0)
        expectPrintable(stdout + stderr)
      }
      expectPrintable(store.run(['doctor']).stdout)
    })

    it('leaves out a row that cannot be read, says so and fails', async () => {
      await mint('alice@acme', 'bob@beta')
      await spoilTime(dialect, store.url, tenantUserId('beta'))
      const { status, stdout } = store.run(['tenants'])
      expect(status).toBe(1)
      expect(stdout).toContain('1 row of tenants cannot be read')
      expect(stdout).toContain('"acme"')
    })
  })

  it('status and doctor count tenants, roots and the keys of users under tenants', async () => {
    await mint('alice@acme', 'bob@acme', 'carol@zeta', 'dave')
    store.run(['shred-tenant', 'acme', '--yes'])
    const status = store.run(['status'], { env: NO_MASTER_KEY })
    expect(status.stdout).toContain(
      "2 tenants (1 shredded) under 1 root, 3 keys of users under tenants' keys: npx keystore tenants lists them",
    )
    expect(status.stdout).toMatch(/│ tenants' keys +│ 1 +│ live +│ 3 /)
    expect(status.stdout).toContain(`${customer.id} (keys of tenants)`)
    const { report } = store.json<Record<string, unknown>[]>(['status'])
    expect(report).toContainEqual(
      expect.objectContaining({ kekId: customer.id, ofTenants: true, version: 1, count: 1 }),
    )
    expect(store.run(['doctor', ...CUSTOMERS_KEY]).stdout).toContain('2 tenants (1 shredded) under 1 root')

    await store.use((opened) => opened.shred(tenantUserId('acme'), { forget: true }))
    expect(store.run(['status']).stdout).toContain('1 tenant under 1 root')
  })

  it('says nothing of tenants where there are none', async () => {
    await store.mint('alice')
    for (const command of ['status', 'doctor', 'rewrap'])
      expect(store.run([command]).stdout).not.toMatch(/tenant/i)
  })

  it('status names twenty roots, and counts more of them together', async () => {
    await store.use((opened) =>
      Promise.all(
        Array.from({ length: 21 }, async (_, at) => {
          const row = await mintedRow(remoteMasterKey({ id: `root-${at}` }), tenantUserId(`t${at}`))
          await opened.insertIfAbsent([row])
        }),
      ),
    )
    const { stdout } = store.run(['status'])
    expect(stdout).toContain('21 tenants under roots of their own')
    expect(stdout).not.toContain('root-')
  })

  it('other commands work in a store with roots that they were not given', async () => {
    const tokens = await mint('alice@acme', 'carol@alpha', 'dave')
    await store.use((opened) =>
      EnvelopeCrypto.open({ store: opened, masterKeys: application(), closeStore: false }).then((envelope) =>
        envelope.moveTenant('alpha', customer),
      ),
    )
    const decrypt = (userId: string, ...args: string[]) =>
      store.run(['decrypt', '--user', userId, ...args], { input: tokens[userId] ?? '' })
    expect(decrypt('dave').stdout).toBe('secret of dave')
    expect(decrypt('alice@acme').stdout).toBe('secret of alice@acme')
    expect(store.run(['rotate-user', 'alice@acme']).status).toBe(0)
    expect(decrypt('carol@alpha').stderr).toContain('ERR_UNKNOWN_MASTER_KEY')
    expect(decrypt('carol@alpha', ...CUSTOMERS_KEY).stdout).toBe('secret of carol@alpha')
  })

  describe('rotate-tenant', () => {
    it('makes a version under the same root, and rewrap brings users along without tenantOf', async () => {
      const tokens = await mint('alice@acme', 'dave')
      expect(store.json(['rotate-tenant', 'acme', '--dry-run']).report).toEqual({
        tenantId: 'acme',
        version: 2,
        rotated: true,
        kekId: idOf('a'),
        dryRun: true,
      })
      expect(await rootsOf('acme')).toEqual([idOf('a')])
      const { status, stdout } = store.run(['rotate-tenant', 'acme', '--key-log', 'log.jsonl'])
      expect(status).toBe(0)
      expect(stdout).toContain('Made version 2 of the key of tenant "acme"')
      expect(stdout).toContain('npx keystore rewrap')
      expect(await rootsOf('acme')).toEqual([idOf('a'), idOf('a')])
      expect(JSON.parse(readFileSync(join(store.folder, 'log.jsonl'), 'utf8'))).toMatchObject({
        event: 'rotated',
        userId: tenantUserId('acme'),
        version: 2,
      })
      const underVersion = async () =>
        (await store.rows()).find(({ userId }) => userId === 'alice@acme')?.kekId
      expect(await underVersion()).toBe('tenant:1:acme')
      expect(store.run(['rewrap']).status).toBe(0)
      expect(await underVersion()).toBe('tenant:2:acme')
      expect(await opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
    })

    it("never wraps a customer's tenant under another root", async () => {
      await mint('carol@zeta')
      const refused = store.run(['rotate-tenant', 'zeta'])
      expect(refused.status).toBe(1)
      expect(refused.stderr).toContain('ERR_UNKNOWN_MASTER_KEY')
      expect(refused.stderr).toContain(customer.id)
      expect(await rootsOf('zeta')).toEqual([customer.id])
      expect(store.run(['rotate-tenant', 'zeta', ...CUSTOMERS_KEY]).status).toBe(0)
      expect(await rootsOf('zeta')).toEqual([customer.id, customer.id])
    })

    it('refuses a tenant that is not there, or was shredded, and an id that is none', async () => {
      await mint('alice@acme')
      for (const command of ['rotate-tenant', 'move-tenant', 'evict-tenant']) {
        const unknown = store.run([command, 'Acme'])
        expect(unknown.status).toBe(1)
        expect(unknown.stderr).toContain('The store has no tenant "Acme"')
        expect(unknown.stderr).toContain('npx keystore tenants')
        expect(store.run([command, 'x'.repeat(505)]).status).toBe(2)
        expect(store.run([command, '']).status).toBe(2)
      }
      store.run(['shred-tenant', 'acme', '--yes'])
      for (const command of ['rotate-tenant', 'move-tenant', 'evict-tenant'])
        expect(store.run([command, 'acme']).stderr).toContain('ERR_KEY_SHREDDED')
      expect((await store.rows()).map(({ userId }) => userId)).not.toContain(tenantUserId('Acme'))
    })
  })

  it('prune-tenant removes versions that no user is under, and status still counts the tenant', async () => {
    const tokens = await mint('alice@acme', 'bob@beta')
    store.run(['rotate-tenant', 'acme'])
    const prune = (...args: string[]) => store.run(['prune-tenant', 'acme', ...args], { env: NO_MASTER_KEY })
    expect(prune('--older-than', '0').stdout).toContain('Removed 0 versions')
    store.run(['rewrap'])
    expect(prune().stdout).toContain('Kept are the newest version')
    expect(prune('--older-than', '0', '--dry-run').stdout).toContain('Would remove 1 version')
    expect(await rootsOf('acme')).toHaveLength(2)
    const { status, report } = store.json(['prune-tenant', 'acme', '--older-than', '0'])
    expect([status, report]).toEqual([0, { tenantId: 'acme', versions: [1], dryRun: false }])
    expect(await rowsOfTenant('acme')).toMatchObject([{ version: 2 }])
    expect(await opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
    expect(store.run(['status']).stdout).toContain('2 tenants under 1 root')
    expect(store.run(['doctor']).stdout).not.toContain('withoutFirstVersion')
    expect(store.run(['prune-tenant', 'Acme']).status).toBe(1)
  })

  describe('move-tenant', () => {
    it('moves a tenant to a root of a file and back to the primary, and touches no user', async () => {
      const tokens = await mint('alice@acme', 'bob@beta', 'dave')
      store.run(['rotate-tenant', 'acme'])
      const others = async () => (await store.rows()).filter(({ userId }) => userId !== tenantUserId('acme'))
      const before = await others()
      const there = ['move-tenant', 'acme', '--root-file', 'keys/customer.key']
      expect(store.json([...there, '--dry-run']).report).toEqual({
        tenantId: 'acme',
        kekId: customer.id,
        versions: [1, 2],
        dryRun: true,
      })
      expect(await rootsOf('acme')).toEqual([idOf('a'), idOf('a')])
      const { stdout } = store.run(there)
      expect(stdout).toContain('Moved tenant "acme" (key version 1, 2)')
      expect(stdout).toContain('tenantRoot')
      expect(await rootsOf('acme')).toEqual([customer.id, customer.id])
      expect(store.run(there).stdout).toContain('already')

      // The root that wraps it must be given, and is never guessed.
      const refused = store.run(['move-tenant', 'acme'])
      expect(refused.status).toBe(1)
      expect(refused.stderr).toContain(customer.id)
      expect(store.run(['move-tenant', 'acme', ...CUSTOMERS_KEY]).status).toBe(0)
      expect(await rootsOf('acme')).toEqual([idOf('a'), idOf('a')])
      expect(await others()).toEqual(before)
      expect(await opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
    })

    it('takes no key as an argument, and shows none', async () => {
      await mint('alice@acme')
      const secret = readFileSync(path('customer'), 'utf8').trim()
      for (const root of [secret, `base64:${secret}`]) {
        const { status, stdout, stderr } = store.run(['move-tenant', 'acme', '--root', root])
        expect(status).toBe(2)
        expect(stdout + stderr).toContain('--root')
        expect(stdout + stderr).not.toContain(secret)
      }
      const both = ['--root', 'aws-kms:x', '--root-file', 'keys/b.key']
      expect(store.run(['move-tenant', 'acme', ...both]).status).toBe(2)
      expect(await rootsOf('acme')).toEqual([idOf('a')])
    })
  })

  it('evict-tenant makes a running service forget a tenant and its users within two seconds, with no key', async () => {
    const tokens = await mint('alice@acme', 'bob@beta')
    const inner = store.keys('a').primary
    let asked: (string | null)[] = []
    const primary: MasterKey = {
      id: inner.id,
      wrap: (...args) => inner.wrap(...args),
      unwrap(wrapped, aad, owner) {
        asked.push(owner.tenantId)
        return inner.unwrap(wrapped, aad, owner)
      },
    }
    await withApplication(async (envelope) => {
      const use = async () => {
        asked = []
        for (const userId of ['alice@acme', 'bob@beta'])
          expect(await envelope.decrypt(userId, tokens[userId] ?? '')).toBe(`secret of ${userId}`)
        return asked
      }
      await use()
      expect(await use()).toEqual([])
      expect(store.json(['evict-tenant', 'acme'], { env: NO_MASTER_KEY })).toEqual({
        status: 0,
        report: { tenantId: 'acme', versions: [1], kekIds: [inner.id] },
      })
      await new Promise((resolve) => setTimeout(resolve, 2000))
      expect(await use()).toEqual(['acme'])
    }, application(primary))
    expect(store.run(['evict-tenant', 'acme']).stdout).toContain(
      `every process has forgotten the key of tenant "acme"`,
    )
  })

  describe('shred-tenant', () => {
    it('ends all users of a tenant, and a key log keeps a backup from bringing them back', async () => {
      const log = { KEYSTORE_KEY_LOG: 'log.jsonl' }
      const tokens = await mint('alice@acme', 'bob@acme', 'carol@zeta')
      expect(store.run(['backup', 'backup.db']).status).toBe(0)
      const refused = store.run(['shred-tenant', 'acme'], { env: { ...NO_MASTER_KEY, ...log } })
      expect(refused.status).toBe(2)
      expect(refused.stderr).toContain('--yes')
      expect(store.json(['shred-tenant', 'acme', '--dry-run']).report).toEqual({
        tenantId: 'acme',
        keysOfUsers: 2,
        userId: tenantUserId('acme'),
        versions: [1],
        forget: false,
        dryRun: true,
      })
      expect(store.run(['shred-tenant', 'acme', '--dry-run']).stdout).toContain(
        'tenant "acme" has version 1, and 2 keys of its users are under it. Would erase what there is.',
      )
      expect(await opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')

      const { status, report } = store.json(['shred-tenant', 'acme', '--yes'], {
        env: { ...NO_MASTER_KEY, ...log },
      })
      expect(status).toBe(0)
      expect(report).toMatchObject({
        tenantId: 'acme',
        keysOfUsers: 2,
        versions: [1],
        kekIds: [idOf('a')],
        forget: false,
        erased: dialect === 'sqlite' ? 'file' : 'pending',
      })
      expect(JSON.stringify(report)).not.toContain('store.maintenance')
      const lines = readFileSync(join(store.folder, 'log.jsonl'), 'utf8').trim().split('\n')
      expect(lines.map((line) => JSON.parse(line))).toMatchObject([
        { event: 'shredding', userId: tenantUserId('acme'), versions: [1] },
        { event: 'shredded', userId: tenantUserId('acme'), versions: [1] },
      ])
      for (const userId of ['alice@acme', 'bob@acme'])
        expect(await opened(userId, tokens[userId])).toBe('ERR_KEY_SHREDDED')
      expect(await opened('carol@zeta', tokens['carol@zeta'])).toBe('secret of carol@zeta')
      expect(store.run(['tenants', '--count']).stdout).toMatch(/"acme" .* shredded \d{4}-\d\d-\d\d +│ 2 /)

      const drill = ['restore', 'backup.db', '--store', 'drill.db']
      const restored = store.run(drill, { env: log })
      expect(restored.status).toBe(0)
      expect(store.json(['tenants', '--store', 'drill.db']).report).toMatchObject({
        tenants: [{ tenantId: 'acme', versions: [{ shreddedAt: report.at }] }, { tenantId: 'zeta' }],
      })
    })

    it('leaves nothing that a rotation of all users, a rewrap or a verification fails at', async () => {
      await mint('alice@acme', 'bob@beta')
      store.run(['rotate-tenant', 'acme'])
      store.run(['shred-tenant', 'acme', '--yes'])
      expect(store.json(['rotate-user', '--older-than', '0'])).toMatchObject({
        status: 0,
        report: { rotated: 1, shredded: 1, failedCount: 0 },
      })
      expect(
        store.run(['rewrap', '--master-key-file', 'keys/b.key', '--previous-key-file', 'keys/a.key']).status,
      ).toBe(0)
      expect(store.run(['doctor', '--master-key-file', 'keys/b.key']).stdout).not.toContain('error: ')
    })

    it('says what it did, and with --forget what is left', async () => {
      await mint('alice@acme', 'bob@beta')
      const shredded = store.run(['shred-tenant', 'acme', '--yes']).stdout
      expect(shredded).toContain('Shredded tenant "acme"')
      expect(shredded).toContain('every later use by any of its users is ERR_KEY_SHREDDED')
      expect(shredded).toContain('1 key of its users ended with it.')
      expect(shredded).toContain('Not recorded outside the database')
      const forgotten = store.run(['shred-tenant', 'beta', '--yes', '--forget']).stdout
      expect(forgotten).toContain('forgotten, a new key may be made')
      expect(forgotten).toContain('npx keystore shred-user ID --forget')
      expect(await rowsOfTenant('beta')).toEqual([])
    })

    it('with --with-users forgets its users too, but nobody who has keys elsewhere', async () => {
      const log = { KEYSTORE_KEY_LOG: 'log.jsonl' }
      await mint('alice@acme', 'bob@acme', 'carol@zeta', 'dave')
      store.run(['rotate-tenant', 'acme'])
      await mint('erin@acme')
      await store.use(async (opened) => {
        const row = await mintedRow(store.keys('a').primary, 'bob@acme', { version: 2 })
        await opened.insertIfAbsent([row])
      })
      const owners = async () => [...new Set((await store.rows()).map(({ userId }) => userId))]
      const { status, report } = store.json(['shred-tenant', 'acme', '--yes', '--with-users'], { env: log })
      expect(status).toBe(0)
      expect(report).toMatchObject({
        keysOfUsers: 3,
        versions: [1, 2],
        forget: false,
        users: { forgotten: 2, kept: 1 },
        complete: true,
      })
      const left = [tenantUserId('zeta'), 'bob@acme', 'carol@zeta', 'dave']
      expect(await owners()).toEqual([tenantUserId('acme'), ...left])
      // Also of a tenant that was shredded before. Its rows go last.
      const again = store.run(['shred-tenant', 'acme', '--yes', '--with-users', '--forget'], { env: log })
      expect(again.stdout).toContain('1 user kept all rows')
      expect(await owners()).toEqual(left)
      const entries = readFileSync(join(store.folder, 'log.jsonl'), 'utf8').trim().split('\n')
      const shredded = entries.map((line) => JSON.parse(line)).filter(({ event }) => event === 'shredded')
      expect(shredded.map(({ userId, forget }) => [userId, forget])).toEqual([
        [tenantUserId('acme'), false],
        ['alice@acme', true],
        ['erin@acme', true],
        [tenantUserId('acme'), false],
        [tenantUserId('acme'), true],
      ])
      const tokens = await mint('alice@acme')
      expect(await opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
    })

    it('refuses a mistyped id, unless a tombstone is wanted', async () => {
      await mint('alice@acme')
      const { status, stderr } = store.run(['shred-tenant', 'Acme', '--yes'])
      expect(status).toBe(1)
      expect(stderr).toContain('The store has no tenant "Acme": nothing was shredded')
      expect(store.run(['shred-tenant', 'Acme', '--yes', '--allow-unknown']).status).toBe(0)
      expect(await rowsOfTenant('Acme')).toMatchObject([{ version: 1, shreddedAt: expect.any(Date) }])
    })

    it('does not take a user for a tenant, nor a tenant for a user', async () => {
      await mint('alice@acme', 'dave')
      expect(store.run(['shred-tenant', 'dave', '--yes']).status).toBe(1)
      for (const command of ['shred-user', 'rotate-user'])
        expect(
          store.run([command, tenantUserId('acme'), ...(command === 'shred-user' ? ['--yes'] : [])]).status,
        ).toBe(2)
      expect(await rowsOfTenant('acme')).toMatchObject([{ version: 1, shreddedAt: null }])
    })

    itIf(hasTerminal, 'script (util-linux) is not installed')('asks on a terminal for the id', async () => {
      await mint('alice@acme')
      const ask = (typed: string) =>
        onTerminal(store.folder, ['shred-tenant', 'acme'], { typed, env: { KEYSTORE_URL: store.url } })
      const refused = ask('yes\n')
      expect(refused.shown).toContain('1 key of its users is under it')
      expect(refused.shown).toContain('for any of its users can never be decrypted again')
      expect(refused.shown).toContain('nothing was shredded')
      expect(refused.status).toBe(1)
      expect(await rowsOfTenant('acme')).toMatchObject([{ shreddedAt: null }])
      expect(ask('acme\n').status).toBe(0)
      expect(await rowsOfTenant('acme')).toMatchObject([{ shreddedAt: expect.any(Date) }])
    })
  })

  describe('doctor', () => {
    it('finds a damaged key of a tenant once, says what to do, and that works', async () => {
      const tokens = await mint('alice@acme', 'bob@acme')
      expect(store.run(['backup', 'backup.db']).status).toBe(0)
      const ref = { userId: tenantUserId('acme'), version: 1 }
      await store.use((opened) =>
        opened.getAll([ref.userId]).then(async (rows) => {
          const [row] = rows.get(ref.userId) ?? []
          if (row === undefined) throw new Error('no row')
          const damaged = { ...row, from: row.encryptedKey, wrappedAt: new Date() }
          await opened.replaceWrapped([{ ...damaged, encryptedKey: corrupted(row.encryptedKey) }])
        }),
      )
      const { status, stdout } = store.run(['doctor'])
      expect(status).toBe(1)
      expect(stdout).toContain('error: undecryptable (1)')
      expect(stdout).toContain('tenant "acme", version 1: The wrapped key does not open under')
      expect(stdout).toContain('docs/OPERATIONS.md, "Tenants"')
      expect(stdout).not.toContain('alice')
      expect(await opened('alice@acme', tokens['alice@acme'])).toBe('ERR_UNWRAP_FAILED')

      expect(store.run(['restore', 'backup.db']).stderr).toContain('ERR_CONFLICT')
      expect(store.run(['shred-tenant', 'acme', '--forget', '--yes']).status).toBe(0)
      expect(store.run(['restore', 'backup.db']).status).toBe(0)
      expect(await opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
      expect(store.run(['doctor']).status).toBe(0)
    })

    it('finds users whose tenant is missing or shredded, and tenants under roots that it was not given', async () => {
      await mint('alice@acme', 'bob@beta', 'carol@zeta', 'dave')
      await store.use((opened) => opened.remove([{ userId: tenantUserId('acme'), version: 1 }]))
      store.run(['shred-tenant', 'beta', '--yes'])
      const { report } = store.json<{ findings: unknown[] }>(['doctor'])
      expect(report.findings).toEqual(
        expect.arrayContaining([
          expect.objectContaining({ kind: 'tenantMissing', severity: 'error', userId: tenantUserId('acme') }),
          expect.objectContaining({ kind: 'tenantShredded', severity: 'note', userId: tenantUserId('beta') }),
          expect.objectContaining({ kind: 'tenantNotChecked', severity: 'warning', kekId: customer.id }),
        ]),
      )
      const { status, stdout } = store.run(['doctor'])
      expect(status).toBe(1)
      expect(stdout).toContain('tenant "acme", version 1: The key is not in the store')
      expect(stdout).toContain('npx keystore restore')
      expect(stdout).toContain('npx keystore shred-user ID --forget')
      expect(stdout).toContain('--previous-key-file FILE')
      expect(store.run(['doctor', ...CUSTOMERS_KEY]).stdout).not.toContain('tenantNotChecked')
    })

    it('names twenty of many tenants that it cannot check', async () => {
      await store.use((opened) =>
        Promise.all(
          Array.from({ length: 25 }, async (_, at) => {
            const row = await mintedRow(remoteMasterKey({ id: `root-${at}` }), tenantUserId(`t${at}`))
            await opened.insertIfAbsent([row])
          }),
        ),
      )
      const { stdout } = store.run(['doctor'])
      expect(stdout).toContain('warning: tenantNotChecked (25)')
      expect(stdout).toContain('… and 5 more')
      expect(stdout.split('\n').length).toBeLessThan(40)
    })
  })

  it('rewrap moves tenants under previous keys to the primary, and leaves users and customers’ tenants', async () => {
    const tokens = await mint('alice@acme', 'carol@zeta', 'dave')
    const users = async () => (await store.rows()).filter(({ userId }) => userId.endsWith('@acme'))
    const before = await users()
    const args = ['rewrap', '--master-key-file', 'keys/b.key', '--previous-key-file', 'keys/a.key']
    expect(store.run([...args, '--dry-run']).stdout).toContain('Would rewrap 2 keys')
    const { status, stdout } = store.run(args)
    expect(status).toBe(0)
    expect(stdout).toContain(`Rewrapped 2 keys under ${idOf('b')}`)
    expect(stdout).toContain(`${idOf('b')} (keys of tenants)`)
    expect(stdout).toMatch(/tenants' keys +│ 2 +│ 2 /)
    expect(stdout).toMatch(/other roots \(keys of tenants\) +│ 1 +│ 1 /)
    expect(stdout).toMatch(new RegExp(`${idOf('a')} +│ previous │ 0 +│ no`))
    expect(await rootsOf('acme')).toEqual([idOf('b')])
    expect(await rootsOf('zeta')).toEqual([customer.id])
    expect(await users()).toEqual(before)
    const now = application(store.keys('b').primary)
    for (const userId of ['alice@acme', 'carol@zeta', 'dave'])
      expect(await opened(userId, tokens[userId], now)).toBe(`secret of ${userId}`)
  })

  it('copy takes tenants along, and names them where it would erase or refuse', async () => {
    const tokens = await mint('alice@acme', 'carol@zeta')
    const to = join(store.folder, 'to.db')
    const copy = (...args: string[]) => store.run(['copy', '--from', store.url, '--to', to, ...args])
    expect(copy().stdout).toContain('Both hold the same records.')
    expect(store.run(['tenants', '--store', to, '--count']).stdout).toContain('2 tenants.')
    const output = store.run(['decrypt', '--store', to, '--user', 'alice@acme'], {
      input: tokens['alice@acme'] ?? '',
    })
    expect(output.stdout).toBe('secret of alice@acme')

    store.run(['shred-tenant', 'acme', '--yes'])
    const refused = copy('--dry-run').stdout
    expect(refused).toContain('Refused without --apply-erasures')
    expect(refused).toContain('  tenant "acme"\n')
    expect(copy('--apply-erasures', '--yes').stdout).toContain('tenant "acme"')
    await store.use((opened) =>
      alterRow(opened, { userId: tenantUserId('zeta'), version: 1 }, () => ({ createdAt: new Date(0) })),
    )
    expect(copy('--dry-run').stdout).toContain('tenant "zeta", version 1, ')
    expect(copy().stderr).toContain('tenant')
  })
})
