/** Conformance: changes, where a store tells of them. */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import type { KeyStore, StoreChange } from '../store.js'
import { at, changeOf, type DefineTest, type Fixture, record, versions } from './fixture.js'

/** The contract's 2 s, and some for a busy machine. */
const PATIENCE_MS = 4000

export function changeTests(test: DefineTest): void {
  const whereTold = (name: string, body: (fixture: Fixture, told: Told) => Promise<void>) =>
    test(name, async (fixture) => {
      const told = await listening(fixture.store)
      if (told === null) return
      try {
        await body(fixture, told)
      } finally {
        told.end()
      }
    })

  whereTold('tells of what the store itself does to rows that a cache may hold', async ({ store }, told) => {
    await store.insertIfAbsent(
      ['rotated', 'pruned', 'shredded', 'forgotten'].flatMap((id) => versions(id, 2)),
    )
    await eachChange(store, told)
  })

  whereTold('tells of what other stores do', async ({ store, reopen }, told) => {
    if (!reopen) return
    const other = await reopen()
    try {
      await store.insertIfAbsent(
        ['rotated', 'pruned', 'shredded', 'forgotten'].flatMap((id) => versions(id, 2)),
      )
      await eachChange(other, told)
    } finally {
      await other.close()
    }
  })

  whereTold('names nobody whose rows no cache can have missed', async ({ store }, told) => {
    const rows = [record('minted'), record('rewrapped')]
    await store.insertIfAbsent(rows)
    await store.replaceWrapped([changeOf(at(rows, 1))])
    await store.insertIfAbsent(rows)
    await store.shred('last', { forget: false })
    await told.of('last')
    const named = told.changes.flatMap(({ userIds }) => userIds ?? [])
    assert.ok(!named.includes('minted') && !named.includes('rewrapped'))
  })

  whereTold('calls nobody who has ended it', async ({ store }, told) => {
    const ended: StoreChange[] = []
    const end = store.changes?.((change) => ended.push(change))
    end?.()
    end?.()
    await store.shred('a', { forget: false })
    await told.of('a')
    assert.deepEqual(ended, [])
  })
}

/** Rotates, prunes, shreds and forgets, and waits for each to be told. */
async function eachChange(store: KeyStore, told: Told): Promise<void> {
  const changes: Record<string, () => Promise<unknown>> = {
    rotated: () => store.insertIfAbsent([record('rotated', { version: 3 })]),
    pruned: () => store.remove([{ userId: 'pruned', version: 1 }]),
    shredded: () => store.shred('shredded', { forget: false }),
    forgotten: () => store.shred('forgotten', { forget: true }),
  }
  for (const [userId, change] of Object.entries(changes)) {
    told.skip()
    await change()
    await told.of(userId)
  }
}

interface Told {
  readonly changes: readonly StoreChange[]
  /** Waits until it was told that rows of a user may have changed, after the last skip. */
  of(userId: string): Promise<void>
  skip(): void
  end(): void
}

/** Null where the store tells nothing, or says that it will not. */
async function listening(store: KeyStore): Promise<Told | null> {
  const changes: StoreChange[] = []
  const end = store.changes?.((change) => changes.push(change))
  if (end === undefined) return null
  let from = 0
  const told: Told = {
    changes,
    end,
    skip() {
      from = changes.length
    },
    async of(userId) {
      const isTold = () =>
        changes
          .slice(from)
          .some(({ userIds, silent }) => silent === undefined && (userIds?.includes(userId) ?? true))
      for (const begun = performance.now(); !isTold(); await sleep(5)) {
        assert.ok(performance.now() - begun < PATIENCE_MS, `nobody was told of ${userId}`)
      }
    },
  }
  // What is told when it begins to listen would count for whatever comes first.
  const isSilent = () => changes.some(({ silent }) => silent !== undefined)
  await store.shred('first', { forget: false })
  await Promise.race([told.of('first'), until(isSilent)])
  if (!isSilent()) return told
  end()
  return null
}

async function until(isSo: () => boolean): Promise<void> {
  for (const begun = performance.now(); !isSo() && performance.now() - begun < PATIENCE_MS; ) await sleep(5)
}
