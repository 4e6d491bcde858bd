/** Conformance: `changes`, if a store offers it. */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import type { KeyStore, StoreChange } from '../store.js'
import { type DefineTest, type Fixture, itemAt, makeChange, makeRecord, makeVersions } from './fixture.js'

/** The 2 s of the contract, doubled for a busy machine. */
const MAX_DELAY_MS = 4000

export function changeTests(test: DefineTest): void {
  const whereOffered = (name: string, body: (fixture: Fixture, recorder: ChangeRecorder) => Promise<void>) =>
    test(name, async (fixture) => {
      const recorder = await recordChanges(fixture.store)
      if (recorder === null) return
      try {
        await body(fixture, recorder)
      } finally {
        recorder.end()
      }
    })

  whereOffered('notifies of its own changes to rows that a cache may hold', async ({ store }, recorder) => {
    await store.insertIfAbsent(
      ['rotated', 'pruned', 'shredded', 'forgotten'].flatMap((id) => makeVersions(id, 2)),
    )
    await expectEachChange(store, recorder)
  })

  whereOffered('notifies of changes by other stores', async ({ store, reopen }, recorder) => {
    if (!reopen) return
    const other = await reopen()
    try {
      await store.insertIfAbsent(
        ['rotated', 'pruned', 'shredded', 'forgotten'].flatMap((id) => makeVersions(id, 2)),
      )
      await expectEachChange(other, recorder)
    } finally {
      await other.close()
    }
  })

  whereOffered('does not announce mints or rewraps of users’ rows', async ({ store }, recorder) => {
    const rows = [makeRecord('minted'), makeRecord('rewrapped')]
    await store.insertIfAbsent(rows)
    await store.replaceWrapped([makeChange(itemAt(rows, 1))])
    await store.insertIfAbsent(rows)
    await store.shred('last', { forget: false })
    await recorder.waitFor('last')
    const named = recorder.changes.flatMap(({ userIds }) => userIds ?? [])
    assert.ok(!named.includes('minted') && !named.includes('rewrapped'))
  })

  whereOffered('does not call a listener that was removed', async ({ store }, recorder) => {
    const ended: StoreChange[] = []
    const end = store.changes?.((change) => ended.push(change))
    end?.()
    end?.()
    await store.shred('a', { forget: false })
    await recorder.waitFor('a')
    assert.deepEqual(ended, [])
  })
}

/** Rotates, prunes, shreds and forgets, and waits for the notification of each. */
async function expectEachChange(store: KeyStore, recorder: ChangeRecorder): Promise<void> {
  const changes: Record<string, () => Promise<unknown>> = {
    rotated: () => store.insertIfAbsent([makeRecord('rotated', { version: 3 })]),
    pruned: () => store.remove([{ userId: 'pruned', version: 1 }]),
    shredded: () => store.shred('shredded', { forget: false }),
    forgotten: () => store.shred('forgotten', { forget: true }),
  }
  for (const [userId, change] of Object.entries(changes)) {
    recorder.reset()
    await change()
    await recorder.waitFor(userId)
    if (userId === 'forgotten') await recorder.waitForForgotten(userId)
  }
}

interface ChangeRecorder {
  readonly changes: readonly StoreChange[]
  /** Waits until a change after the last reset says that rows of this user may have changed. */
  waitFor(userId: string): Promise<void>
  /** Waits, where a change names this user, until one says that the user was forgotten. */
  waitForForgotten(userId: string): Promise<void>
  reset(): void
  end(): void
}

/** @returns null if the store does not notify, or says that it cannot at present */
export async function recordChanges(store: KeyStore): Promise<ChangeRecorder | null> {
  const changes: StoreChange[] = []
  const end = store.changes?.((change) => changes.push(change))
  if (end === undefined) return null
  let from = 0
  const recorder: ChangeRecorder = {
    changes,
    end,
    reset() {
      from = changes.length
    },
    async waitFor(userId) {
      const isNotified = () =>
        changes
          .slice(from)
          .some(({ userIds, silent }) => silent === undefined && (userIds?.includes(userId) ?? true))
      assert.ok(await isTrueInTime(isNotified), `no change was notified for ${userId}`)
    },
    async waitForForgotten(userId) {
      const naming = () => changes.slice(from).filter(({ userIds }) => userIds?.includes(userId))
      const isTold = () => naming().length === 0 || naming().some(({ forgotten }) => forgotten === true)
      assert.ok(await isTrueInTime(isTold), `no change says that ${userId} was forgotten`)
    },
  }
  // A store may notify once when it begins to listen. That must not count for the first change of a test.
  const isSilent = () => changes.some(({ silent }) => silent !== undefined)
  await store.shred('first', { forget: false })
  await Promise.race([recorder.waitFor('first'), isTrueInTime(isSilent)])
  if (!isSilent()) return recorder
  end()
  return null
}

/** Polls the condition. @returns false if it is still not true after the longest delay */
async function isTrueInTime(condition: () => boolean): Promise<boolean> {
  const start = performance.now()
  while (!condition()) {
    if (performance.now() - start >= MAX_DELAY_MS) return false
    await sleep(5)
  }
  return true
}
