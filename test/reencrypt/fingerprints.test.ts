/** The sweep brings stored fingerprints along: which it makes anew, under which version, and what it leaves to other writers. */
import { eq } from 'drizzle-orm'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  drizzleSource,
  type ReencryptOptions,
  reencrypt,
  type ValueSource,
} from '../../src/reencrypt/index.js'
import { dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { EMAIL, type LoginsApp, loginsApp, PIN } from '../support/logins.js'

type Row = LoginsApp['logins']['$inferSelect']

describe.each(dialects)('the fingerprints of a swept table on %s', (dialect) => {
  let app: LoginsApp
  beforeEach(async () => {
    app = await loginsApp(dialect)
  })
  afterEach(() => app.close())

  const source = () =>
    drizzleSource(app.db, app.logins, { key: 'id', owner: 'userId', columns: ['email', 'pin'] })
  const sweep = (options: Partial<ReencryptOptions<Row>> = {}) =>
    reencrypt({ envelope: app.envelope, source: source(), ...options })
  const insert = (...ids: readonly number[]) =>
    app.envelope.scope('alice', () =>
      app.db
        .insert(app.logins)
        .values(ids.map((id) => ({ id, userId: 'alice', email: `user${id}@b.c`, pin: String(id) }))),
    )
  const stored = async () =>
    (await app.rows('select id, email_fp, pin_fp from logins order by id')).map(
      ({ id, email_fp, pin_fp }) => [id, email_fp, pin_fp] as const,
    )
  const wanted = async (...ids: readonly number[]) => {
    const { envelope } = app
    return Promise.all(
      ids.map(async (id) => [
        id,
        await envelope.fingerprint('alice', `user${id}@b.c`, EMAIL),
        await envelope.fingerprint('alice', String(id), PIN),
      ]),
    )
  }

  it('are left alone when they match', async () => {
    await insert(1, 2)
    expect(await sweep()).toMatchObject({
      complete: true,
      before: { current: 8 },
      after: { current: 8, staleFingerprint: 0 },
      changed: 0,
      left: 0,
    })
  })

  it('are made anew where they are missing, damaged, another value’s, plaintext, or of no value', async () => {
    await insert(1, 2, 3, 4, 5)
    const before = await stored()
    await app.rows('update logins set email_fp = null where id = 1')
    await app.rows(`update logins set email_fp = '${String(before[1]?.[1]).slice(0, -1)}' where id = 2`)
    // Of eight bits, so that any one text could be the right one.
    const otherPin = before[2]?.[2] === 'f1:AA' ? 'f1:AQ' : 'f1:AA'
    await app.rows(`update logins set pin_fp = '${otherPin}' where id = 3`)
    await app.rows("update logins set email_fp = 'user4@b.c' where id = 4")
    await app.rows('update logins set email = null where id = 5')
    const dry = await sweep({ dryRun: true })
    expect(dry).toMatchObject({ before: { staleFingerprint: 5 }, after: { staleFingerprint: 0 }, changed: 5 })
    expect((await stored())[0]?.[1]).toBeNull()
    expect(await sweep({ batchSize: 2 })).toMatchObject({
      complete: true,
      before: { staleFingerprint: 5, current: 14, empty: 1 },
      after: { current: 18, empty: 2 },
      changed: 5,
      failed: [],
      left: 0,
    })
    const after = await stored()
    expect(after.slice(0, 4)).toEqual(before.slice(0, 4))
    expect(after[4]).toEqual([5, null, before[4]?.[2]])
  })

  it('come with values that are encrypted, and follow them to a new version and context', async () => {
    await app.rows(
      "insert into logins (id, user_id, email, pin) values (1, 'alice', 'user1@b.c', '1'), (2, 'alice', null, '2')",
    )
    expect(await sweep({ dryRun: true, plaintext: true })).toMatchObject({
      changed: 6,
      left: 0,
      after: { current: 6, empty: 2 },
    })
    expect(await sweep()).toMatchObject({ changed: 0, left: 3, before: { plaintext: 3, empty: 5 } })
    expect(await sweep({ plaintext: true })).toMatchObject({
      complete: true,
      changed: 6,
      left: 0,
      failed: [],
    })
    const [first, second] = await wanted(1, 2)
    expect(await stored()).toEqual([first, [2, null, second?.[2]]])
    await app.rotate('alice')
    expect(await sweep()).toMatchObject({
      before: { oldVersion: 3, current: 3, empty: 2 },
      changed: 3,
      left: 0,
    })
    expect(await stored()).toEqual([first, [2, null, second?.[2]]])
  })

  it('go to the newest version ahead of a prune, and to the lowest live one after it', async () => {
    await insert(1, 2, 3)
    await app.rotate('alice')
    await app.rotate('alice')
    expect(await sweep({ newestFingerprints: true, dryRun: true })).toMatchObject({ changed: 12, left: 0 })
    expect(await sweep({ newestFingerprints: true })).toMatchObject({
      before: { oldVersion: 6, staleFingerprint: 6 },
      changed: 12,
      left: 0,
    })
    for (const [, email, pin] of await stored()) {
      expect(email).toMatch(/^f2:3:[\w-]{43}$/)
      expect(pin).toMatch(/^f2:3:[\w-]{2}$/)
    }
    await insert(4)
    expect((await stored())[3]?.[1]).toMatch(/^f1:/)
    await app.prune('alice')
    expect(await sweep()).toMatchObject({ before: { current: 14, staleFingerprint: 2 }, changed: 2, left: 0 })
    expect(await stored()).toEqual(await wanted(1, 2, 3, 4))
    expect(new Set((await stored()).map(([, email]) => String(email).slice(0, 5)))).toEqual(
      new Set(['f2:3:']),
    )
  })

  it('of values that do not open are left, and counted with them', async () => {
    await insert(1, 2)
    await app.envelope.scope('bob', () =>
      app.db.insert(app.logins).values({ id: 3, userId: 'bob', email: 'bob@b.c' }),
    )
    const before = await stored()
    await app.envelope.shredUser('bob')
    await app.rows(`update logins set email = (select pin from logins where id = 2) where id = 1`)
    const report = await sweep()
    expect(report).toMatchObject({
      before: { current: 6, unopenable: 2, shredded: 2, empty: 2 },
      changed: 0,
      left: 2,
    })
    expect(report.failed.map(({ key, column }) => [key, column])).toEqual([
      [1, 'email'],
      [3, 'email'],
    ])
    expect(await stored()).toEqual(before)
  })

  it('are written only while neither they nor their values have changed', async () => {
    await insert(1, 2, 3)
    await app.rows('update logins set email_fp = null')
    const other = source()
    const { replaceFingerprints } = other
    let raced = 0
    const racing: ValueSource<Row> = {
      ...other,
      async replaceFingerprints(changes) {
        raced += 1
        if (raced === 1) {
          // A writer that knows nothing of fingerprints, and one that does.
          await app.rows('update logins set email = (select email from logins where id = 3) where id = 1')
          await app.envelope.scope('alice', () =>
            app.db.update(app.logins).set({ email: 'new@b.c' }).where(eq(app.logins.id, 2)),
          )
        }
        return (await replaceFingerprints?.(changes)) ?? []
      },
    }
    await app.rows('alter table logins rename to renamed_logins')
    await app.rows('create table logins as select * from renamed_logins')
    await app.rows('create unique index logins_id on logins (id)')
    const report = await sweep({ source: racing })
    expect(report).toMatchObject({ complete: true, skipped: 2, left: 0, failed: [] })
    const [, , third] = await wanted(1, 2, 3)
    const [first, second, last] = await stored()
    expect(first?.[1]).toBe(third?.[1])
    expect(second?.[1]).toBe(await app.envelope.fingerprint('alice', 'new@b.c', EMAIL))
    expect(last).toEqual(third)
  })

  it('that a unique index refuses name their row, and take no other along', async () => {
    await insert(1, 2, 3, 4)
    await app.rows('update logins set email_fp = null where id <> 4')
    await app.rows('update logins set email = (select email from logins where id = 4) where id = 2')
    const report = await sweep()
    expect(report).toMatchObject({ complete: true, changed: 2, failedCount: 1, left: 1 })
    expect(report.failed).toMatchObject([
      { key: 2, column: 'emailFingerprint', owner: 'alice', code: 'ERR_STORE' },
    ])
    expect(report.failed[0]?.reason).not.toMatch(/f1:|user4/)
    expect(report.failed[0]?.reason).toMatch(/two rows hold the same value, and one of them has to change/)
    const [first, , third, fourth] = await wanted(1, 2, 3, 4)
    expect(await stored()).toEqual([first, [2, null, (await stored())[1]?.[2]], third, fourth])
  })

  it('are named as the source of an error that concerns all of them', async () => {
    await insert(1)
    await app.rows('alter table logins rename column email_fp to moved')
    expect(await errorOf(sweep())).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining('email_fp'),
    })
    await app.rows('alter table logins rename column moved to email_fp')
    await app.rows('update logins set email_fp = null')
    const without = source()
    expect(
      await errorOf(sweep({ source: { ...without, replaceFingerprints: undefined } as never })),
    ).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    })
    expect(await errorOf(sweep({ newestFingerprints: 1 as never }))).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    })
  })
})
