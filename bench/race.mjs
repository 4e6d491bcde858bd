// Contestants in turn, round by round: on a machine whose speed drifts only what ran side by side can be compared. Each round gives a
// ratio of its own; their median is the figure, and the tenth and ninetieth percentile its spread.

/** How long a contestant runs before the next one's turn. */
const SLICE_MS = 10

/**
 * @typedef {object} Contestant
 * @property {string} name
 * @property {(times: number) => unknown} run does the work that often; may return a promise
 * @property {string} [against] the contestant that it is compared with; without it, it is not compared
 * @property {number} [atMost] the ratio that is wanted
 * @property {number} [atLeast] the same, of what is to be slower
 * @property {Pick<Contestant, 'against' | 'atMost' | 'atLeast'>} [also] what it is compared with besides
 */

/** Work that does not wait. */
export function sync(name, work, more = {}) {
  const run = (times) => {
    for (let i = 0; i < times; i += 1) work()
  }
  return { name, run, ...more }
}

/** Work that is awaited, one after the other. */
export function awaited(name, work, more = {}) {
  const run = async (times) => {
    for (let i = 0; i < times; i += 1) await work()
  }
  return { name, run, ...more }
}

/**
 * Times short work, of which a slice holds as much as fits.
 *
 * @param {Contestant[]} contestants
 * @param {{ rounds: number, sliceMs?: number, ofWall?: boolean }} options `ofWall`: ratios of wall time, where others than this process work too
 * @returns one row each: `{ name, micros, cpuMicros, against?, ratio?: { median, low, high }, atMost? }`
 */
export async function race(contestants, { rounds, sliceMs = SLICE_MS, ofWall = false }) {
  const times = new Map()
  for (const { name, run } of contestants) times.set(name, await timesThatFill(run, sliceMs))
  const [measured, cpu] = [[], []]
  for (let round = 0; round < rounds; round += 1) {
    const [micros, cpuMicros] = [{}, {}]
    // Another one begins each round, so that nobody always runs after the same one.
    for (let i = 0; i < contestants.length; i += 1) {
      const { name, run } = contestants[(i + round) % contestants.length]
      const before = process.cpuUsage()
      micros[name] = (await millis(() => run(times.get(name)))) * (1000 / times.get(name))
      const { user, system } = process.cpuUsage(before)
      cpuMicros[name] = (user + system) / times.get(name)
    }
    measured.push(micros)
    cpu.push(cpuMicros)
  }
  return summarized(contestants, measured, cpu, { ofWall })
}

/**
 * One row a contestant, out of what was measured round by round.
 *
 * @param {Pick<Contestant, 'name' | 'against' | 'atMost' | 'atLeast' | 'also'>[]} contestants
 * @param {Record<string, number>[]} measured microseconds by name, for each round
 * @param {Record<string, number>[]} [cpu] the same of processor time. Ratios are of it, where it is there: others on the machine disturb it less
 * @param {{ ofWall?: boolean }} [options] `ofWall`: ratios are of wall time nevertheless
 */
export function summarized(contestants, measured, cpu, { ofWall = false } = {}) {
  const rounds = ofWall ? measured : (cpu ?? measured)
  const ratioOf = (name, against) => {
    const ratios = rounds.map((round) => round[name] / round[against])
    return { median: quantile(ratios, 0.5), low: quantile(ratios, 0.1), high: quantile(ratios, 0.9) }
  }
  return contestants.flatMap(({ name, against, atMost, atLeast, also }) => {
    const median = (rounds) =>
      quantile(
        rounds.map((round) => round[name]),
        0.5,
      )
    const times = { micros: median(measured), ...(cpu === undefined ? {} : { cpuMicros: median(cpu) }) }
    if (against === undefined) return { name, ...times }
    const row = { name, ...times, against, ratio: ratioOf(name, against), atMost, atLeast }
    return also === undefined ? row : [row, { name, ...also, ratio: ratioOf(name, also.against) }]
  })
}

export async function millis(work) {
  const start = performance.now()
  await work()
  return performance.now() - start
}

/** @returns how long the work took, and how much processor time of this process: `{ wallMs, cpuMs }` */
export async function timed(work) {
  const before = process.cpuUsage()
  const wallMs = await millis(work)
  const { user, system } = process.cpuUsage(before)
  return { wallMs, cpuMs: (user + system) / 1000 }
}

/** Of sorted numbers the one at that share of the way; between two, the nearer to the middle of both. */
export function quantile(numbers, share) {
  const sorted = numbers.toSorted((a, b) => a - b)
  const at = (sorted.length - 1) * share
  const below = sorted[Math.floor(at)]
  return below + (sorted[Math.ceil(at)] - below) * (at - Math.floor(at))
}

/** Also warms the code up: it runs for some slices before the count is taken. */
async function timesThatFill(run, sliceMs) {
  let times = 1
  for (;;) {
    const took = await millis(() => run(times))
    if (took >= sliceMs * 5) return Math.max(1, Math.round((times * sliceMs) / took))
    times = Math.ceil(times * Math.min(10, Math.max(2, (sliceMs * 6) / Math.max(took, 0.01))))
  }
}
