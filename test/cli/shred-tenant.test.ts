/** `keystore shred-tenant`: it ends all users of a tenant, asks first, and says what is left. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { tenantUserId } from '../../src/table.js'
import { commandTenantsOfEachTest, NO_MASTER_KEY } from '../support/command-tenants.js'
import { itIf } from '../support/conditional.js'
import { dialects } from '../support/databases.js'
import { mintedRow } from '../support/rows.js'
import { hasTerminal, onTerminal } from '../support/terminal.js'

describe.each(dialects)('on %s', (dialect) => {
  const { app, store } = commandTenantsOfEachTest(dialect)

  it('ends all users of a tenant, and a key log keeps a backup from bringing them back', async () => {
    const log = { KEYSTORE_KEY_LOG: 'log.jsonl' }
    const tokens = await app.mint('alice@acme', 'bob@acme', 'carol@zeta')
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
    expect(await app.opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')

    const { status, report } = store.json(['shred-tenant', 'acme', '--yes'], {
      env: { ...NO_MASTER_KEY, ...log },
    })
    expect(status).toBe(0)
    expect(report).toMatchObject({
      tenantId: 'acme',
      keysOfUsers: 2,
      versions: [1],
      kekIds: [app.idOf('a')],
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
      expect(await app.opened(userId, tokens[userId])).toBe('ERR_KEY_SHREDDED')
    expect(await app.opened('carol@zeta', tokens['carol@zeta'])).toBe('secret of carol@zeta')
    expect(store.run(['tenants', '--count']).stdout).toMatch(/"acme" .* shredded \d{4}-\d\d-\d\d +│ 2 /)

    const drill = ['restore', 'backup.db', '--store', 'drill.db']
    const restored = store.run(drill, { env: log })
    expect(restored.status).toBe(0)
    expect(store.json(['tenants', '--store', 'drill.db']).report).toMatchObject({
      tenants: [{ tenantId: 'acme', versions: [{ shreddedAt: report.at }] }, { tenantId: 'zeta' }],
    })
  })

  it('leaves nothing that a rotation of all users, a rewrap or a verification fails at', async () => {
    await app.mint('alice@acme', 'bob@beta')
    store.run(['rotate-tenant', 'acme'])
    store.run(['shred-tenant', 'acme', '--yes'])
    expect(store.json(['rotate-user', '--older-than', '0'])).toMatchObject({
      status: 0,
      report: { rotated: 1, shredded: 1, failedCount: 0 },
    })
    expect(
      store.run([
        'rewrap',
        '--tenants',
        '--master-key-file',
        'keys/b.key',
        '--previous-key-file',
        'keys/a.key',
      ]).status,
    ).toBe(0)
    expect(store.run(['doctor', '--master-key-file', 'keys/b.key']).stdout).not.toContain('error: ')
  })

  it('says what it did, and with --forget what is left', async () => {
    await app.mint('alice@acme', 'bob@beta')
    const shredded = store.run(['shred-tenant', 'acme', '--yes']).stdout
    expect(shredded).toContain('Shredded tenant "acme"')
    expect(shredded).toContain('every later use by any of its users is ERR_KEY_SHREDDED')
    expect(shredded).toContain('1 key of its users ended with it.')
    expect(shredded).toContain('Not recorded outside the database')
    expect(store.run(['shred-tenant', 'acme', '--dry-run']).stdout).toMatch(
      /has no live key \(shredded \d{4}-\d\d-\d\d\)/,
    )
    const forgotten = store.run(['shred-tenant', 'beta', '--yes', '--forget']).stdout
    expect(forgotten).toContain('forgotten, a new key may be made')
    expect(forgotten).toContain('npx keystore shred-tenant beta --forget --with-users --allow-unknown')
    expect(forgotten).toContain('npx keystore restore BACKUP --tenant beta')
    expect(await app.rowsOfTenant('beta')).toEqual([])
  })

  it('a tenant that was forgotten gets a new key when its users are gone, whichever version they were under', async () => {
    await app.mint('alice@acme')
    store.run(['rotate-tenant', 'acme'])
    await app.mint('bob@acme')
    store.run(['shred-tenant', 'acme', '--yes', '--forget'])
    await expect(app.mint('carol@acme')).rejects.toMatchObject({ code: 'ERR_KEYS_LOST' })
    const { status, stdout } = store.run([
      'shred-tenant',
      'acme',
      '--yes',
      '--forget',
      '--with-users',
      '--allow-unknown',
    ])
    expect(status).toBe(0)
    expect(stdout).toContain('Forgot 2 users of it.')
    expect(await store.rows()).toEqual([])
    await app.mint('carol@acme')
  })

  it('with --with-users forgets its users too, but nobody who has keys elsewhere', async () => {
    const log = { KEYSTORE_KEY_LOG: 'log.jsonl' }
    await app.mint('alice@acme', 'bob@acme', 'carol@zeta', 'dave')
    store.run(['rotate-tenant', 'acme'])
    await app.mint('erin@acme')
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
    // Nobody can open what is under the old key, and no second key has its name.
    await expect(app.mint('alice@acme')).rejects.toMatchObject({ code: 'ERR_KEYS_LOST' })
    store.run(['shred-user', 'bob@acme', '--yes', '--forget'])
    const tokens = await app.mint('alice@acme')
    expect(await app.opened('alice@acme', tokens['alice@acme'])).toBe('secret of alice@acme')
  })

  it('refuses a mistyped id, unless a tombstone is wanted', async () => {
    await app.mint('alice@acme')
    const { status, stderr } = store.run(['shred-tenant', 'Acme', '--yes'])
    expect(status).toBe(1)
    expect(stderr).toContain('The store has no tenant "Acme": nothing was shredded')
    expect(store.run(['shred-tenant', 'Acme', '--yes', '--allow-unknown']).status).toBe(0)
    expect(await app.rowsOfTenant('Acme')).toMatchObject([{ version: 1, shreddedAt: expect.any(Date) }])
  })

  it('does not take a user for a tenant, nor a tenant for a user', async () => {
    await app.mint('alice@acme', 'dave')
    expect(store.run(['shred-tenant', 'dave', '--yes']).status).toBe(1)
    for (const command of ['shred-user', 'rotate-user'])
      expect(
        store.run([command, tenantUserId('acme'), ...(command === 'shred-user' ? ['--yes'] : [])]).status,
      ).toBe(2)
    expect(await app.rowsOfTenant('acme')).toMatchObject([{ version: 1, shreddedAt: null }])
  })

  itIf(hasTerminal, 'script (util-linux) is not installed')('asks on a terminal for the id', async () => {
    await app.mint('alice@acme')
    const ask = (typed: string) =>
      onTerminal(store.folder, ['shred-tenant', 'acme'], { typed, env: { KEYSTORE_URL: store.url } })
    const refused = ask('yes\n')
    expect(refused.shown).toContain('1 key of its users is under it')
    expect(refused.shown).toContain('for any of its users can never be decrypted again')
    expect(refused.shown).toContain('nothing was shredded')
    expect(refused.status).toBe(1)
    expect(await app.rowsOfTenant('acme')).toMatchObject([{ shreddedAt: null }])
    expect(ask('acme\n').status).toBe(0)
    expect(await app.rowsOfTenant('acme')).toMatchObject([{ shreddedAt: expect.any(Date) }])
  })
})
