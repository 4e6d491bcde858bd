/** A test runner for every JavaScript runtime: it collects tests, and runs them one after the other. */

/** @returns the functions that the suites take, and `run` */
export function newRunner() {
  const tests = []
  let group = { name: '', parent: null, before: [], after: [] }
  return {
    describe(name, body) {
      const parent = group
      group = { name: parent.name === '' ? name : `${parent.name} > ${name}`, parent, before: [], after: [] }
      body()
      group = parent
    },
    it: (name, body) => void tests.push({ group, name, body }),
    beforeEach: (hook) => void group.before.push(hook),
    afterEach: (hook) => void group.after.push(hook),
    /** @returns how many passed, and what failed */
    async run({ from = 0, count = Number.POSITIVE_INFINITY } = {}) {
      let passed = 0
      const failed = []
      for (const test of tests.slice(from, from + count)) {
        try {
          await runOne(test)
          passed += 1
        } catch (error) {
          failed.push({
            name: `${test.group.name} > ${test.name}`,
            error: String(error?.stack ?? error).slice(0, 2000),
          })
        }
      }
      return { passed, failed, total: tests.length }
    },
  }
}

async function runOne({ group, body }) {
  const groups = []
  for (let current = group; current !== null; current = current.parent) groups.unshift(current)
  for (const { before } of groups) for (const hook of before) await hook()
  let failure = null
  await withTimeout(body()).catch((error) => {
    failure = error
  })
  for (const { after } of groups.reverse()) for (const hook of after) await hook()
  if (failure !== null) throw failure
}

const TIMEOUT_MS = 60_000

async function withTimeout(work) {
  let timer
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${TIMEOUT_MS} ms`)), TIMEOUT_MS)
  })
  try {
    return await Promise.race([work, timeout])
  } finally {
    clearTimeout(timer)
  }
}
