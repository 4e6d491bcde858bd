// Checks that a release is what its tag says, and prints what changed in it.
//
//   TAG=v0.2.0 REPOSITORY=https://github.com/… node scripts/check-release.mjs [--notes] [--root FOLDER]
//
// Exits with 1 and names each problem. --notes prints the changelog's section of the version.
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({ options: { notes: { type: 'boolean' }, root: { type: 'string' } } })
const root = values.root ?? join(dirname(fileURLToPath(import.meta.url)), '..')
const { TAG = '', REPOSITORY = '' } = process.env

const { version, repository } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'))
const changelog = readFileSync(join(root, 'CHANGELOG.md'), 'utf8')
/** Each section begins with its title, such as `[0.2.0] - 2026-11-27`. */
const sections = changelog.split(/^## /m).slice(1)
const released = sections.find((section) => section.startsWith(`[${version}] - `))

const problems = []
if (TAG !== `v${version}`) problems.push(`The tag is ${TAG}, and package.json has version ${version}`)
if (lock.version !== version) problems.push(`package-lock.json has version ${lock.version}: run npm install`)
if (released === undefined) problems.push(`CHANGELOG.md has no section [${version}] with a date`)
if (/^\[Unreleased\]\s*\S/.test(sections[0] ?? ''))
  problems.push('CHANGELOG.md has changes under [Unreleased]: move them to the version')
// npm refuses a provenance statement of another repository, after everything else is done.
if (repository?.url !== `git+${REPOSITORY}.git`)
  problems.push(`repository.url in package.json is ${repository?.url}, and this is ${REPOSITORY}`)

for (const problem of problems) console.error(problem)
if (values.notes && released !== undefined) console.log(released.slice(released.indexOf('\n')).trim())
process.exitCode = problems.length > 0 ? 1 : 0
