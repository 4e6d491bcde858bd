/** Tenants on the command line: what is listed, counted and checked, and what commands for all keys do with them. */
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { masterKeyring } from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { CUSTOMERS_KEY, commandTenantsOfEachTest, NO_MASTER_KEY } from '../support/command-tenants.js'
import { dialects } from '../support/databases.js'
import { alterRow, corrupted, mintedRow, spoilTime } from '../support/rows.js'
import { remoteMasterKey } from '../support/store-doubles.js'
import { expectPrintable, HOSTILE_ID } from '../support/unprintable.js'

interface ListedTenants {
  readonly tenants: readonly { readonly versions: readonly Record<string, unknown>[] }[]
  readonly next: string | null
}

describe.each(dialects)('on %s', (dialect) => {
  const { app, store } = commandTenantsOfEachTest(dialect)
  /** Each under a root of its own. */
  const insertTenants = (count: number) =>
    store.use((opened) =>
      Promise.all(
        Array.from({ length: count }, async (_, at) => {
          const row = await mintedRow(remoteMasterKey({ id: `root-${at}` }), tenantUserId(`t${at}`))
          await opened.insertIfAbsent([row])
        }),
      ),
    )

  describe('tenants', () => {
    it('lists them without a master key, page by page, with the keys of their users', async () => {
      await app.mint('alice@acme', 'bob@acme', 'carol@zeta', 'dave')
      const list = (...args: string[]) =>
        store.json<ListedTenants>(['tenants', ...args], { env: NO_MASTER_KEY })
      const { status, report } = list('--count')
      expect(status).toBe(0)
      expect(report).toMatchObject({
        tenants: [
          { tenantId: 'acme', shredded: false, versions: [{ version: 1, kekId: app.idOf('a'), keys: 2 }] },
          { tenantId: 'zeta', shredded: false, versions: [{ version: 1, kekId: app.customer.id, keys: 1 }] },
        ],
        next: null,
        unreadable: 0,
      })
      const [acme] = await app.rowsOfTenant('acme')
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
      await app.mint(`u@${hostile}`, 'v@x')
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
      await app.mint('alice@acme', 'bob@beta')
      await spoilTime(dialect, store.url, tenantUserId('beta'))
      const { status, stdout } = store.run(['tenants'])
      expect(status).toBe(1)
      expect(stdout).toContain('1 row of tenants cannot be read')
      expect(stdout).toContain('"acme"')
    })
  })

  it('status and doctor count tenants, roots and the keys of users under tenants', async () => {
    await app.mint('alice@acme', 'bob@acme', 'carol@zeta', 'dave')
    store.run(['shred-tenant', 'acme', '--yes'])
    const status = store.run(['status'], { env: NO_MASTER_KEY })
    expect(status.stdout).toContain(
      "2 tenants (1 shredded) under 1 root, 3 keys of users under tenants' keys: npx keystore tenants lists them",
    )
    expect(status.stdout).toMatch(/│ tenants' keys +│ 1 +│ live +│ 3 /)
    expect(status.stdout).toContain(`${app.customer.id} (keys of tenants)`)
    const { report } = store.json<Record<string, unknown>[]>(['status'])
    expect(report).toContainEqual(
      expect.objectContaining({ kekId: app.customer.id, ofTenants: true, version: 1, count: 1 }),
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
    await insertTenants(21)
    const { stdout } = store.run(['status'])
    expect(stdout).toContain('21 tenants under roots of their own')
    expect(stdout).not.toContain('root-')
  })

  it('other commands work in a store all of whose tenants have roots of their own, but make no first key there', async () => {
    const tokens = await app.mint('a@alpha', 'b@beta', 'c@gamma', 'carol@zeta')
    await app.withApplication(
      async (envelope) => {
        for (const tenantId of ['alpha', 'beta', 'gamma'])
          await envelope.moveTenant(tenantId, remoteMasterKey({ id: `root of ${tenantId}` }))
      },
      masterKeyring({ primary: store.keys('a').primary }),
    )
    const decrypt = (userId: string, ...args: readonly string[]) =>
      store.run(['decrypt', '--user', userId, ...args], { input: tokens[userId] ?? '' })
    expect(decrypt('carol@zeta', ...CUSTOMERS_KEY).stdout).toBe('secret of carol@zeta')
    expect(decrypt('carol@zeta').stderr).toContain(app.customer.id)
    expect(decrypt('a@alpha', ...CUSTOMERS_KEY).stderr).toContain('root of alpha')
    expect(store.run(['rotate-user', 'carol@zeta', ...CUSTOMERS_KEY]).status).toBe(0)
    expect(store.run(['rotate-tenant', 'zeta', ...CUSTOMERS_KEY]).status).toBe(0)
    const before = await store.rows()
    const refused = store.run(['encrypt', '--user', 'dave'], { input: 'secret' })
    expect(refused.stderr).toContain('ERR_UNKNOWN_MASTER_KEY')
    expect(await store.rows()).toEqual(before)
    expect(store.run(['move-tenant', 'zeta', ...CUSTOMERS_KEY]).status).toBe(0)
    expect(decrypt('carol@zeta').stdout).toBe('secret of carol@zeta')
  })

  describe('doctor', () => {
    it('finds a damaged key of a tenant once, says what to do, and that works', async () => {
      const tokens = await app.mint('alice@acme', 'bob@acme')
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
      expect(await app.opened('alice@acme', tokens['alice@acme'])).toBe('ERR_UNWRAP_FAILED')

      expect(store.run(['restore', 'backup.db']).stderr).toContain('ERR_CONFLICT')
      expect(store.run(['shred-tenant', 'acme', '--forget', '--yes']).status).toBe(0)
      expect(store.run(['restore', 'backup.db']).status).toBe(0)
      expect(await app.opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
      expect(store.run(['doctor']).status).toBe(0)
    })

    it('finds users whose tenant is missing or shredded, and tenants under roots that it was not given', async () => {
      await app.mint('alice@acme', 'bob@beta', 'carol@zeta', 'dave')
      await store.use((opened) => opened.remove([{ userId: tenantUserId('acme'), version: 1 }]))
      store.run(['shred-tenant', 'beta', '--yes'])
      const { report } = store.json<{ findings: unknown[] }>(['doctor'])
      expect(report.findings).toEqual(
        expect.arrayContaining([
          expect.objectContaining({ kind: 'tenantMissing', severity: 'error', userId: tenantUserId('acme') }),
          expect.objectContaining({ kind: 'tenantShredded', severity: 'note', userId: tenantUserId('beta') }),
          expect.objectContaining({ kind: 'tenantNotChecked', severity: 'warning', kekId: app.customer.id }),
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
      await insertTenants(25)
      const { stdout } = store.run(['doctor'])
      expect(stdout).toContain('warning: tenantNotChecked (25)')
      expect(stdout).toContain('… and 5 more')
      expect(stdout.split('\n').length).toBeLessThan(40)
    })
  })

  it('rewrap --tenants moves tenants under previous keys to the primary, and leaves users and customers’ tenants', async () => {
    const tokens = await app.mint('alice@acme', 'carol@zeta', 'dave')
    const users = async () => (await store.rows()).filter(({ userId }) => userId.endsWith('@acme'))
    const before = await users()
    const args = ['rewrap', '--master-key-file', 'keys/b.key', '--previous-key-file', 'keys/a.key']
    const dry = store.run([...args, '--tenants', '--dry-run']).stdout
    expect(dry).toContain('Would rewrap 2 keys')
    expect(dry).toContain(`Would move 1 key of tenants from ${app.idOf('a')} to ${app.idOf('b')}`)
    const { status, stdout } = store.run([...args, '--tenants'])
    expect(status).toBe(0)
    expect(stdout).toContain(`Rewrapped 2 keys under ${app.idOf('b')}`)
    expect(stdout).toContain(`Moved 1 key of tenants from ${app.idOf('a')} to ${app.idOf('b')}`)
    expect(stdout).not.toContain('Warning')
    expect(stdout).toContain(`${app.idOf('b')} (keys of tenants)`)
    expect(stdout).toMatch(/tenants' keys +│ 2 +│ 2 /)
    expect(stdout).toMatch(/other roots \(keys of tenants\) +│ 1 +│ 1 /)
    expect(stdout).toMatch(new RegExp(`${app.idOf('a')} +│ previous │ 0 +│ no`))
    expect(stdout).toContain('1 key of tenants is under master keys that were not given, and stayed there')
    expect(await app.rootsOf('acme')).toEqual([app.idOf('b')])
    expect(await app.rootsOf('zeta')).toEqual([app.customer.id])
    expect(await users()).toEqual(before)
    const now = app.application(store.keys('b').primary)
    for (const userId of ['alice@acme', 'carol@zeta', 'dave'])
      expect(await app.opened(userId, tokens[userId], now)).toBe(`secret of ${userId}`)
  })

  it('rewrap --tenants and doctor fail where no master key of the store was given', async () => {
    await app.mint('alice@acme')
    const others = ['--master-key-file', 'keys/b.key']
    const { status, stdout } = store.run(['rewrap', '--tenants', ...others])
    expect([status, stdout]).toEqual([1, expect.stringContaining('1 key of tenants is under master keys')])
    const doctor = store.json(['doctor', ...others])
    expect([doctor.status, doctor.report.counts]).toEqual([1, expect.objectContaining({ nothingChecked: 1 })])
    expect(store.json(['doctor']).report.counts).not.toHaveProperty('nothingChecked')
  })

  it('rewrap leaves every tenant under its root, says so, and brings users under the newest version', async () => {
    const tokens = await app.mint('alice@acme', 'carol@zeta', 'dave')
    expect(store.run(['rotate-tenant', 'zeta', ...CUSTOMERS_KEY]).status).toBe(0)
    const { status, stdout } = store.run(['rewrap', ...CUSTOMERS_KEY])
    expect(status).toBe(0)
    expect(stdout).toContain('Rewrapped 1 key')
    expect(stdout).toContain(`Warning: 2 keys of tenants stay under master key ${app.customer.id}`)
    expect(stdout).toContain('npx keystore rewrap --tenants')
    expect(await app.rootsOf('zeta')).toEqual([app.customer.id, app.customer.id])
    const kekOf = async (userId: string) => (await store.rows()).find((row) => row.userId === userId)?.kekId
    expect(await kekOf('carol@zeta')).toBe('tenant:2:zeta')
    expect(store.run(['prune-tenant', 'zeta', '--older-than', '0']).stdout).toContain('Removed 1 version')

    const args = ['rewrap', '--master-key-file', 'keys/b.key', '--previous-key-file', 'keys/a.key']
    expect(store.run(args).stdout).toContain(
      `Warning: 1 key of a tenant stays under master key ${app.idOf('a')}`,
    )
    expect(await app.rootsOf('acme')).toEqual([app.idOf('a')])
    expect(await kekOf('dave')).toBe(app.idOf('b'))
    const keys = { primary: store.keys('b').primary, previous: [store.keys('a').primary, app.customer] }
    for (const userId of ['alice@acme', 'carol@zeta', 'dave'])
      expect(await app.opened(userId, tokens[userId], masterKeyring(keys))).toBe(`secret of ${userId}`)
  })

  it('encrypt for a new user says that the key is under no tenant’s', async () => {
    const encrypt = (user: string) => store.run(['encrypt', '--user', user], { input: 'secret' })
    await app.mint('dave')
    expect(encrypt('before').stderr).toBe('')
    await app.mint('alice@acme')
    const { status, stdout, stderr } = encrypt('bob@acme')
    expect([status, stdout]).toEqual([0, expect.stringMatching(/^v3:/)])
    expect(stderr).toContain('The new key of "bob@acme" is under the primary master key')
    expect(stderr).toContain('rewrapAll')
    for (const user of ['bob@acme', 'alice@acme']) expect(encrypt(user).stderr).toBe('')
  })

  it('copy takes tenants along, and names them where it would erase or refuse', async () => {
    const tokens = await app.mint('alice@acme', 'carol@zeta')
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
