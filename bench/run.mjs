// Measures everything and prints it; see README.md. Each part runs in a process of its own, one after the other.
import { fork } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { startPostgres } from './databases.mjs'
import { describeMachine } from './machine.mjs'
import { asMarkdown, machineLine, wantedTable } from './markdown.mjs'
import { PARTS } from './parts.mjs'

const { values } = parseArgs({
  options: {
    parts: { type: 'string', default: PARTS.join(',') },
    rounds: { type: 'string', default: '31' },
    'long-rounds': { type: 'string', default: '3' },
    sizes: { type: 'string', default: '10000,100000' },
    quick: { type: 'boolean', default: false },
    postgres: { type: 'string' },
    json: { type: 'string' },
    save: { type: 'boolean', default: false },
  },
})
const names = values.parts.split(',')
const unknown = names.find((name) => !PARTS.includes(name))
if (unknown !== undefined) throw new Error(`There is no part ${unknown}: take some of ${PARTS.join(', ')}`)

const file = values.save
  ? fileURLToPath(
      new URL(`../docs/benchmarks/node-${process.versions.node.split('.')[0]}.json`, import.meta.url),
    )
  : values.json
const postgres = await startPostgres(values.postgres)
try {
  const options = {
    rounds: values.quick ? 5 : Number(values.rounds),
    longRounds: values.quick ? 1 : Number(values['long-rounds']),
    sizes: values.quick ? [2000, 10_000] : values.sizes.split(',').map(Number),
    isQuick: values.quick,
    postgresUrl: postgres.url,
  }
  const machine = await describeMachine(postgres.url)
  console.log(`${machineLine(machine)}\n`)
  // What is saved can be measured part by part.
  const saved = values.save && existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).parts : {}
  const result = { machine, parts: saved }
  for (const name of names) {
    const { postgresUrl: _, ...said } = options
    result.parts[name] = { ...(await measured(name, options)), options: said }
    console.log(asMarkdown(result.parts[name]))
    // As it goes: what was measured is not lost with a part that fails.
    if (file !== undefined) writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`)
  }
  const measuredNow = Object.fromEntries(names.map((name) => [name, result.parts[name]]))
  console.log(`### What was wanted\n\n${wantedTable(measuredNow)}`)
} finally {
  await postgres.stop()
}
if (values.save) await import('./report.mjs')

function measured(name, options, attempts = 3) {
  return new Promise((resolve, reject) => {
    // The URL has a password: not into the arguments, which everybody on the machine can read.
    // With JavaScript's core, unless the variable says otherwise: parts that have rows of the native one load it themselves.
    const env = { ...process.env, KEYSTORE_NATIVE: process.env.KEYSTORE_NATIVE ?? '0' }
    const child = fork(new URL('./part.mjs', import.meta.url), [name], { execArgv: ['--expose-gc'], env })
    let part
    child.on('message', (message) => {
      part = message
    })
    child.on('exit', (code, signal) => {
      if (part !== undefined) resolve(part)
      else if (signal !== null && attempts > 1) {
        process.stderr.write(`${name}: ended by ${signal}, once more\n`)
        resolve(measured(name, options, attempts - 1))
      } else reject(new Error(`Part ${name} ended with ${signal ?? `code ${code}`}`))
    })
    child.send(options)
  })
}
