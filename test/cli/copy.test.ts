/** `keystore copy`, `backup` and `restore`, between the dialects. */
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto } from '../../src/index.js'
import { startChild } from '../support/child-process.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { dialects, type FreshDatabase, freshDatabase } from '../support/databases.js'
import { shredLine } from '../support/key-log-file.js'
import { copyReference } from '../support/reference-file.js'
import { hasTerminal, onTerminal } from '../support/terminal.js'
import { userIds } from '../support/users.js'

const NO_MASTER_KEY = { API_KEY_MASTER_KEY_FILE: '' }

describe.each(dialects)('from %s', (dialect) => {
  let store: CommandStore
  let target: FreshDatabase
  beforeEach(async () => {
    store = await commandStore(dialect)
    target = await freshDatabase(dialects.find((other) => other !== dialect) ?? dialect)
  })
  afterEach(async () => {
    await target.remove()
    await store.remove()
  })

  const env = () => ({ ...NO_MASTER_KEY, KEYSTORE_TO_URL: target.url })
  const rowsAt = async (url: string) => {
    const opened = await openKeyStore(url)
    try {
      return await opened.list({ limit: 100_000 })
    } finally {
      await opened.close()
    }
  }

  describe('copy', () => {
    it('needs a target that is there for a dry run, and then only counts', async () => {
      await store.mint('alice', 'bob')
      const early = store.run(['copy', '--dry-run'], { env: env() })
      expect(early.status).toBe(1)
      expect(early.stderr).toContain('[ERR_SCHEMA]')
      expect(early.stderr).toContain('`KEYSTORE_URL="$KEYSTORE_TO_URL" npx keystore init`')
      expect(early.stderr).not.toContain('postgres://')
      store.run(['init'], { env: { KEYSTORE_URL: target.url } })
      expect(store.json(['copy', '--dry-run'], { env: env() })).toMatchObject({
        status: 0,
        report: { dryRun: true, copied: 2, equal: false },
      })
      expect(await rowsAt(target.url)).toEqual([])
    })

    it('carries every row, tombstones too; a second pass picks up what came meanwhile', async () => {
      const tokens = await store.mint(...userIds(20))
      await store.use((keys) => keys.shred('user-3', { forget: false }))
      const first = store.run(['copy'], { env: env() })
      expect(first.status).toBe(0)
      expect(first.stdout).toContain('Copied 20 rows.')
      expect(first.stdout).toContain('Both hold the same records.')
      const { password } = new URL(target.url, 'file:')
      if (password !== '') expect(first.stdout + first.stderr).not.toContain(password)

      await store.mint('late')
      store.run(['rotate-user', 'user-1'])
      await store.use((keys) => keys.shred('user-2', { forget: false }))
      // Whom the source has shredded since, the target erases only when it is asked to.
      const refused = store.run(['copy'], { env: env() })
      expect(refused.status).toBe(1)
      expect(refused.stderr).toContain('target: "user-2". Nothing was written')
      expect(refused.stderr).toContain('--apply-erasures')
      expect(refused.stderr).toContain('[ERR_CONFLICT]')
      expect(store.run(['copy', '--apply-erasures'], { env: env() })).toMatchObject({ status: 2 })
      const { status, report } = store.json(['copy', '--apply-erasures', '--yes'], { env: env() })
      expect(status).toBe(0)
      expect(report).toMatchObject({ complete: true, equal: true, extra: 0, shredded: ['user-2'] })
      expect(report).toHaveProperty('digest.from', expect.stringMatching(/^[0-9a-f]{64}$/))
      expect(await rowsAt(target.url)).toEqual(await store.rows())
      const switched = { KEYSTORE_URL: target.url }
      expect(
        store.run(['decrypt', '--user', 'user-1'], { env: switched, input: tokens['user-1'] ?? '' }).stdout,
      ).toBe('secret of user-1')
    })

    it('says which rows only the target has, and refuses one that differs', async () => {
      await store.mint('alice', 'bob')
      store.run(['copy'], { env: env() })
      const there = { KEYSTORE_URL: target.url }
      store.run(['encrypt', '--user', 'zoe'], { env: there, input: 'x' })
      const extra = store.run(['copy'], { env: env() })
      expect(extra.status).toBe(0)
      expect(extra.stdout).toContain('The target has 1 row that the source has not')

      store.run(['rotate-user', 'alice'], { env: there })
      store.run(['rotate-user', 'alice'])
      await store.mint('carol')
      const before = await rowsAt(target.url)
      const { status, stderr } = store.run(['copy'], { env: env() })
      expect(status).toBe(1)
      expect(stderr).toContain('user "alice", version 2')
      expect(await rowsAt(target.url)).toEqual(before)
    })

    it('erases at the target whom the key log names', async () => {
      await store.mint('alice', 'bob')
      writeFileSync(join(store.folder, 'log.jsonl'), shredLine('bob', new Date()))
      expect(store.json(['copy', '--key-log', 'log.jsonl'], { env: env() })).toMatchObject({ status: 0 })
      expect(
        (await rowsAt(target.url)).map(({ userId, shreddedAt }) => [userId, shreddedAt !== null]),
      ).toEqual([
        ['alice', false],
        ['bob', true],
      ])
    })
  })

  describe('backup and restore', () => {
    const path = (name: string) => join(store.folder, name)

    it('makes one file for its owner alone, from which a store of the other kind is restored', async () => {
      const tokens = await store.mint(...userIds(50))
      const made = store.run(['backup', 'backups/monday.db'], { env: NO_MASTER_KEY })
      expect(made.status).toBe(0)
      expect(made.stdout).toContain('The backup is backups/monday.db.')
      expect(readdirSync(path('backups')).sort()).toEqual(['.gitignore', 'monday.db'])
      expect(statSync(path('backups/monday.db')).mode & 0o777).toBe(0o600)
      const again = store.run(['backup', 'backups/monday.db'])
      expect(again.status).toBe(1)
      expect(again.stderr).toContain('is there already')

      const before = fingerprint(path('backups/monday.db'))
      const there = { ...NO_MASTER_KEY, KEYSTORE_URL: target.url }
      expect(store.json(['restore', 'backups/monday.db'], { env: there })).toMatchObject({
        status: 0,
        report: { copied: 50, equal: true },
      })
      expect(fingerprint(path('backups/monday.db'))).toBe(before)
      expect(readdirSync(path('backups')).sort()).toEqual(['.gitignore', 'monday.db'])
      expect(await rowsAt(target.url)).toEqual(await store.rows())
      expect(
        store.run(['decrypt', '--user', 'user-7'], {
          env: { KEYSTORE_URL: target.url },
          input: tokens['user-7'] ?? '',
        }).stdout,
      ).toBe('secret of user-7')
    })

    it('does not bring back whom the key log names', async () => {
      await store.mint('alice', 'bob')
      store.run(['backup', 'b.db'])
      store.run(['shred-user', 'bob', '--yes', '--key-log', 'log.jsonl'])
      const there = { ...NO_MASTER_KEY, KEYSTORE_URL: target.url }
      const { status, stdout } = store.run(['restore', 'b.db', '--key-log', 'log.jsonl'], { env: there })
      expect(status).toBe(0)
      expect(stdout).toContain('Both hold the same records.')
      expect(
        (await rowsAt(target.url)).map(({ userId, shreddedAt }) => [userId, shreddedAt !== null]),
      ).toEqual([
        ['alice', false],
        ['bob', true],
      ])
    })

    it('finishes a backup of a store that is never quiet, with every key that there was when it began', async () => {
      await store.mint(...userIds(50))
      const before = await store.rows()
      const application = startChild('mint-endlessly.mjs', [store.url], {
        API_KEY_MASTER_KEY_FILE: path('keys/a.key'),
      })
      try {
        expect(await application.line()).toBe('ready')
        const made = store.run(['backup', 'live.db'], { env: NO_MASTER_KEY })
        expect(made.stdout).toContain('The backup is live.db.')
        expect(made.status).toBe(0)
        expect(await application.ended()).toEqual({ code: 0, stderr: '' })
      } finally {
        application.kill()
      }
      const kept = new Map((await rowsAt(path('live.db'))).map((row) => [row.userId, row]))
      for (const row of before) expect(kept.get(row.userId)).toEqual(row)
    })

    // Where the source's dialect changes nothing, or is SQLite by its nature.
    if (dialect !== 'sqlite') return

    it('erases no live key because the backup says so, the pool’s neither, unless it is confirmed', async () => {
      await store.mint('alice', 'bob')
      await store.use(async (keys) => {
        const envelope = await EnvelopeCrypto.open({
          store: keys,
          masterKeys: store.keys('a'),
          closeStore: false,
        })
        await envelope.pool.encrypt('x')
      })
      const rows = await store.rows()
      // What somebody makes of a backup who can write to it.
      const backup = await openKeyStore(path('b.db'))
      const tombstone = { encryptedKey: new Uint8Array(0), shreddedAt: new Date() }
      await backup.maintenance?.restore(rows.slice(0, 2).map((row) => ({ ...row, ...tombstone })))
      await backup.close()

      const plan = store.run(['restore', 'b.db', '--dry-run'])
      expect(plan.status).toBe(1)
      expect(plan.stdout).toContain('Refused without --apply-erasures')
      expect(plan.stdout).toContain('  the pool\n  "alice"\n')
      const refused = store.run(['restore', 'b.db'])
      expect(refused.status).toBe(1)
      expect(refused.stderr).toContain('target: the pool, "alice". Nothing was written')
      expect(await store.rows()).toEqual(rows)

      if (hasTerminal) {
        const ask = (typed: string) =>
          onTerminal(store.folder, ['restore', 'b.db', '--apply-erasures'], {
            typed,
            env: { KEYSTORE_URL: store.url },
          })
        const stopped = ask('yes\n')
        expect(stopped.shown).toContain('To erase them at the target type "erase 2 users": ')
        expect(stopped.shown).toMatch(/never be decrypted again:\s+the pool\s+"alice"\s/)
        expect(stopped.status).toBe(1)
        expect(await store.rows()).toEqual(rows)
        expect(ask('erase 2 users\n').status).toBe(0)
      } else expect(store.run(['restore', 'b.db', '--apply-erasures', '--yes']).status).toBe(0)
      expect((await store.rows()).map(({ shreddedAt }) => shreddedAt !== null)).toEqual([true, true, false])
    })

    it('shows in a dry run which rows are other keys, and where their tokens open', async () => {
      await store.mint('alice', 'bob')
      const tokens = await store.mint('carol')
      store.run(['backup', 'b.db'])
      const [alice, bob] = await store.rows()
      // Forgotten and minted anew: a second first key.
      for (const userId of ['alice', 'bob']) await store.use((keys) => keys.shred(userId, { forget: true }))
      await store.mint('alice')
      store.run(['rewrap', '--master-key-file', 'keys/b.key', '--previous-key-file', 'keys/a.key'])
      const [now] = await store.rows()
      const { status, stdout } = store.run(['restore', 'b.db', '--dry-run'], { env: NO_MASTER_KEY })
      expect(status).toBe(1)
      expect(stdout).toContain('Would copy 1 row.')
      expect(stdout).toContain('Refused: 2 rows of the source differ at the target:')
      expect(stdout).toContain(
        `source: made ${alice?.createdAt.toISOString()}, wrapped under ${alice?.kekId}\n`,
      )
      expect(stdout).toContain(
        `target: made ${now?.createdAt.toISOString()}, wrapped under ${now?.kekId}, rewrapped ${now?.wrappedAt?.toISOString()}\n`,
      )
      expect(stdout).toContain('"carol", version 1')
      expect(stdout).toContain('`npx keystore decrypt --user ID --store URL < token`')
      const { report } = store.json(['restore', 'b.db', '--dry-run'], { env: NO_MASTER_KEY })
      expect(report).toMatchObject({
        copied: 1,
        conflictCount: 2,
        conflicts: [
          { userId: 'alice', version: 1, from: { kekId: alice?.kekId }, to: { kekId: now?.kekId } },
          { userId: 'carol', version: 1 },
        ],
      })
      // Nothing was written, and carol's key is the same on both sides.
      expect((await store.rows()).map(({ userId }) => userId)).not.toContain(bob?.userId)
      expect(await store.decrypt('carol', tokens.carol ?? '', 'b')).toBe('secret of carol')
    })

    it('goes on with a backup that was interrupted', async () => {
      await store.mint(...userIds(10))
      const rows = await store.rows()
      mkdirSync(path('backups'))
      const partial = await openKeyStore(path('backups/b.db.partial'))
      await partial.maintenance?.restore(rows.slice(0, 4))
      await partial.close()
      expect(store.json(['backup', 'backups/b.db'])).toMatchObject({
        status: 0,
        report: { copied: 6, equal: true, finished: true },
      })
      expect(readdirSync(path('backups')).sort()).toEqual(['.gitignore', 'b.db'])
    })

    it('does not finish a backup with rows that the store no longer has', async () => {
      await store.mint(...userIds(3))
      const partial = await openKeyStore(path('b.db.partial'))
      await partial.maintenance?.restore(await store.rows())
      await partial.close()
      await store.use((keys) => keys.shred('user-1', { forget: true }))
      const { status, stdout } = store.run(['backup', 'b.db'])
      expect(status).toBe(1)
      expect(stdout).toContain('remove it, and run this again')
      expect(existsSync(path('b.db'))).toBe(false)
    })

    it('says what to do with an interrupted backup when a row has changed since', async () => {
      await store.mint('alice')
      const partial = await openKeyStore(path('b.db.partial'))
      await partial.maintenance?.restore(await store.rows())
      await partial.close()
      store.run(['rewrap', '--master-key-file', 'keys/b.key', '--previous-key-file', 'keys/a.key'])
      const { status, stderr } = store.run(['backup', 'b.db'])
      expect(status).toBe(1)
      expect(stderr).toContain('remove b.db.partial and run this again')
    })

    it('reads a raw copy with its write-ahead log, and leaves both as they were', async () => {
      await store.mint('alice')
      await store.use(async () => {
        await store.mint('bob')
        for (const end of ['', '-wal']) copyFileSync(`${store.url}${end}`, path(`raw.db${end}`))
      })
      const before = [fingerprint(path('raw.db')), fingerprint(path('raw.db-wal'))]
      const there = { ...NO_MASTER_KEY, KEYSTORE_URL: target.url }
      expect(store.json(['restore', 'raw.db'], { env: there })).toMatchObject({
        report: { copied: 2, equal: true },
      })
      expect([fingerprint(path('raw.db')), fingerprint(path('raw.db-wal'))]).toEqual(before)
    })

    it('refuses a file of the reference, leaves it as it was, and says what to do', () => {
      const file = copyReference(store.folder)
      const before = fingerprint(file)
      const { status, stderr } = store.run(['restore', 'keys.sqlite'])
      expect(status).toBe(1)
      expect(stderr).toContain('keystore migrate --store COPY')
      expect(stderr).toContain('--adopt')
      expect(fingerprint(file)).toBe(before)
      expect(readdirSync(store.folder).sort()).toEqual(['keys', 'keys.sqlite'])
    })
  })
})

describe('usage', () => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore('sqlite')
  })
  afterEach(() => store.remove())

  it.each([
    [['copy']],
    [['copy', '--from', 'a.db', '--to', 'a.db']],
    [['copy', '--too=postgres://u:p4ssw0rd@host/db', '--to', 'b.db']],
    [['copy', '--to', 'mysql://u:p4ssw0rd@host/db']],
    [['backup', 'postgres://u:p4ssw0rd@host/db']],
    [['restore', 'postgres://u:p4ssw0rd@host/db']],
    [['postgres://u:p4ssw0rd@host/db']],
  ])('exits with 2 for %j, and shows no password', async (args) => {
    await store.mint('alice')
    const { status, stdout, stderr } = store.run(args)
    expect(status).toBe(2)
    expect(stderr).not.toBe('')
    expect(stdout + stderr).not.toContain('p4ssw0rd')
  })

  it('names a file that is missing, or no database', () => {
    writeFileSync(
      join(store.folder, 'notes.txt'),
      'not a database, though long enough to be taken for one'.repeat(50),
    )
    expect(store.run(['restore', 'none.db'])).toMatchObject({
      status: 1,
      stderr: 'keystore: There is no file none.db\n',
    })
    const { status, stderr } = store.run(['restore', 'notes.txt'])
    expect(status).toBe(1)
    expect(stderr).toContain('notes.txt cannot be restored from')
    expect(readdirSync(store.folder).sort()).toEqual(['keys', 'notes.txt'])
  })
})

function fingerprint(path: string): string {
  const hash = createHash('sha256').update(readFileSync(path)).digest('hex')
  return `${hash} ${statSync(path).mtimeMs}`
}
