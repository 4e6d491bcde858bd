/** What a listener of a store's changes was told. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { KeyStore, StoreChange } from '../../src/index.js'

export interface Heard {
  readonly changes: StoreChange[]
  /** Waits for the next change, from those told since the last one waited for, that is as wanted. */
  next(isWanted: (change: StoreChange) => boolean): Promise<StoreChange>
  /** What was told until now is not waited for any more. */
  skip(): void
  end(): void
}

export function listenTo(store: KeyStore): Heard {
  if (store.changes === undefined) throw new Error('the store tells nobody of changes')
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
      throw new Error(`waited in vain; told were ${JSON.stringify(changes)}`)
    },
  }
}

export const isOf =
  (userId: string) =>
  ({ userIds, silent }: StoreChange): boolean =>
    silent === undefined && (userIds === undefined || userIds.includes(userId))
export const isExactly =
  (userId: string) =>
  ({ userIds }: StoreChange): boolean =>
    userIds?.length === 1 && userIds[0] === userId
export const isSilent = ({ silent }: StoreChange): boolean => silent !== undefined
/** Anything may have changed. */
export const isAnything = (change: StoreChange): boolean => JSON.stringify(change) === '{}'
