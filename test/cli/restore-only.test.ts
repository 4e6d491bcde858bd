/** `keystore restore --tenant` and `--user`: one row comes back from a backup, though others have changed since. */
import { beforeEach, describe, expect, it } from 'vitest'
import { tenantUserId } from '../../src/table.js'
import { commandTenantsOfEachTest } from '../support/command-tenants.js'
import { dialects } from '../support/databases.js'

describe.each(dialects)('on %s', (dialect) => {
  const { app, store } = commandTenantsOfEachTest(dialect)
  let tokens: Record<string, string>
  beforeEach(async () => {
    tokens = await app.mint('alice@acme', 'bob@beta', 'dave')
    store.run(['backup', 'backup.db'])
    store.run(['move-tenant', 'beta', '--root-file', 'keys/customer.key'])
  })

  it('brings back a tenant as doctor says, though another one was moved since', async () => {
    await store.use((opened) => opened.remove([{ userId: tenantUserId('acme'), version: 1 }]))
    expect(store.run(['doctor']).stdout).toContain('restore BACKUP --tenant ID')
    const refused = store.run(['restore', 'backup.db'])
    expect(refused.status).toBe(1)
    expect(refused.stderr).toContain('--tenant')
    expect(store.run(['restore', 'backup.db', '--dry-run']).stdout).toContain('restore FILE --user ID')
    const dry = store.json(['restore', 'backup.db', '--tenant', 'acme', '--dry-run'])
    expect(dry).toMatchObject({ status: 0, report: { copied: 1, conflictCount: 0 } })
    const { status, stdout } = store.run(['restore', 'backup.db', '--tenant', 'acme'])
    expect([status, stdout]).toEqual([0, expect.stringContaining('Copied 1 row')])
    expect(stdout).toContain('SHA-256 of these records')
    expect(await app.opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
    expect(await app.rootsOf('beta')).toEqual([app.customer.id])
  })

  it('says so where the key log has ended what was to come back', async () => {
    const log = ['--key-log', 'log.jsonl']
    store.run(['doctor', '--record-keys', ...log])
    const shredded = store.run(['shred-tenant', 'acme', '--yes', '--forget', ...log])
    expect(shredded.stdout).toContain('no restore brings it back')
    const restored = store.run(['restore', 'backup.db', '--tenant', 'acme', ...log])
    expect(restored.status).toBe(1)
    expect(restored.stdout).toContain('Not brought back 1 tenant of the source: the key log says')
    expect(restored.stdout).toContain('tenant "acme"')
    const doctor = store.json(['doctor', ...log, '--previous-key-file', 'keys/customer.key'])
    expect([doctor.status, doctor.report.counts]).toEqual([
      1,
      expect.objectContaining({ tenantForgotten: 1, tenantMissing: 1 }),
    ])
    store.run(['shred-user', 'dave', '--yes', ...log])
    expect(store.json(['restore', 'backup.db', '--user', 'dave', ...log])).toMatchObject({
      status: 1,
      report: { copied: 0, ended: ['dave'] },
    })
    expect(store.json(['restore', 'backup.db', '--user', 'alice@acme', ...log])).toMatchObject({
      status: 0,
      report: { ended: [] },
    })
  })

  it('brings back users, names what the key log still lacks of them, and refuses ids that it has not', async () => {
    const log = ['--key-log', 'log.jsonl']
    store.run(['doctor', '--record-keys', ...log])
    store.run(['rotate-user', 'dave', ...log])
    store.run(['rotate-user', 'bob@beta', ...log, '--previous-key-file', 'keys/customer.key'])
    await store.use((opened) =>
      opened.remove([1, 2].flatMap((version) => ['dave', 'bob@beta'].map((userId) => ({ userId, version })))),
    )
    const users = ['restore', 'backup.db', '--user', 'dave', '--user', 'alice@acme', ...log]
    const { status, report } = store.json(users)
    expect([status, report]).toEqual([
      1,
      expect.objectContaining({
        copied: 1,
        lost: { count: 1, keys: [expect.objectContaining({ userId: 'dave', version: 2 })] },
      }),
    ])
    expect(await app.opened('dave', tokens.dave)).toBe('secret of dave')
    for (const [id, name] of [
      ['--tenant', 'tenant "Acme"'],
      ['--user', 'user "Acme"'],
    ] as const) {
      const unknown = store.run(['restore', 'backup.db', id, 'Acme'])
      expect(unknown.status).toBe(1)
      expect(unknown.stderr).toContain(`The source has no key of ${name}`)
    }
    expect(store.run(['restore', 'backup.db', '--pool']).stderr).toContain('no key of the pool')
    for (const id of ['', tenantUserId('acme')])
      expect(store.run(['restore', 'backup.db', '--user', id]).status).toBe(2)
  })
})
