/** What is done to the key of one tenant, and to nobody else: rotate-tenant, prune-tenant, move-tenant, evict-tenant. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { MasterKey } from '../../src/index.js'
import { tenantUserId } from '../../src/table.js'
import { CUSTOMERS_KEY, commandTenantsOfEachTest, NO_MASTER_KEY } from '../support/command-tenants.js'
import { dialects } from '../support/databases.js'

describe.each(dialects)('on %s', (dialect) => {
  const { app, store } = commandTenantsOfEachTest(dialect)

  describe('rotate-tenant', () => {
    it('makes a version under the same root, and rewrap brings users along without tenantOf', async () => {
      const tokens = await app.mint('alice@acme', 'dave')
      expect(store.json(['rotate-tenant', 'acme', '--dry-run']).report).toEqual({
        tenantId: 'acme',
        version: 2,
        rotated: true,
        kekId: app.idOf('a'),
        dryRun: true,
      })
      expect(await app.rootsOf('acme')).toEqual([app.idOf('a')])
      const { status, stdout } = store.run(['rotate-tenant', 'acme', '--key-log', 'log.jsonl'])
      expect(status).toBe(0)
      expect(stdout).toContain('Made version 2 of the key of tenant "acme"')
      expect(stdout).toContain('npx keystore rewrap')
      expect(await app.rootsOf('acme')).toEqual([app.idOf('a'), app.idOf('a')])
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
      expect(await app.opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
    })

    it("never wraps a customer's tenant under another root", async () => {
      await app.mint('carol@zeta')
      const refused = store.run(['rotate-tenant', 'zeta'])
      expect(refused.status).toBe(1)
      expect(refused.stderr).toContain('ERR_UNKNOWN_MASTER_KEY')
      expect(refused.stderr).toContain(app.customer.id)
      expect(refused.stderr).toContain('The primary master key stays what it is')
      expect(refused.stderr).toMatch(/beside it: --previous-key-file FILE/)
      expect(refused.stderr).not.toContain('--master-key-file')
      expect(await app.rootsOf('zeta')).toEqual([app.customer.id])
      expect(store.run(['rotate-tenant', 'zeta', ...CUSTOMERS_KEY]).status).toBe(0)
      expect(await app.rootsOf('zeta')).toEqual([app.customer.id, app.customer.id])
    })

    it('refuses a tenant that is not there, or was shredded, and an id that is none', async () => {
      await app.mint('alice@acme')
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
    const tokens = await app.mint('alice@acme', 'bob@beta')
    store.run(['rotate-tenant', 'acme'])
    const prune = (...args: string[]) => store.run(['prune-tenant', 'acme', ...args], { env: NO_MASTER_KEY })
    expect(prune('--older-than', '0').stdout).toContain('Removed 0 versions')
    store.run(['rewrap'])
    expect(prune().stdout).toContain('Kept are the newest version')
    expect(prune('--older-than', '0', '--dry-run').stdout).toContain('Would remove 1 version')
    expect(await app.rootsOf('acme')).toHaveLength(2)
    const { status, report } = store.json(['prune-tenant', 'acme', '--older-than', '0'])
    expect([status, report]).toEqual([0, { tenantId: 'acme', versions: [1], dryRun: false }])
    expect(await app.rowsOfTenant('acme')).toMatchObject([{ version: 2 }])
    expect(await app.opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
    expect(store.run(['status']).stdout).toContain('2 tenants under 1 root')
    expect(store.run(['doctor']).stdout).not.toContain('withoutFirstVersion')
    expect(store.run(['prune-tenant', 'Acme']).status).toBe(1)
  })

  it('prune-tenant --unused removes tenants without users, of all or of one', async () => {
    await app.mint('alice@acme', 'bob@beta', 'carol@zeta')
    for (const userId of ['alice@acme', 'carol@zeta']) store.run(['shred-user', userId, '--forget', '--yes'])
    const prune = (...args: string[]) =>
      store.json(['prune-tenant', '--unused', ...args], { env: NO_MASTER_KEY })
    expect(store.run(['prune-tenant', '--unused']).stdout).toContain('npx keystore tenants --count')
    expect(store.run(['prune-tenant']).status).toBe(2)
    expect(prune('--older-than', '0', '--dry-run').report).toEqual({
      tenantIds: ['acme', 'zeta'],
      dryRun: true,
    })
    expect(prune('beta', '--older-than', '0').report).toEqual({ tenantIds: [], dryRun: false })
    expect(store.run(['prune-tenant', 'Acme', '--unused']).status).toBe(1)
    const { stdout } = store.run(['prune-tenant', '--unused', '--older-than', '0', '--key-log', 'log.jsonl'])
    expect(stdout).toContain('Removed the keys of 2 tenants without users.\n  tenant "acme"\n')
    expect(readFileSync(join(store.folder, 'log.jsonl'), 'utf8')).toContain('"pruned"')
    expect((await store.rows()).map(({ userId }) => userId)).toEqual([tenantUserId('beta'), 'bob@beta'])
  })

  describe('move-tenant', () => {
    it('moves a tenant to a root of a file and back to the primary, and touches no user', async () => {
      const tokens = await app.mint('alice@acme', 'bob@beta', 'dave')
      store.run(['rotate-tenant', 'acme'])
      const others = async () => (await store.rows()).filter(({ userId }) => userId !== tenantUserId('acme'))
      const before = await others()
      const there = ['move-tenant', 'acme', '--root-file', 'keys/customer.key']
      expect(store.json([...there, '--dry-run']).report).toEqual({
        tenantId: 'acme',
        kekId: app.customer.id,
        versions: [1, 2],
        dryRun: true,
      })
      expect(await app.rootsOf('acme')).toEqual([app.idOf('a'), app.idOf('a')])
      const { stdout } = store.run(there)
      expect(stdout).toContain('Moved tenant "acme" (key version 1, 2)')
      expect(stdout).toContain('tenantRoot')
      expect(await app.rootsOf('acme')).toEqual([app.customer.id, app.customer.id])
      expect(store.run(there).stdout).toContain('already')

      // The root that wraps it must be given, and is never guessed.
      const refused = store.run(['move-tenant', 'acme'])
      expect(refused.status).toBe(1)
      expect(refused.stderr).toContain(app.customer.id)
      expect(refused.stderr).toContain('--root and --root-file name the new root')
      expect(store.run(['move-tenant', 'acme', ...CUSTOMERS_KEY]).status).toBe(0)
      expect(await app.rootsOf('acme')).toEqual([app.idOf('a'), app.idOf('a')])
      expect(await others()).toEqual(before)
      expect(await app.opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
    })

    it('tries the new root out in a dry run too', async () => {
      await app.mint('alice@acme')
      // Nothing listens on port 1.
      const there = ['--root', 'vault:http://127.0.0.1:1/transit/keys/customer']
      const dry = store.run(['move-tenant', 'acme', ...there, '--dry-run'], {
        env: { VAULT_TOKEN: 'token-of-the-test' },
      })
      expect([dry.status, dry.stdout]).toEqual([1, ''])
      expect(dry.stderr).toContain('ERR_MASTER_KEY')
      expect(dry.stderr).toContain('vault:http://127.0.0.1:1/transit/keys/customer')
      expect(dry.stderr).not.toContain('token-of-the-test')
    })

    it('takes no key as an argument, and shows none', async () => {
      await app.mint('alice@acme')
      const secret = readFileSync(app.path('customer'), 'utf8').trim()
      for (const root of [secret, `base64:${secret}`]) {
        const { status, stdout, stderr } = store.run(['move-tenant', 'acme', '--root', root])
        expect(status).toBe(2)
        expect(stdout + stderr).toContain('--root')
        expect(stdout + stderr).not.toContain(secret)
      }
      const both = ['--root', 'aws-kms:x', '--root-file', 'keys/b.key']
      expect(store.run(['move-tenant', 'acme', ...both]).status).toBe(2)
      expect(await app.rootsOf('acme')).toEqual([app.idOf('a')])
    })
  })

  it('evict-tenant makes a running service forget a tenant and its users within two seconds, with no key', async () => {
    const tokens = await app.mint('alice@acme', 'bob@beta')
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
    await app.withApplication(async (envelope) => {
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
    }, app.application(primary))
    expect(store.run(['evict-tenant', 'acme']).stdout).toContain(
      `every process has forgotten the key of tenant "acme"`,
    )
  })
})
