// Runs at the installation: takes the prebuilt addon for this platform, or compiles it. Without either it says so and succeeds, since
// drizzle-keystore goes on in JavaScript.
const { spawnSync } = require('node:child_process')

/** Whether the addon can be loaded as it is. */
function isThere() {
  try {
    require('./index.js')
    return true
  } catch {
    return false
  }
}

function compile() {
  // npm puts its own node-gyp into the PATH of scripts. On Windows it is a command file, which only a shell starts.
  const { status } = spawnSync('node-gyp', ['rebuild'], {
    cwd: __dirname,
    stdio: 'inherit',
    shell: process.platform === 'win32',
  })
  return status === 0 && isThere()
}

if (!isThere() && !compile()) {
  const { platform, arch, version } = process
  console.warn(
    `@drizzle-keystore/native: there is no prebuilt addon for ${platform} ${arch}, Node.js ${version}, and it could not be compiled (it takes a compiler of C++17, make and Python). ` +
      'Nothing is broken: drizzle-keystore works in JavaScript, and its event nativeCore says so. To try again: npm rebuild @drizzle-keystore/native',
  )
}
