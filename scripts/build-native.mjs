// Compiles native/ for the Node.js that runs this, and links it as node_modules/@drizzle-keystore/native, so that everything here uses it.
//
//   node scripts/build-native.mjs [--limit] [--sanitizer address|undefined] [--link | --unlink]
//
// --link only links what is there, such as prebuilds/. --limit adds the loops that bench/ compares with; --sanitizer makes a build for scripts/test-native.mjs; --unlink ends the use. It takes a
// compiler, make and Python. The headers are those beside the running Node.js, or else node-gyp downloads them.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, rmSync, symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const native = join(root, 'native')
const link = join(root, 'node_modules', '@drizzle-keystore', 'native')

const { values } = parseArgs({
  options: {
    limit: { type: 'boolean' },
    sanitizer: { type: 'string' },
    link: { type: 'boolean' },
    unlink: { type: 'boolean' },
  },
})
rmSync(link, { force: true })
if (!values.link && !values.unlink) build()
if (!values.unlink) {
  mkdirSync(dirname(link), { recursive: true })
  symlinkSync(join('..', '..', 'native'), link, 'junction')
  console.log('native/ is linked as node_modules/@drizzle-keystore/native.')
}

function build() {
  const run = (command, ...args) => execFileSync(command, args, { cwd: native, stdio: 'inherit' })
  if (!existsSync(join(native, 'node_modules', 'node-gyp')))
    run('npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund')
  const headers = join(dirname(process.execPath), '..')
  const hasHeaders = existsSync(join(headers, 'include', 'node', 'node_api.h'))
  const nodeGyp = join(native, 'node_modules', 'node-gyp', 'bin', 'node-gyp.js')
  const variables = [
    ...(values.limit ? ['-Dkeystore_limit=1'] : []),
    ...(values.sanitizer ? [`-Dkeystore_sanitizer=${values.sanitizer}`] : []),
  ]
  run(
    process.execPath,
    nodeGyp,
    'rebuild',
    '--loglevel=error',
    ...(hasHeaders ? [`--nodedir=${headers}`] : []),
    '--',
    ...variables,
  )
}
