/** Splits calls with many ids or rows, so that timers and sockets of the process are served in between. */
import { nextTurn } from '../event-loop.js'

/** SQLite works on so many for about 10 ms, and drivers of Postgres decode as many in less. The contract of KeyStore reads as many at once. */
const PART = 1000

/** Works on a list part by part, and puts the results together. */
export async function inTurns<Item, Result>(
  items: readonly Item[],
  work: (part: readonly Item[]) => Promise<readonly Result[]>,
): Promise<Result[]> {
  const results: Result[] = []
  for (let at = 0; at < items.length; at += PART) {
    for (const result of await work(items.slice(at, at + PART))) results.push(result)
    // Whatever the clock says: it is first looked at when a part of the work is done.
    if (at + PART < items.length) await nextTurn()
  }
  return results
}
