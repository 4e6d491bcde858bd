/** Data keys of many users under an earlier master key and under the present one, of several versions and ages: what an operator has after years. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { EnvelopeCrypto, localMasterKey, masterKeyring } from 'drizzle-keystore'
import { openKeyStore } from 'drizzle-keystore/open'
import type { TestApplication } from './application.js'
import type { Dialect } from './databases.js'

const DAY_MS = 86_400_000

export async function seedKeys(app: TestApplication, dialect: Dialect, users: number): Promise<void> {
  const previous = localMasterKey(Buffer.from(app.previousMasterKey, 'base64'))
  const present = localMasterKey(
    Buffer.from(readFileSync(join(app.folder, 'keys', 'master.key'), 'utf8').trim(), 'base64'),
  )
  const url =
    dialect === 'sqlite' ? join(app.folder, app.database.url.slice(app.folder.length)) : app.database.url
  const under = async (primary: typeof present, prefix: string, count: number, rotated: number) => {
    const envelope = await EnvelopeCrypto.open({
      store: await openKeyStore(url),
      masterKeys: masterKeyring({ primary, previous: primary === present ? [previous] : [present] }),
    })
    const items = Array.from({ length: count }, (_, at) => ({ userId: `${prefix}-${at}`, plaintext: 'x' }))
    await envelope.encryptMany(items)
    for (const { userId } of items.slice(0, rotated)) await envelope.rotateUserKey(userId)
    await envelope.close()
  }
  await under(previous, 'earlier', Math.round(users * 0.7), Math.round(users * 0.1))
  await under(present, 'later', Math.round(users * 0.3), Math.round(users * 0.02))
  const made = (daysAgo: number) => new Date(Date.now() - daysAgo * DAY_MS).toISOString()
  const age = async (prefix: string, version: number, oldest: number, newest: number) => {
    const middle = (oldest + newest) / 2
    for (const [digit, days] of [
      ['', middle],
      ['0', oldest],
      ['1', newest],
    ] as const)
      await app.database.run(
        `update encryption_keys set created_at = $1 where version = ${version} and user_id like '${prefix}-%${digit}'`,
        made(days),
      )
  }
  await age('earlier', 1, 420, 130)
  await age('earlier', 2, 200, 120)
  await age('later', 1, 110, 2)
  await age('later', 2, 40, 1)
}
