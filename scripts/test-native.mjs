// Builds native/ and runs the tests that concern it.
//
//   npm run test:native                      with the build that is published
//   npm run test:native -- --sanitize        with AddressSanitizer, then with UndefinedBehaviorSanitizer (GCC or Clang, on Linux)
//   npm run test:native -- --no-build        with what is linked already, such as native/prebuilds
//   npm run test:native -- -t wraps          further arguments are vitest's
//   SLOW=1 npm run test:native               with large counts
//
// The addon stays linked afterwards, as the build that is published: node scripts/build-native.mjs --unlink ends that.
import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(fileURLToPath(new URL('.', import.meta.url)), '..')
const OWN = ['--sanitize', '--no-build']
const [isSanitized, isBuilt] = OWN.map((option) => process.argv.includes(option))
const more = process.argv.slice(2).filter((argument) => !OWN.includes(argument))

/** V8 never frees much of what it has when a process ends, and LeakSanitizer would report it: native-process.test.ts looks for leaks. */
const ASAN_OPTIONS = 'detect_leaks=0:abort_on_error=1'
const SANITIZERS = {
  // Node.js itself is not built with it, so its library has to be there first.
  address: () => ({ ASAN_OPTIONS, LD_PRELOAD: libraryOf('libasan.so') }),
  undefined: () => ({ UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1' }),
}

let status = 0
if (isSanitized) for (const [name, environment] of Object.entries(SANITIZERS)) run(name, environment())
if (!isBuilt) build()
if (!isSanitized) test({})
process.exitCode = status

function run(sanitizer, environment) {
  console.log(`With ${sanitizer === 'address' ? 'AddressSanitizer' : 'UndefinedBehaviorSanitizer'}:`)
  build('--sanitizer', sanitizer)
  test(environment)
}

function build(...options) {
  execFileSync(process.execPath, [join(root, 'scripts', 'build-native.mjs'), ...options], {
    stdio: 'inherit',
  })
}

function test(environment) {
  execFileSync(process.execPath, [join(root, 'scripts', 'build.mjs')], { stdio: 'inherit' })
  const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs')
  const env = { ...process.env, KEYSTORE_NATIVE: '1', ...environment }
  const node = (...words) =>
    spawnSync(process.execPath, words, { cwd: root, stdio: 'inherit', env }).status ?? 1
  // Tests of an addon that cannot be used are skipped. In a process of its own: with a sanitizer it loads only where the sanitizer's library is.
  status ||=
    node('scripts/assert-native.mjs') || node(vitest, 'run', '--config', 'vitest.native.config.ts', ...more)
}

/** Where the compiler has a library of its own. */
function libraryOf(name) {
  return execFileSync(process.env.CXX ?? 'g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim()
}
