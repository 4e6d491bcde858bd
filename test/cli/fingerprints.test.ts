/** Fingerprints on the command line: what `reencrypt --schema` makes anew, and what `doctor --schema` finds. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { EnvelopeCrypto, Finding, VerifyReport } from '../../src/index.js'
import { dialects } from '../support/databases.js'
import { type HostCommands, hostCommands, writeSchema } from '../support/host-commands.js'

const SCHEMA = `
     const logins = table('logins', {
       id: integer('id').primaryKey(),
       userId: text('user_id'),
       email: encryptedText('email', { context: 'logins.email' }),
       emailFingerprint: fingerprintText('email_fp', { of: 'email', normalize: 'lowercase' }),
       pin: encryptedText('pin', { context: 'logins.pin' }),
       pinFingerprint: fingerprintText('pin_fp', { of: 'pin', bits: 8 }),
     })
     export const encrypted = defineEncrypted({ logins })`
const EMAIL = { name: 'logins.email', normalize: 'lowercase' } as const
const doctor = ['doctor', '--schema', 'schema.mjs']
const reencrypt = ['reencrypt', '--schema', 'schema.mjs']

describe.each(dialects)('on %s', (dialect) => {
  let host: HostCommands
  beforeEach(async () => {
    host = await hostCommands(dialect)
    await host.app.query(
      'create table logins (id integer primary key, user_id text, email text, email_fp text, pin text, pin_fp text)',
    )
    writeSchema(host.store.folder, dialect, SCHEMA)
  })
  afterEach(() => host.remove())

  const insert = (...ids: readonly number[]) =>
    host.withService(async (envelope) => {
      for (const id of ids) await host.app.insert('logins', [await rowOf(envelope, id)])
    })
  const update = (id: number, set: string) => host.app.query(`update logins set ${set} where id = ${id}`)
  const column = async (name: string) =>
    (await host.app.query(`select ${name} from logins order by id`)).map((row) => row[name])
  function check() {
    const { status, report } = host.json<VerifyReport>(doctor)
    return { status, found: report.findings.flatMap(shown) }
  }

  it('doctor finds nothing wrong with fingerprints that match', async () => {
    await insert(1, 2)
    await host.app.query("insert into logins (id, user_id) values (3, 'alice')")
    expect(check()).toEqual({ status: 0, found: [] })
  })

  it('doctor names each kind of fingerprint that does not match, and no value', async () => {
    await insert(1, 2, 3, 4, 5, 6)
    const [first, second] = await column('email_fp')
    await update(1, `email_fp = '${String(second)}'`)
    await update(2, "email_fp = 'hush@b.c'")
    await update(3, 'email_fp = null')
    await update(4, 'email = null')
    await update(5, `pin_fp = '${String(first)}'`)
    const { stdout } = host.run(doctor)
    for (const secret of ['hush', String(first).slice(3, 12), String(second).slice(3, 12)])
      expect(stdout).not.toContain(secret)
    expect(check()).toEqual({
      status: 1,
      found: [
        'error plaintext email_fp 1 of 6 rows looked at hold no fingerprint',
        'error wrongFingerprint email_fp 1 of 6 rows looked at hold a fingerprint that is not that of their value',
        'error wrongFingerprint email_fp 1 of 6 rows looked at hold a fingerprint and no value',
        'warning staleFingerprint email_fp 1 of 6 rows looked at lack the fingerprint of their value',
        'error plaintext pin_fp 1 of 6 rows looked at hold no fingerprint',
      ],
    })
    expect(host.run(reencrypt)).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/staleFingerprint +│ 5 /),
    })
    expect(check()).toEqual({ status: 0, found: [] })
    expect((await column('email_fp')).slice(0, 2)).toEqual([first, second])
  })

  it('doctor tells versions apart: a later one is a warning, one that was pruned an error', async () => {
    await insert(1, 2)
    host.run(['rotate-user', 'alice'])
    expect(host.run([...reencrypt, '--newest-fingerprints', '--dry-run'])).toMatchObject({
      status: 0,
      stdout: expect.stringContaining('would re-encrypt 8 values'),
    })
    expect(await column('email_fp')).toEqual([expect.stringMatching(/^f1:/), expect.stringMatching(/^f1:/)])
    expect(host.run([...reencrypt, '--newest-fingerprints']).status).toBe(0)
    expect(check()).toEqual({
      status: 0,
      found: [
        'warning staleFingerprint email_fp 2 of 2 rows looked at hold a fingerprint under a higher version than it is made with now',
        'warning staleFingerprint pin_fp 2 of 2 rows looked at hold a fingerprint under a higher version than it is made with now',
      ],
    })
    await insert(3)
    host.run(['prune', 'alice', '--before-version', '2', '--tokens-reencrypted', '--include-first'])
    expect(check()).toEqual({
      status: 1,
      found: [
        'error staleFingerprint email_fp 1 of 3 rows looked at hold a fingerprint under a version of the key that was pruned',
        'error staleFingerprint pin_fp 1 of 3 rows looked at hold a fingerprint under a version of the key that was pruned',
      ],
    })
    expect(host.run(reencrypt).status).toBe(0)
    expect(check()).toEqual({ status: 0, found: [] })
  })

  it('doctor leaves out the fingerprints of values that do not open', async () => {
    await insert(1, 2)
    await update(1, 'email = (select pin from logins where id = 2), email_fp = null')
    await host.withService((envelope) => envelope.shredUser('alice'))
    expect(check().found).toEqual([])
  })

  async function rowOf(envelope: EnvelopeCrypto, id: number) {
    const [email, pin] = [`User${id}@b.c`, `pin ${id}`]
    return {
      ...{ id, user_id: 'alice' },
      email: await envelope.encrypt('alice', email, { column: 'logins.email' }),
      email_fp: await envelope.fingerprint('alice', email, EMAIL),
      pin: await envelope.encrypt('alice', pin, { column: 'logins.pin' }),
      pin_fp: await envelope.fingerprint('alice', pin, { name: 'logins.pin', bits: 8 }),
    }
  }
})

/** The findings of columns, shortly. */
function shown({ severity, kind, reason }: Finding): string[] {
  const [, column, text = ''] = /^logins, column (\w+): ([^:,]*)/.exec(reason) ?? []
  return column === undefined ? [] : [`${severity} ${kind} ${column} ${text}`]
}
