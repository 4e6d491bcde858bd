// What rewrap and sweep have in common: sizes in turn, cost against the smallest, memory that must not grow.
import { summarized } from './race.mjs'

/** Memory is compared from here on: before, buffers and compiled code still grow. */
export const WARM_PAGES = 5

/** The growth wanted at most, from the smallest size to the largest. */
const GROWTH_AT_MOST = 1.2

/**
 * Measures every size on every dialect, all in turn and again each round.
 *
 * @param {(dialect: string, count: number) => Promise<{ micros, cpuMicros, cryptoMicros, ownCryptoMicros?, growthBytes }>} measureOne `cryptoMicros` is of
 *   processor time, `ownCryptoMicros` the same in the core that is measured, if it is another one
 * @param options those of the bench; `toCrypto`: the ratio to the crypto alone that is wanted at most, at the largest size
 * @returns groups by dialect: of each size microseconds, the ratio of its processor time to that of the crypto alone, and the ratio of its wall
 *   time to that of the smallest size, in units of the crypto that was timed beside them
 */
export async function measureSizes(unit, dialects, { sizes, longRounds, progress, toCrypto }, measureOne) {
  const rounds = Object.fromEntries(dialects.map((dialect) => [dialect, []]))
  for (let round = 0; round < longRounds; round += 1) {
    for (const dialect of dialects) {
      const measured = []
      for (const count of sizes) {
        progress(`${dialect}: ${count} ${unit}, round ${round + 1} of ${longRounds}`)
        measured.push(await measureOne(dialect, count))
      }
      rounds[dialect].push(measured)
    }
  }
  return dialects.map((dialect) => ({
    group: dialect,
    rows: sizes.flatMap((count, index) => rowsOf(count, index, unit, sizes, rounds[dialect], toCrypto)),
  }))
}

function rowsOf(count, index, unit, sizes, rounds, toCrypto) {
  const name = `${count.toLocaleString('en')} ${unit}`
  const crypto = 'its crypto alone'
  const measured = rounds.map((round) => ({ [name]: round[index].micros }))
  const cpu = rounds.map((round) => ({ [name]: round[index].cpuMicros, [crypto]: round[index].cryptoMicros }))
  const isLargest = index === sizes.length - 1
  const own = 'its crypto alone, native'
  const hasOwn = rounds.every((round) => round[index].ownCryptoMicros !== undefined)
  for (const [at, round] of rounds.entries()) cpu[at][own] = round[index].ownCryptoMicros
  const [row, ...others] = summarized(
    [
      {
        name,
        against: crypto,
        atMost: isLargest ? toCrypto : undefined,
        ...(hasOwn && { also: { against: own } }),
      },
    ],
    measured,
    cpu,
  )
  const memory = Math.max(...rounds.map((round) => round[index].growthBytes))
  row.more = { 'memory after 5 pages': `+${Math.max(0, Math.round(memory / 2 ** 20))} MiB` }
  if (index === 0) return [row, ...others]
  const [first] = sizes
  const costs = rounds.map((round) => ({
    cost: round[index].micros / round[index].cryptoMicros,
    first: round[0].micros / round[0].cryptoMicros,
  }))
  const [grown] = summarized(
    [{ name: 'cost', against: 'first', atMost: isLargest ? GROWTH_AT_MOST : undefined }],
    costs,
  )
  return [
    row,
    ...others,
    {
      name: `${name}, cost of one`,
      against: `${first.toLocaleString('en')} ${unit}`,
      ratio: grown.ratio,
      atMost: grown.atMost,
    },
  ]
}

/** Follows the memory of the process over the pages of a long work. */
export function growth() {
  let pages = 0
  let warm = 0
  let most = 0
  return {
    page() {
      pages += 1
      const rss = process.memoryUsage.rss()
      if (pages === WARM_PAGES) warm = rss
      if (pages >= WARM_PAGES) most = Math.max(most, rss)
    },
    bytes: () => most - warm,
  }
}
