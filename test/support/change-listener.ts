/** A listener to a store's changes that records them, and lets a test wait for one. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { KeyStore, StoreChange } from '../../src/index.js'

export interface ChangeListener {
  /** All changes that were reported, in order. */
  readonly changes: StoreChange[]
  /** Waits up to 20 s for a change that is wanted, after the last one that was waited for. @throws with all changes, if none comes */
  next(isWanted: (change: StoreChange) => boolean): Promise<StoreChange>
  /** Leaves out the changes until now: {@link next} gives later ones only. */
  skip(): void
  /** Ends the subscription. */
  end(): void
}

export function listenTo(store: KeyStore): ChangeListener {
  if (store.changes === undefined) throw new Error('the store reports no changes')
  const changes: StoreChange[] = []
  const end = store.changes((change) => changes.push(change))
  let at = 0
  return {
    changes,
    end,
    skip() {
      at = changes.length
    },
    async next(isWanted) {
      for (const begun = performance.now(); performance.now() - begun < 20_000; await sleep(5)) {
        while (at < changes.length) {
          const change = changes[at]
          at += 1
          if (change !== undefined && isWanted(change)) return change
        }
      }
      throw new Error(`no such change came; those that came are ${JSON.stringify(changes)}`)
    },
  }
}

/** It may concern the user. */
export const isOf =
  (userId: string) =>
  ({ userIds, silent }: StoreChange): boolean =>
    silent === undefined && (userIds === undefined || userIds.includes(userId))
/** It names the user and nobody else. */
export const isExactly =
  (userId: string) =>
  ({ userIds }: StoreChange): boolean =>
    userIds?.length === 1 && userIds[0] === userId
/** The store says that it cannot report changes. */
export const isSilent = ({ silent }: StoreChange): boolean => silent !== undefined
/** Any row may have changed. */
export const isAnything = (change: StoreChange): boolean => JSON.stringify(change) === '{}'
